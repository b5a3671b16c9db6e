package batch

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
)

// A Packing is a way to fill rows of a fixed length with short documents.
type Packing string

// The packings of TRL. In all but ConstantLength the labels keep their
// documents' values; [Collator] masks the first token of each piece.
const (
	// BFD is best-fit decreasing: documents, cut to the length, are placed
	// longest first, each into the row that it fills best ("Fewer Truncations
	// Improve Language Modeling", arXiv:2404.10830). Nothing is split.
	BFD Packing = "bfd"

	// BFDSplit is BFD with longer documents split in pieces instead of cut.
	BFDSplit Packing = "bfd_split"

	// Wrapped joins all documents and cuts every length tokens; the last row may
	// be short.
	Wrapped Packing = "wrapped"

	// ConstantLength is the rule of TRL's old ConstantLengthDataset: append the
	// end-of-sequence token to each document, join, keep full rows only.
	ConstantLength Packing = "constant_length"
)

// PackOptions say how [Pack] fills rows.
type PackOptions struct {
	Strategy Packing // default BFD
	Length   int     // tokens in a row

	// EOS is what ConstantLength puts after each document.
	EOS int32

	// MaskEOS gives that token the label Ignore (parity mode).
	MaskEOS bool

	// CrossDocuments leaves no piece boundaries: attention and positions run
	// across documents, as Wrapped and ConstantLength did in TRL.
	CrossDocuments bool
}

// Pack fills rows with the examples. It returns the rows and the number of
// tokens that found no place (cut by BFD, the remainder in ConstantLength).
func Pack(examples []Example, o PackOptions) (rows []Example, dropped int, err error) {
	if o.Length < 2 {
		return nil, 0, fmt.Errorf("batch: packing into rows of %d tokens: wanted at least 2; set MaxSeqLength", o.Length)
	}
	total := 0
	for i := range examples {
		if len(examples[i].IDs) != len(examples[i].Labels) {
			return nil, 0, fmt.Errorf("batch: example %d has %d ids but %d labels", i, len(examples[i].IDs), len(examples[i].Labels))
		}
		total += len(examples[i].IDs)
	}
	switch o.Strategy {
	case BFD, "":
		rows = packBFD(truncated(examples, o.Length), o.Length)
	case BFDSplit:
		rows = packBFD(split(examples, o.Length), o.Length)
	case Wrapped:
		rows = wrap(examples, o.Length)
	case ConstantLength:
		rows = wrap(ended(examples, o.EOS, o.MaskEOS), o.Length)
		total += len(examples)
		if n := len(rows); n > 0 && len(rows[n-1].IDs) < o.Length {
			rows = rows[:n-1]
		}
	default:
		return nil, 0, fmt.Errorf("batch: unknown packing %q: wanted %q, %q, %q or %q", o.Strategy, BFD, BFDSplit, Wrapped, ConstantLength)
	}
	if len(rows) == 0 {
		return nil, 0, fmt.Errorf("batch: %d examples with %d tokens fill no row of %d: use a smaller MaxSeqLength or no packing", len(examples), total, o.Length)
	}
	for i := range rows {
		total -= len(rows[i].IDs)
		if o.CrossDocuments {
			rows[i].Pieces = nil
		}
	}
	return rows, total, nil
}

func slice(e *Example, from, to int) Example {
	return Example{IDs: e.IDs[from:to:to], Labels: e.Labels[from:to:to]}
}

func truncated(examples []Example, length int) []Example {
	var out []Example
	for i := range examples {
		if n := len(examples[i].IDs); n > 0 {
			out = append(out, slice(&examples[i], 0, min(n, length)))
		}
	}
	return out
}

func split(examples []Example, length int) []Example {
	var out []Example
	for i := range examples {
		for at, n := 0, len(examples[i].IDs); at < n; at += length {
			out = append(out, slice(&examples[i], at, min(at+length, n)))
		}
	}
	return out
}

func ended(examples []Example, eos int32, mask bool) []Example {
	label := eos
	if mask {
		label = Ignore
	}
	out := make([]Example, len(examples))
	for i, e := range examples {
		out[i] = Example{IDs: append(slices.Clip(e.IDs), eos), Labels: append(slices.Clip(e.Labels), label)}
	}
	return out
}

func join(row *Example, e Example) {
	row.IDs = append(row.IDs, e.IDs...)
	row.Labels = append(row.Labels, e.Labels...)
	row.Pieces = append(row.Pieces, len(e.IDs))
}

// wrap joins the examples and cuts every length tokens.
func wrap(examples []Example, length int) []Example {
	var rows []Example
	free := 0
	for i := range examples {
		for at, n := 0, len(examples[i].IDs); at < n; {
			if free == 0 {
				rows, free = append(rows, Example{}), length
			}
			k := min(free, n-at)
			join(&rows[len(rows)-1], slice(&examples[i], at, at+k))
			at, free = at+k, free-k
		}
	}
	return rows
}

// packBFD places pieces of at most length tokens, longest first (equal lengths
// in their order), each into the row with the least sufficient space; among rows
// of equal space the one that has had it longest.
func packBFD(pieces []Example, length int) []Example {
	order := make([]int, len(pieces))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(len(pieces[b].IDs), len(pieces[a].IDs)) })
	var rows []Example
	waiting := make([][]int, length+1) // rows by the space they have left
	spaces := newSpaces(length)
	for _, i := range order {
		n := len(pieces[i].IDs)
		space, row := spaces.atLeast(n), len(rows)
		if space == 0 {
			space = length
			rows = append(rows, Example{})
		} else {
			row = waiting[space][0]
			waiting[space] = waiting[space][1:]
			if len(waiting[space]) == 0 {
				spaces.set(space, false)
			}
		}
		join(&rows[row], pieces[i])
		if space -= n; space > 0 {
			waiting[space] = append(waiting[space], row)
			spaces.set(space, true)
		}
	}
	return rows
}

// spaces is a set of integers in [1, n] that finds the least member >= v. It is
// a bitmap with one summary bit per word: n is at most a context length.
type spaces struct{ words, summary []uint64 }

func newSpaces(n int) *spaces {
	w := n/64 + 1
	return &spaces{words: make([]uint64, w), summary: make([]uint64, w/64+1)}
}

func (s *spaces) set(v int, in bool) {
	w := v / 64
	if in {
		s.words[w] |= 1 << (v % 64)
	} else {
		s.words[w] &^= 1 << (v % 64)
	}
	if s.words[w] != 0 {
		s.summary[w/64] |= 1 << (w % 64)
	} else {
		s.summary[w/64] &^= 1 << (w % 64)
	}
}

// atLeast returns the least member >= v, or 0.
func (s *spaces) atLeast(v int) int {
	w := v / 64
	if m := s.words[w] >> (v % 64); m != 0 {
		return v + bits.TrailingZeros64(m)
	}
	for w++; w < len(s.words); w = (w/64 + 1) * 64 {
		if m := s.summary[w/64] >> (w % 64); m != 0 {
			w += bits.TrailingZeros64(m)
			return w*64 + bits.TrailingZeros64(s.words[w])
		}
	}
	return 0
}
