package layerwise

import (
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
)

// Rows are exactly the tokens that predict a label of their own document, and
// inverse finds them again.
func TestMetaPacksSupervisedRows(t *testing.T) {
	const no = batch.Ignore
	bt := &batch.Batch{B: 2, S: 4,
		IDs: []int32{1, 2, 3, 4, 5, 6, 7, 0},
		// Row 0: two documents of two tokens. Row 1: a prompt token, then padding.
		Labels:    []int32{no, 2, 3, 4, no, no, 7, no},
		Positions: []int32{0, 1, 0, 1, 0, 1, 2, 0},
		Segments:  []int32{1, 1, 2, 2, 1, 1, 1, 0}}
	md := meta{tokens: 8, padded: 9}
	flat, n := md.pack(bt, 5, 6, 0.25)
	if n != 3 || n != bt.Supervised() {
		t.Errorf("%d supervised, want 3 (batch says %d)", n, bt.Supervised())
	}
	rows, targets, inverse := flat[24:33], flat[33:42], flat[42:50]
	if want := []int32{0, 2, 5, 0, 0, 0, 0, 0, 0}; !slices.Equal(rows, want) {
		t.Errorf("rows %v, want %v", rows, want)
	}
	if want := []int32{2, 4, 7, -1, -1, -1, -1, -1, -1}; !slices.Equal(targets, want) {
		t.Errorf("targets %v, want %v", targets, want)
	}
	if want := []int32{0, 9, 1, 9, 9, 2, 9, 9}; !slices.Equal(inverse, want) {
		t.Errorf("inverse %v, want %v", inverse, want)
	}
	if want := []int32{3, 5, 6, f32Bits(0.25)}; !slices.Equal(flat[50:], want) {
		t.Errorf("tail %v, want %v", flat[50:], want)
	}
}

func TestChunkRowsDivideEvenly(t *testing.T) {
	for _, c := range []struct{ tokens, vocab, bytes int }{{40, 256, headBytes}, {40, 256, 8 * 256 * 16}, {4096, 32000, headBytes}, {7, 128256, headBytes}, {4096, 1 << 24, headBytes}} {
		n := chunkRows(c.tokens, c.vocab, c.bytes)
		chunks := (c.tokens + n - 1) / n
		if n < 1 || n > max(c.bytes/(8*c.vocab), 16) || paddedRows(c.tokens, n)-c.tokens >= chunks {
			t.Errorf("%+v: chunks of %d rows, %d of them", c, n, chunks)
		}
	}
}
