// Package batch turns rows of text into the tensors a training step reads:
// token ids with labels, cut or packed to a length limit, ordered for an epoch,
// and padded into a closed set of shapes.
//
// Letters: B is the number of rows of a batch, S its length in tokens. All
// tensors here are int32, flat and row-major, [B·S].
//
// # Labels
//
// Labels follow the Hugging Face convention: they are not shifted, Labels[i] is
// IDs[i] where that token is to be learned and [Ignore] elsewhere; whoever
// computes the loss compares the logits at i with the label at i+1. The first
// token of a document has nothing before it, so no batch supervises it.
//
// # Two ways to make them
//
// By default labels come from lengths: every real token is learned, the
// end-of-sequence token above all, and a text that already begins with "<s>"
// gets no second one. [Options.Parity] repeats what the 2023 walkthrough
// computed, its two bugs included: padding with the end-of-sequence token hides
// that token from the loss, so the model never learns to stop, and the text's
// "<s>" comes after the tokenizer's.
//
// The package is plain Go without I/O. Its orders and packings are those of
// transformers and TRL, index for index.
package batch

import "fmt"

// Ignore is the label of a token that takes no part in the loss, as PyTorch's
// cross-entropy and Hugging Face models use it.
const Ignore int32 = -100

// An Example is one row of a data set after tokenization or packing.
type Example struct {
	// IDs are the row's token ids, without padding.
	IDs []int32

	// Labels has one entry per id: the id itself or [Ignore]. Not shifted.
	Labels []int32

	// Pieces are the lengths of the documents packed into this row, in order;
	// they sum to len(IDs). Nil means the row is one document. Attention and
	// positions start anew at each piece.
	Pieces []int
}

// Lengths returns the number of tokens of each example.
func Lengths(examples []Example) []int {
	out := make([]int, len(examples))
	for i := range examples {
		out[i] = len(examples[i].IDs)
	}
	return out
}

// A Batch is what one micro-step reads. Padding is on the right and whole rows
// may be padding, so that few different shapes are ever compiled.
type Batch struct {
	// B is the number of rows, S the number of tokens in each.
	B, S int

	// IDs are the token ids [B·S]; padding holds the collator's pad id.
	IDs []int32

	// Labels are the unshifted labels [B·S], [Ignore] on padding and on the
	// first token of each document.
	Labels []int32

	// Positions count from 0 within each document [B·S]; 0 on padding.
	Positions []int32

	// Segments number the documents of a row from 1 [B·S]; 0 is padding.
	// Token i may attend to token j <= i of the same row and segment only.
	Segments []int32
}

// Tokens is the number of real (not padding) tokens.
func (b *Batch) Tokens() int {
	n := 0
	for _, s := range b.Segments {
		if s != 0 {
			n++
		}
	}
	return n
}

// Supervised is the number of predictions the loss averages over: tokens with a
// label whose predecessor belongs to the same document.
func (b *Batch) Supervised() int {
	n := 0
	for r := range b.B {
		for i := r*b.S + 1; i < (r+1)*b.S; i++ {
			if b.Labels[i] != Ignore && b.Segments[i] != 0 && b.Segments[i] == b.Segments[i-1] {
				n++
			}
		}
	}
	return n
}

// Check reports the first way in which b is not a well-formed batch: wrong
// lengths, ids outside [0, vocab), labels that are neither Ignore nor such ids.
// A vocab of 0 leaves ids unchecked.
func (b *Batch) Check(vocab int) error {
	if b.B < 1 || b.S < 1 {
		return fmt.Errorf("batch: shape [%d, %d] is empty: a batch needs at least one row and one token", b.B, b.S)
	}
	n := b.B * b.S
	for _, f := range []struct {
		name string
		got  int
	}{{"IDs", len(b.IDs)}, {"Labels", len(b.Labels)}, {"Positions", len(b.Positions)}, {"Segments", len(b.Segments)}} {
		if f.got != n {
			return fmt.Errorf("batch: %s has %d values, shape [%d, %d] needs %d", f.name, f.got, b.B, b.S, n)
		}
	}
	if vocab == 0 {
		return nil
	}
	for i, id := range b.IDs {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("batch: row %d token %d has id %d, the vocabulary has %d entries: do tokenizer and model belong together?", i/b.S, i%b.S, id, vocab)
		}
		if l := b.Labels[i]; l != Ignore && (l < 0 || int(l) >= vocab) {
			return fmt.Errorf("batch: row %d token %d has label %d, wanted %d or an id below %d", i/b.S, i%b.S, l, Ignore, vocab)
		}
	}
	return nil
}
