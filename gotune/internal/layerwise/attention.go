package layerwise

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// geometry is the static shape of one call: B rows of S tokens.
type geometry struct{ b, s int }

func (m geometry) tokens() int { return m.b * m.s }

// masked is the score of a key that a query must not see. It is finite, so that
// a row with nothing to see (padding) stays finite.
const masked = -1e30

// visible says which key each query sees, bool [B, S, S]:
//
//	segment equal, j ≤ i, and i − j < window when window > 0
//
// segments is int32 [B, S]; positions inside a row are counted by index, which
// is the same thing inside one segment.
func visible(segments *Node, window int) *Node {
	g, b, s := segments.Graph(), segments.Shape().Dim(0), segments.Shape().Dim(1)
	square := shapeOf(dtypes.Int32, b, s, s)
	i, j := Iota(g, square, 1), Iota(g, square, 2)
	ok := LessOrEqual(j, i)
	if window > 0 {
		ok = LogicalAnd(ok, LessThan(Sub(i, j), Scalar(g, dtypes.Int32, window)))
	}
	return LogicalAnd(ok, Equal(
		BroadcastToDims(InsertAxes(segments, -1), b, s, s),
		BroadcastToDims(InsertAxes(segments, 1), b, s, s)))
}

// attention is causal attention of K key heads, each shared by G query heads:
//
//	P = softmax(q·kᵀ/√d + mask),  o = P·v
//
// It is the plain form: the scores of one layer exist as a whole, f32
// [B, K, S, G, J] with J keys.
type attention struct {
	scale float64
	bias  *Node // f32, 0 or masked, broadcastable to the scores
}

// scores returns q·kᵀ/√d + mask, f32 [B, K, S, G, J]. q is [B, S, K, G, d], k is
// [B, J, K, d].
func (a *attention) scores(q, k *Node) *Node {
	sc := Dot(q, k).WithOutputDType(dtypes.Float32).General([]int{4}, []int{0, 2}, []int{3}, []int{0, 2})
	return Add(MulScalar(sc, a.scale), a.bias)
}

// forward returns o [B, S, K, G, d] and the rows' log-sum-exp f32 [B, K, S, G].
func (a *attention) forward(q, k, v *Node) (o, lse *Node) {
	sc := a.scores(q, k)
	peak := ReduceAndKeep(sc, ReduceMax, -1)
	e := Exp(Sub(sc, peak))
	sum := ReduceAndKeep(e, ReduceSum, -1)
	// Dividing after the product costs S·d instead of S·J divisions.
	o = Dot(ConvertDType(e, v.DType()), v).WithOutputDType(dtypes.Float32).General([]int{4}, []int{0, 1}, []int{1}, []int{0, 2})
	o = ConvertDType(Div(o, sum), v.DType())
	return TransposeAllAxes(o, 0, 2, 1, 3, 4), Squeeze(Add(peak, Log(sum)), -1)
}

// backward returns dq, dk, dv in the shapes of q, k, v. With P remade from lse:
//
//	dV = Pᵀ·dO,  dP = dO·Vᵀ,  dS = P ∘ (dP − rowsum(dO∘O)) / √d,  dQ = dS·K,  dK = dSᵀ·Q
//
// (Dao et al., arXiv:2205.14135, section 3 and appendix B).
func (a *attention) backward(q, k, v, o, lse, do *Node) (dq, dk, dv *Node) {
	dt := q.DType()
	p := Exp(Sub(a.scores(q, k), InsertAxes(lse, -1)))
	rows := []int{0, 2, 1, 3, 4} // [B, S, K, G, d] to [B, K, S, G, d]
	dot := TransposeAllAxes(do, rows...)
	rowSum := ReduceAndKeep(Mul(ConvertDType(dot, dtypes.Float32), ConvertDType(TransposeAllAxes(o, rows...), dtypes.Float32)), ReduceSum, -1)
	keys := func(x, y *Node) *Node { // Σ over queries: [B, K, S, G, J] × [B, K, S, G, d] → [B, J, K, d]
		return TransposeAllAxes(DotGeneral(x, []int{2, 3}, []int{0, 1}, y, []int{2, 3}, []int{0, 1}), 0, 2, 1, 3)
	}
	dv = keys(ConvertDType(p, dt), dot)
	dp := Dot(dot, v).WithOutputDType(dtypes.Float32).General([]int{4}, []int{0, 1}, []int{3}, []int{0, 2})
	ds := ConvertDType(MulScalar(Mul(p, Sub(dp, rowSum)), a.scale), dt)
	dq = TransposeAllAxes(DotGeneral(ds, []int{4}, []int{0, 1}, k, []int{1}, []int{0, 2}), rows...)
	dk = keys(ds, TransposeAllAxes(q, rows...))
	return dq, dk, dv
}

// attentionScale is 1/√d.
func attentionScale(headDim int) float64 { return 1 / math.Sqrt(float64(headDim)) }
