package layerwise

import (
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/batch"
)

// meta packs everything the device must know of a micro-batch into one int32
// vector, since each upload costs a call:
//
//	ids [T] | positions [T] | segments [T] | rows [Tp] | targets [Tp] | inverse [T] | count, key0, key1, gradScale
//
// rows lists the tokens that predict a label, in order; targets are those labels
// (−1 behind the last); inverse is each token's place among rows, or Tp.
type meta struct {
	tokens, padded int // T, Tp
}

// metaTail is the number of scalars at the end.
const metaTail = 4

func (m meta) size() int { return 4*m.tokens + 2*m.padded + metaTail }

// pack fills the vector for a batch and returns the number of supervised tokens.
func (m meta) pack(b *batch.Batch, k0, k1 uint32, gradScale float64) (flat []int32, supervised int) {
	t, tp := m.tokens, m.padded
	flat = make([]int32, m.size())
	copy(flat, b.IDs)
	copy(flat[t:], b.Positions)
	copy(flat[2*t:], b.Segments)
	rows, targets, inverse := flat[3*t:3*t+tp], flat[3*t+tp:3*t+2*tp], flat[3*t+2*tp:4*t+2*tp]
	for i := range targets {
		targets[i] = -1
	}
	for i := range inverse {
		inverse[i] = int32(tp)
		if next := i + 1; next%b.S != 0 && predicts(b, i) {
			rows[supervised], targets[supervised], inverse[i] = int32(i), b.Labels[next], int32(supervised)
			supervised++
		}
	}
	tail := flat[4*t+2*tp:]
	tail[0], tail[1], tail[2], tail[3] = int32(supervised), int32(k0), int32(k1), f32Bits(gradScale)
	return flat, supervised
}

// predicts says whether token i, not the last of its row, predicts a label.
func predicts(b *batch.Batch, i int) bool {
	return b.Labels[i+1] != batch.Ignore && b.Segments[i] != 0 && b.Segments[i] == b.Segments[i+1]
}

// ids, positions and segments cut the vector inside a graph.
func (m meta) ids(v *Node) *Node       { return Slice(v, AxisRange(0, m.tokens)) }
func (m meta) positions(v *Node) *Node { return Slice(v, AxisRange(m.tokens, 2*m.tokens)) }
func (m meta) segments(v *Node) *Node  { return Slice(v, AxisRange(2*m.tokens, 3*m.tokens)) }

// labels returns rows, targets and inverse.
func (m meta) labels(v *Node) (rows, targets, inverse *Node) {
	a := 3 * m.tokens
	b, c := a+m.padded, a+2*m.padded
	return Slice(v, AxisRange(a, b)), Slice(v, AxisRange(b, c)), Slice(v, AxisRange(c, c+m.tokens))
}

// scalar returns one of the tail's values as an int32 scalar.
func (m meta) scalar(v *Node, i int) *Node {
	at := m.size() - metaTail + i
	return Reshape(Slice(v, AxisRange(at, at+1)))
}

// Places in the tail.
const (
	metaCount = iota
	metaKey0
	metaKey1
	metaScale
)
