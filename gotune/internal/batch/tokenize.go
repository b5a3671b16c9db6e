package batch

import (
	"context"
	"fmt"
	"slices"
)

// An Encoder is the part of a tokenizer that this package needs;
// *token.Tokenizer is one.
type Encoder interface {
	// Encode returns text's ids. Special tokens written in the text become
	// their ids; addSpecial also applies the tokenizer's own template (for
	// Llama: the begin-of-sequence token in front).
	Encode(text string, addSpecial bool) []int32

	// BOS is the begin-of-sequence id, if the tokenizer has one.
	BOS() (id int32, ok bool)

	// EOS is the end-of-sequence id, if the tokenizer has one.
	EOS() (id int32, ok bool)
}

// Options say how texts become examples. The zero value is the right default,
// without a length limit.
type Options struct {
	// MaxSeqLength clips rows on the right, in tokens. 0 means no limit.
	MaxSeqLength int

	// Parity repeats the walkthrough bug for bug: every end-of-sequence label is
	// masked (its padding token was the end-of-sequence token, and its collator
	// masks padding by id), and the begin-of-sequence tokens of text and
	// tokenizer both stay.
	Parity bool

	// AppendEOS adds the end-of-sequence token to rows that do not end with it,
	// before clipping, for texts that were not made with a prompt template.
	AppendEOS bool
}

// A Set is a tokenized data set with the counts a user should see.
type Set struct {
	Examples []Example

	Rows    int // texts read
	Clipped int // rows longer than MaxSeqLength, cut there
	Skipped int // rows with fewer than two tokens: nothing to predict (kept in parity mode)

	Tokens     int // tokens of all examples
	Supervised int // predictions that enter the loss
	EOS        int // of those, predictions of the end-of-sequence token
	Longest    int // tokens of the longest row before clipping
}

// A NoEOSError refuses a data set that would never teach the model to stop: no
// label is the end-of-sequence token.
type NoEOSError struct {
	Rows    int   // rows looked at
	Clipped int   // rows that were cut at the length limit, losing their end
	Limit   int   // that limit, 0 for none
	EOS     int32 // the id looked for; -1 if the tokenizer has none
}

// Error says what was found, what is wanted, and what to do.
func (e *NoEOSError) Error() string {
	if e.EOS < 0 {
		return "batch: the tokenizer has no end-of-sequence token, so the model can't learn to stop: add eos_token to tokenizer_config.json"
	}
	if e.Clipped == e.Rows {
		return fmt.Sprintf("batch: all %d rows are longer than MaxSeqLength %d, so each lost its end-of-sequence token (id %d) and the model can't learn to stop: raise MaxSeqLength or shorten the rows", e.Rows, e.Limit, e.EOS)
	}
	return fmt.Sprintf("batch: none of %d rows (%d clipped) teaches the end-of-sequence token (id %d), so the model can't learn to stop: end each row's text with it (Llama-2 form: \"<s>[INST] … [/INST] … </s>\"), or set Parity to train as the original walkthrough did", e.Rows, e.Clipped, e.EOS)
}

// Tokenize turns texts into examples. progress, if not nil, is called now and
// then with the number of rows done. It returns a [*NoEOSError] when no example
// supervises the end-of-sequence token (never in parity mode), and an error for
// an empty data set or a cancelled ctx.
func Tokenize(ctx context.Context, texts []string, enc Encoder, o Options, progress func(done, total int)) (*Set, error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("batch: the data set has no rows: check its source and split")
	}
	if o.MaxSeqLength != 0 && o.MaxSeqLength < 2 {
		return nil, fmt.Errorf("batch: MaxSeqLength is %d, wanted at least 2 (one token to read, one to predict), or 0 for no limit", o.MaxSeqLength)
	}
	eos, hasEOS := enc.EOS()
	s := &Set{Rows: len(texts)}
	for i, text := range texts {
		if i%64 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("batch: tokenizing stopped at row %d of %d: %w", i, len(texts), err)
			}
			if progress != nil {
				progress(i, len(texts))
			}
		}
		ids := encode(text, enc, o)
		s.Longest = max(s.Longest, len(ids))
		if o.MaxSeqLength > 0 && len(ids) > o.MaxSeqLength {
			ids = slices.Clip(ids[:o.MaxSeqLength])
			s.Clipped++
		}
		if len(ids) == 0 || len(ids) < 2 && !o.Parity {
			s.Skipped++
			continue
		}
		s.add(Example{IDs: ids, Labels: labels(ids, eos, o.Parity && hasEOS)}, eos, hasEOS)
	}
	if progress != nil {
		progress(len(texts), len(texts))
	}
	return s, s.check(o, eos, hasEOS)
}

// encode applies the tokenizer and, outside parity mode, drops the tokenizer's
// begin-of-sequence token where the text brings its own.
func encode(text string, enc Encoder, o Options) []int32 {
	ids := enc.Encode(text, true)
	if bos, ok := enc.BOS(); ok && !o.Parity {
		for len(ids) > 1 && ids[0] == bos && ids[1] == bos {
			ids = ids[1:]
		}
	}
	if eos, ok := enc.EOS(); ok && o.AppendEOS && (len(ids) == 0 || ids[len(ids)-1] != eos) {
		ids = append(slices.Clip(ids), eos)
	}
	return ids
}

// labels copies ids; with hideEOS, as a collator does that masks padding by id
// while the padding id is the end-of-sequence id.
func labels(ids []int32, eos int32, hideEOS bool) []int32 {
	out := slices.Clone(ids)
	if hideEOS {
		for i, id := range out {
			if id == eos {
				out[i] = Ignore
			}
		}
	}
	return out
}

func (s *Set) add(e Example, eos int32, hasEOS bool) {
	s.Examples = append(s.Examples, e)
	s.Tokens += len(e.IDs)
	for _, l := range e.Labels[1:] {
		if l == Ignore {
			continue
		}
		s.Supervised++
		if hasEOS && l == eos {
			s.EOS++
		}
	}
}

func (s *Set) check(o Options, eos int32, hasEOS bool) error {
	if s.Supervised == 0 {
		return fmt.Errorf("batch: none of %d rows has a token to learn: the texts are empty; check the text column", s.Rows)
	}
	if o.Parity || s.EOS > 0 {
		return nil
	}
	if !hasEOS {
		eos = -1
	}
	return &NoEOSError{Rows: s.Rows, Clipped: s.Clipped, Limit: o.MaxSeqLength, EOS: eos}
}
