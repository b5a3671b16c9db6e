package layerwise

import (
	"math"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

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

// biasOf is 0 where a key is visible and masked elsewhere, f32 [B, S, S].
func biasOf(segments *Node, window int) *Node {
	see := visible(segments, window)
	g := segments.Graph()
	return Where(see, Zeros(g, shapeOf(dtypes.Float32, see.Shape().Dimensions...)), scalarF32(g, masked))
}

// fusedBiasOf is biasOf for fused attention, in its type: [B, 1, S, S]. The values are
// JAX's: cuDNN takes differences of masked scores.
func fusedBiasOf(segments *Node, window int, dt dtypes.DType) *Node {
	hidden := -float64(int64(2) << 40)
	if dt == dtypes.Float16 {
		hidden = -float64(2 << 14)
	}
	see, g := visible(segments, window), segments.Graph()
	return InsertAxes(Where(see, Zeros(g, shapeOf(dt, see.Shape().Dimensions...)), Scalar(g, dt, hidden)), 1)
}

// attention is causal attention of K key heads, each shared by G query heads:
//
//	P = softmax(q·kᵀ/√d + bias),  o = P·v
//
// as one operation of the device where fused is set, else in plain products, the
// reference of the other. Queries are taken in blocks of rows, each with the keys that
// its rows can see at all: about half of the products of the full square, and
// scores small enough for the cache.
type attention struct {
	geometry
	heads, kv, dim int // H, K, d
	window         int
	bias           *Node // f32 [B, S, S]: 0, or masked; of fused attention nil, fusedBiasOf or places
	fused          fusedAttention
}

// saved is what attention keeps for its backward pass: q [B, K, S, G, d], k and v
// [B, K, S, d], and the rows' log-sum-exp f32 [B, K, S, G]. Fused attention keeps
// [B, S, H, d], [B, S, K, d] and a log-sum-exp of its own: cuDNN's is [B, H, S], and with
// a [ragged] layout that for each document a row has room for.
type saved struct{ q, k, v, lse *Node }

// block is a range of queries and the range of keys they can see.
type block struct{ from, to, key int }

// blocks cuts the queries. Few blocks compile faster; blocks of 64 rows are
// already as fast as larger ones.
func (a *attention) blocks() (out []block) {
	rows := max(64, (a.s+7)/8)
	for at := 0; at < a.s; at += rows {
		b := block{from: at, to: min(at+rows, a.s)}
		if a.window > 0 {
			b.key = max(0, at-a.window+1)
		}
		out = append(out, b)
	}
	return out
}

// toQuery lays [T, H, d] out as [B, K, S, G, d], toKey [T, K, d] as [B, K, S, d].
func (a *attention) toQuery(x *Node) *Node {
	return TransposeAllAxes(Reshape(x, a.b, a.s, a.kv, a.heads/a.kv, a.dim), 0, 2, 1, 3, 4)
}

func (a *attention) toKey(x *Node) *Node {
	return TransposeAllAxes(Reshape(x, a.b, a.s, a.kv, a.dim), 0, 2, 1, 3)
}

// fromQuery and fromKey are their inverses.
func (a *attention) fromQuery(x *Node) *Node {
	return Reshape(TransposeAllAxes(x, 0, 2, 1, 3, 4), a.tokens(), a.heads, a.dim)
}

func (a *attention) fromKey(x *Node) *Node {
	return Reshape(TransposeAllAxes(x, 0, 2, 1, 3), a.tokens(), a.kv, a.dim)
}

// split and merge change between [T, heads, d] and [B, S, heads, d].
func (a *attention) split(x *Node) *Node {
	return Reshape(x, a.b, a.s, x.Shape().Dim(1), a.dim)
}

func (a *attention) merge(x *Node) *Node {
	return Reshape(x, a.tokens(), x.Shape().Dim(2), a.dim)
}

// rows cuts axis 2 of x.
func rows(x *Node, from, to int) *Node {
	if from == 0 && to == x.Shape().Dim(2) {
		return x
	}
	return Slice(x, AxisRange(), AxisRange(), AxisRange(from, to))
}

// scores returns q·kᵀ/√d + bias of a block, f32 [B, K, r, G, J], from q and k of
// the whole call.
func (a *attention) scores(q, k *Node, c block) *Node {
	sc := Dot(rows(q, c.from, c.to), rows(k, c.key, c.to)).WithOutputDType(dtypes.Float32).
		General([]int{4}, []int{0, 1}, []int{3}, []int{0, 1})
	bias := Slice(a.bias, AxisRange(), AxisRange(c.from, c.to), AxisRange(c.key, c.to))
	return Add(MulScalar(sc, attentionScale(a.dim)), InsertAxes(bias, 1, 2))
}

// forward takes q [T, H, d], k and v [T, K, d] and returns o [T, H, d] and what
// backward needs.
func (a *attention) forward(q, k, v *Node) (o *Node, s *saved) {
	if a.fused != nil {
		s = &saved{q: a.split(q), k: a.split(k), v: a.split(v)}
		o, s.lse = a.fused.forward(s.q, s.k, s.v, a.bias)
		return a.merge(o), s
	}
	s = &saved{q: a.toQuery(q), k: a.toKey(k), v: a.toKey(v)}
	var outs, lses []*Node
	for _, c := range a.blocks() {
		sc := a.scores(s.q, s.k, c)
		peak := ReduceAndKeep(sc, ReduceMax, -1)
		e := Exp(Sub(sc, peak))
		sum := ReduceAndKeep(e, ReduceSum, -1)
		// Dividing after the product costs d instead of J divisions a row.
		out := Dot(ConvertDType(e, v.DType()), rows(s.v, c.key, c.to)).WithOutputDType(dtypes.Float32).
			General([]int{4}, []int{0, 1}, []int{2}, []int{0, 1})
		outs = append(outs, ConvertDType(Div(out, sum), v.DType()))
		lses = append(lses, Squeeze(Add(peak, Log(sum)), -1))
	}
	s.lse = join(lses, 2)
	return a.fromQuery(join(outs, 2)), s
}

// backward returns dq, dk, dv in forward's shapes, for o and do [T, H, d]. With P
// remade from lse:
//
//	dV = Pᵀ·dO,  dP = dO·Vᵀ,  dS = P ∘ (dP − rowsum(dO∘O)) / √d,  dQ = dS·K,  dK = dSᵀ·Q
//
// (Dao et al., arXiv:2205.14135, section 3 and appendix B).
func (a *attention) backward(s *saved, o, do *Node) (dq, dk, dv *Node) {
	if a.fused != nil {
		dq, dk, dv = a.fused.backward(s.q, s.k, s.v, a.bias, a.split(o), s.lse, a.split(do))
		return a.merge(dq), a.merge(dk), a.merge(dv)
	}
	dt := s.q.DType()
	sums := ReduceSum(Mul(ConvertDType(do, dtypes.Float32), ConvertDType(o, dtypes.Float32)), -1)
	sums = TransposeAllAxes(Reshape(sums, a.b, a.s, a.kv, a.heads/a.kv), 0, 2, 1, 3)
	dOut := a.toQuery(do)
	var dqs []*Node
	for _, c := range a.blocks() {
		part := func(x *Node) *Node { return rows(x, c.from, c.to) }
		k, v := rows(s.k, c.key, c.to), rows(s.v, c.key, c.to)
		p := Exp(Sub(a.scores(s.q, s.k, c), InsertAxes(part(s.lse), -1)))
		dp := Dot(part(dOut), v).WithOutputDType(dtypes.Float32).General([]int{4}, []int{0, 1}, []int{3}, []int{0, 1})
		ds := ConvertDType(MulScalar(Mul(p, Sub(dp, InsertAxes(part(sums), -1))), attentionScale(a.dim)), dt)
		dqs = append(dqs, DotGeneral(ds, []int{4}, []int{0, 1}, k, []int{2}, []int{0, 1}))
		dv = a.sumKeys(dv, ConvertDType(p, dt), part(dOut), c)
		dk = a.sumKeys(dk, ds, part(s.q), c)
	}
	keys := func(x *Node) *Node { return a.fromKey(TransposeAllAxes(ConvertDType(x, dt), 0, 1, 3, 2)) }
	return a.fromQuery(join(dqs, 2)), keys(dk), keys(dv)
}

// sumKeys adds yᵀ·x of a block, summed over its queries, to sum, f32 [B, K, d, S]:
// x is [B, K, r, G, J], y is [B, K, r, G, d]. With d before J the product has long
// rows, which is 2.7 times as fast on a CPU as the other order.
func (a *attention) sumKeys(sum, x, y *Node, c block) *Node {
	v := Dot(y, x).WithOutputDType(dtypes.Float32).General([]int{2, 3}, []int{0, 1}, []int{2, 3}, []int{0, 1})
	if c.to-c.key < a.s {
		v = Pad(v, scalarF32(x.Graph(), 0), compute.PadAxis{}, compute.PadAxis{}, compute.PadAxis{}, compute.PadAxis{Start: c.key, End: a.s - c.to})
	}
	if sum == nil {
		return v
	}
	return Add(sum, v)
}

// join concatenates along axis, or returns the only part.
func join(parts []*Node, axis int) *Node {
	if len(parts) == 1 {
		return parts[0]
	}
	return Concatenate(parts, axis)
}

// attentionScale is 1/√d.
func attentionScale(headDim int) float64 { return 1 / math.Sqrt(float64(headDim)) }
