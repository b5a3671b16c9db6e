package token

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A preTokenizer splits pieces of text into smaller ones; merges never cross
// from one to the next. It may reuse the slice.
type preTokenizer interface{ split([]piece) []piece }

// metaspace writes spaces as "▁" and puts one in front, as sentencepiece does.
type metaspace struct {
	mark   string // "▁"
	scheme string // "always", "first" (only where the text starts) or "never"
	cut    bool   // split before each mark
}

func (m metaspace) split(ps []piece) []piece {
	var out []piece
	for _, p := range ps {
		p.text = strings.ReplaceAll(p.text, " ", m.mark)
		if p.text != "" && !strings.HasPrefix(p.text, m.mark) && (m.scheme == "always" || m.scheme == "first" && p.first) {
			p.text = m.mark + p.text
		}
		if !m.cut {
			out = append(out, p)
			continue
		}
		mark := pattern{text: m.mark}
		out = appendSplit(out, p, mark.find(p.text), "MergedWithNext", false)
	}
	return out
}

// splitter cuts the text at the matches of a pattern.
type splitter struct {
	pattern  pattern
	behavior string // what becomes of the matches, as tokenizers' SplitDelimiterBehavior
	invert   bool   // what lies between the matches counts as match
}

func (c splitter) split(ps []piece) []piece {
	var out []piece
	for _, p := range ps {
		if c.pattern.fast != nil && c.behavior == "Isolated" {
			out = appendFast(out, p, c.pattern.fast)
			continue
		}
		out = appendSplit(out, p, c.pattern.find(p.text), c.behavior, c.invert)
	}
	return out
}

// appendFast appends the parts that next cuts off the front of p, one by one.
func appendFast(out []piece, p piece, next func(string) int) []piece {
	first := p.first
	for s := p.text; s != ""; {
		n := next(s)
		out = append(out, piece{text: s[:n], id: -1, first: first})
		s = s[n:]
		first = false
	}
	return out
}

// digits cuts numbers off, each digit alone or runs of them.
type digits struct{ individual bool }

func (d digits) split(ps []piece) []piece {
	behavior := "Contiguous"
	if d.individual {
		behavior = "Isolated"
	}
	var out []piece
	for _, p := range ps {
		var found [][2]int
		for i, r := range p.text {
			if unicode.IsNumber(r) {
				found = append(found, [2]int{i, i + utf8.RuneLen(r)})
			}
		}
		out = appendSplit(out, p, found, behavior, false)
	}
	return out
}

// leadingSpace puts a space in front of each piece that has none (ByteLevel's
// add_prefix_space).
type leadingSpace struct{}

func (leadingSpace) split(ps []piece) []piece {
	for i, p := range ps {
		if p.text != "" && p.text[0] != ' ' {
			ps[i].text = " " + p.text
		}
	}
	return ps
}

// span is a part of a text and whether the pattern matched it.
type span struct {
	start, end int
	match      bool
}

// appendSplit appends the parts of p. The behaviours are those of tokenizers:
// Removed drops matches, Isolated makes each a part, MergedWithPrevious and
// MergedWithNext join each to its neighbour, Contiguous joins neighbouring
// matches. Parts that are empty are dropped.
func appendSplit(out []piece, p piece, found [][2]int, behavior string, invert bool) []piece {
	spans := make([]span, 0, 2*len(found)+1)
	done := 0
	for _, f := range found {
		if f[0] > done {
			spans = append(spans, span{done, f[0], invert})
		}
		spans = append(spans, span{f[0], f[1], !invert})
		done = f[1]
	}
	if done < len(p.text) {
		spans = append(spans, span{done, len(p.text), invert})
	}
	for _, s := range joinSpans(spans, behavior) {
		if s.end > s.start && !(behavior == "Removed" && s.match) {
			out = append(out, piece{text: p.text[s.start:s.end], id: -1, first: p.first && s.start == 0})
		}
	}
	return out
}

// joinSpans joins spans as the behaviour asks.
func joinSpans(spans []span, behavior string) []span {
	out := spans[:0:0]
	switch behavior {
	case "MergedWithPrevious", "Contiguous":
		prev := false
		for _, s := range spans {
			join := s.match && !prev
			if behavior == "Contiguous" {
				join = s.match == prev
			}
			if n := len(out); join && n > 0 {
				out[n-1].end = s.end
			} else {
				out = append(out, s)
			}
			prev = s.match
		}
	case "MergedWithNext":
		next := false
		for i := len(spans) - 1; i >= 0; i-- {
			s := spans[i]
			if n := len(out); s.match && !next && n > 0 {
				out[n-1].start = s.start
			} else {
				out = append(out, s)
			}
			next = s.match
		}
		for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
			out[i], out[j] = out[j], out[i]
		}
	default: // Isolated, Removed
		return spans
	}
	return out
}
