package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxNesting bounds Sequences within Sequences.
const maxNesting = 20

// flatten calls f on each component that is not a Sequence, in order.
func flatten(c *component, depth int, children func(*component) []component, f func(*component) error) error {
	if c == nil {
		return nil
	}
	if c.Type != "Sequence" {
		return f(c)
	}
	if depth > maxNesting {
		return fmt.Errorf("sequences are nested more than %d deep", maxNesting)
	}
	list := children(c)
	for i := range list {
		if err := flatten(&list[i], depth+1, children, f); err != nil {
			return err
		}
	}
	return nil
}

func buildNormalizers(c *component) (out []normalizer, err error) {
	forms := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}
	err = flatten(c, 0, func(c *component) []component { return c.Normalizers }, func(c *component) error {
		switch c.Type {
		case "Prepend":
			out = append(out, prepend(c.Prepend))
		case "Replace":
			p, err := c.Pattern.compile()
			if err != nil {
				return err
			}
			if p.re == nil && p.text == "" {
				return errors.New("in Replace: the pattern is empty")
			}
			out = append(out, replace{p, c.Content})
		case "NFC", "NFD", "NFKC", "NFKD":
			out = append(out, unicodeForm(forms[c.Type]))
		case "Strip":
			out = append(out, stripSpace{orTrue(c.StripLeft), orTrue(c.StripRight)})
		default:
			return fmt.Errorf("type %q is not supported: Prepend, Replace, NFC, NFD, NFKC, NFKD, Strip and Sequence are", c.Type)
		}
		return nil
	})
	return out, err
}

func orTrue(b *bool) bool { return b == nil || *b }

func (t *Tokenizer) buildPreTokenizers(c *component) error {
	return flatten(c, 0, func(c *component) []component { return c.PreTokenizers }, func(c *component) error {
		if t.byteLevel {
			return fmt.Errorf("type %q follows ByteLevel, which must be the last step", c.Type)
		}
		switch c.Type {
		case "Metaspace":
			m, err := c.metaspace()
			if err != nil {
				return err
			}
			m.cut = orTrue(c.Split)
			t.split = append(t.split, m)
		case "Split":
			return t.addSplit(c)
		case "Digits":
			t.split = append(t.split, digits{c.IndividualDigits})
		case "ByteLevel":
			if orTrue(c.AddPrefixSpace) {
				t.split = append(t.split, leadingSpace{})
			}
			if orTrue(c.UseRegex) {
				p, err := compilePattern(gpt2Pattern)
				if err != nil {
					return err
				}
				t.split = append(t.split, splitter{pattern: p, behavior: "Isolated"})
			}
			t.byteLevel = true
		default:
			return fmt.Errorf("type %q is not supported: Metaspace, Split, Digits, ByteLevel and Sequence are", c.Type)
		}
		return nil
	})
}

func (t *Tokenizer) addSplit(c *component) error {
	switch c.Behavior {
	case "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous":
	default:
		return fmt.Errorf("in Split: behavior %q is not known", c.Behavior)
	}
	p, err := c.Pattern.compile()
	if err != nil {
		return fmt.Errorf("in Split: %w", err)
	}
	t.split = append(t.split, splitter{p, c.Behavior, c.Invert})
	return nil
}

// metaspace reads the fields that the pre-tokenizer and the decoder share. Older
// files have add_prefix_space in place of prepend_scheme.
func (c *component) metaspace() (metaspace, error) {
	m := metaspace{mark: c.Replacement, scheme: "always"}
	if utf8.RuneCountInString(m.mark) != 1 {
		return m, fmt.Errorf("in Metaspace: replacement %q is not one character", clip(m.mark))
	}
	if c.PrependScheme != nil {
		m.scheme = *c.PrependScheme
	} else if c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
		m.scheme = "never"
	}
	switch m.scheme {
	case "always", "first", "never":
		return m, nil
	}
	return m, fmt.Errorf(`in Metaspace: prepend_scheme %q is not "always", "first" or "never"`, m.scheme)
}

