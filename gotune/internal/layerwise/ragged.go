package layerwise

import (
	"fmt"
	"math/bits"

	"github.com/gotune/gotune/gotune/internal/batch"
)

// ragged is the layout of a packed batch whose documents fused attention takes where they
// lie, by lengths and offsets in one tensor of tokens (cuDNN's ragged tensors). Runs of
// padding are documents too, so that every token has a result.
//
// Its log-sum-exp has a row for each document, of a length that holds the longest. So
// where all documents are short the batch's T tokens are seen as more, shorter rows. There
// is room for a document each raggedMean tokens, and for twice as many only where there
// are more: a data set compiles few programs.
type ragged struct {
	rows, length int     // rows · length = T
	documents    int     // in each row's share: room for rows · documents in all
	places       []int32 // lengths, offsets in q's elements, in k's: rows·documents, twice rows·(documents+1)
}

// key names the layout in a program's key.
func (r *ragged) key() string {
	return fmt.Sprintf("%dx%d of %d", r.rows*r.documents, r.length, r.rows)
}

// raggedMean is what documents are expected to be at least, on average.
const raggedMean = 128

// raggedOf lays a batch out whose documents are whole, for tokens of q and k elements.
func raggedOf(bt *batch.Batch, q, k int) *ragged {
	var begins []int
	longest := 0
	for i, seg := range bt.Segments {
		if i%bt.S == 0 || seg != bt.Segments[i-1] {
			begins = append(begins, i)
		}
		longest = max(longest, i+1-begins[len(begins)-1])
	}
	t, n := bt.B*bt.S, len(begins)
	r := &ragged{rows: bt.B, length: bt.S}
	if quarter := bt.S / 4; bt.S%4 == 0 && quarter >= max(fusedMinLength, longest) {
		r.rows, r.length = 4*bt.B, quarter
	}
	r.documents = max(2, (powerOfTwo(max(n, t/raggedMean))+r.rows-1)/r.rows)
	room := r.rows * r.documents
	r.places = make([]int32, room+2*(room+r.rows))
	lengths, qs, ks := r.places[:room], r.places[room:2*room+r.rows], r.places[2*room+r.rows:]
	for i := range qs {
		begin := t
		if i < n {
			begin = begins[i]
		}
		if end := t; i < n {
			if i+1 < n {
				end = begins[i+1]
			}
			lengths[i] = int32(end - begin)
		}
		qs[i], ks[i] = int32(begin*q), int32(begin*k)
	}
	return r
}

// powerOfTwo is the smallest that is at least n.
func powerOfTwo(n int) int { return 1 << bits.Len(uint(n-1)) }

// documentsAreWhole says whether the documents of every row are numbered upwards, so
// that none goes on behind padding or another one.
func documentsAreWhole(bt *batch.Batch) bool {
	last := int32(0)
	for i, seg := range bt.Segments {
		if i%bt.S == 0 {
			last = 0
		}
		if seg != 0 && (seg < last || seg == last && seg != bt.Segments[i-1]) {
			return false
		}
		last = max(last, seg)
	}
	return true
}
