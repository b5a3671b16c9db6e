package layerwise

import (
	"fmt"
	"math/bits"

	"github.com/gotune/gotune/gotune/internal/batch"
)

// ragged says where the documents of a packed batch lie, for fused attention that takes
// documents of any lengths from one tensor of tokens. It sees the batch's T tokens as
// rows of at least the longest document, since its log-sum-exp has a row of that length
// for each document, and runs of padding as documents, so that every token has a result.
// Numbers are rounded up to powers of two: a data set compiles few programs.
type ragged struct {
	rows, length int     // rows · length = T
	documents    int     // in each row's share: room for rows · documents in all
	places       []int32 // lengths, begins in q's elements, in k's: rows·documents, twice rows·(documents+1)
}

// key names the layout in a program's key.
func (r *ragged) key() string {
	return fmt.Sprintf("%dx%d of %d", r.rows*r.documents, r.length, r.rows)
}

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
	r := &ragged{length: max(fusedMinLength, powerOfTwo(longest))}
	if t%r.length != 0 {
		r.length = bt.S
	}
	r.rows = t / r.length
	r.documents = max(2, (powerOfTwo(n)+r.rows-1)/r.rows)
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