func buildDecoders(c *component) (out []decoder, err error) {
	err = flatten(c, 0, func(c *component) []component { return c.Decoders }, func(c *component) error {
		switch c.Type {
		case "Replace":
			p, err := c.Pattern.compile()
			if err != nil {
				return err
			}
			if p.re == nil && p.text == "" {
				return errors.New("in Replace: the pattern is empty")
			}
			out = append(out, replaceDecoder{replace{p, c.Content}})
		case "ByteFallback":
			out = append(out, byteFallbackDecoder{})
		case "Fuse":
			out = append(out, fuseDecoder{})
		case "Strip":
			r, n := utf8.DecodeRuneInString(c.Content)
			if n == 0 || n != len(c.Content) || c.Start < 0 || c.Stop < 0 {
				return fmt.Errorf("in Strip: want one character and counts of 0 or more, found %q, %d, %d", clip(c.Content), c.Start, c.Stop)
			}
			out = append(out, stripDecoder{r, c.Start, c.Stop})
		case "ByteLevel":
			out = append(out, byteLevelDecoder{})
		case "Metaspace":
			m, err := c.metaspace()
			if err != nil {
				return err
			}
			out = append(out, metaspaceDecoder{m.mark, m.scheme != "never"})
		default:
			return fmt.Errorf("type %q is not supported: Replace, ByteFallback, Fuse, Strip, ByteLevel, Metaspace and Sequence are", c.Type)
		}
		return nil
	})
	return out, err
}

// buildPostProcessor sets the ids that addSpecial adds.
func (t *Tokenizer) buildPostProcessor(c *component) error {
	return flatten(c, 0, func(c *component) []component { return c.Processors }, func(c *component) error {
		switch c.Type {
		case "ByteLevel": // changes offsets only
			return nil
		case "TemplateProcessing":
			return t.addTemplate(c)
		}
		return fmt.Errorf("type %q is not supported: TemplateProcessing, ByteLevel and Sequence are", c.Type)
	})
}

// addTemplate adds the special tokens of a TemplateProcessing's "single".
func (t *Tokenizer) addTemplate(c *component) error {
	special := map[string]struct {
		IDs []int32 `json:"ids"`
	}{}
	if !isNull(c.SpecialTokens) {
		if err := json.Unmarshal(c.SpecialTokens, &special); err != nil {
			return fmt.Errorf("TemplateProcessing: special_tokens: %w", err)
		}
	}
	var before, after []int32
	seen := false
	for _, part := range c.Single {
		switch {
		case part.Sequence != nil:
			if seen || part.Sequence.ID != "A" {
				return errors.New(`TemplateProcessing: "single" must hold sequence A once`)
			}
			seen = true
		case part.SpecialToken != nil:
			s, ok := special[part.SpecialToken.ID]
			if !ok {
				return fmt.Errorf("TemplateProcessing: special token %q is not in special_tokens", clip(part.SpecialToken.ID))
			}
			for _, id := range s.IDs {
				if !t.has(id) {
					return fmt.Errorf("TemplateProcessing: special token %q has id %d, which is not in the vocabulary", clip(part.SpecialToken.ID), id)
				}
			}
			if seen {
				after = append(after, s.IDs...)
			} else {
				before = append(before, s.IDs...)
			}
		default:
			return errors.New(`TemplateProcessing: a part of "single" is neither SpecialToken nor Sequence`)
		}
	}
	if !seen {
		return errors.New(`TemplateProcessing: "single" does not hold sequence A`)
	}
	t.prefix = append(before, t.prefix...)
	t.suffix = append(t.suffix, after...)
	return nil
}

// firstSpecial names the special token that a template puts in front of the text,
// which is a BOS.
func (c *component) firstSpecial() (name string) {
	_ = flatten(c, 0, func(c *component) []component { return c.Processors }, func(c *component) error {
		if c.Type == "TemplateProcessing" && name == "" && len(c.Single) > 0 && c.Single[0].SpecialToken != nil {
			name = c.Single[0].SpecialToken.ID
		}
		return nil
	})
	return name
}
