package layerwise

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// headGraph is the end of the model: final norm, output layer, cross-entropy.
// Rows without a label are dropped first; the others are taken C at a time, so
// that only [C, V] logits exist at once, and each chunk gives its loss and its
// gradient while its logits are there.
type headGraph struct {
	eps      float64
	dt       dtypes.DType
	residual dtypes.DType
	chunk    int // C
}

// chunkRows chooses C for T tokens and a vocabulary of V: logits and their
// gradient, f32 [C, V], together take at most 128 MiB, and C divides the rows
// evenly.
func chunkRows(tokens, vocab int) int {
	limit := max(128<<20/(8*vocab), 16)
	n := (tokens + limit - 1) / limit
	return (tokens + n - 1) / n
}

// paddedRows is T rounded up to whole chunks.
func paddedRows(tokens, chunk int) int { return (tokens + chunk - 1) / chunk * chunk }

// forwardBackward returns the sum of the supervised rows' cross-entropies (f32
// scalar), and dx [T, D], the gradient of gradScale · sum in x:
//
//	z = norm(x)[rows]·Wᵀ,  loss = Σ (logsumexp z − z[target]),  dz = gradScale·(softmax z − onehot target)
//
// x [T, D], norm f32 [D], w [V, D], rows and targets int32 [Tp] (first count of
// them used), inverse int32 [T] (each token's place among rows, Tp for none),
// count int32 scalar, gradScale f32 scalar.
func (h *headGraph) forwardBackward(x, norm, w, rows, targets, inverse, count, gradScale *Node) (loss, dx *Node) {
	g := x.Graph()
	tp, hidden := rows.Shape().Size(), x.Shape().Dim(1)
	picked := Gather(rmsNorm(x, norm, h.eps, h.dt), InsertAxes(rows, -1))
	if tp == h.chunk { // one chunk: no loop
		l, d := h.piece(picked, w, targets, gradScale)
		loss, dx = l, d
	} else {
		state := []*Node{Scalar(g, dtypes.Int32, 0), scalarF32(g, 0), Zeros(g, shapeOf(h.dt, tp, hidden)), picked, w, targets, gradScale, count}
		out := h.loop(state, func(i *Node, s []*Node) []*Node {
			zero := Scalar(g, dtypes.Int32, 0)
			part := DynamicSlice(s[3], []*Node{i, zero}, []int{h.chunk, hidden})
			l, d := h.piece(part, s[4], DynamicSlice(s[5], []*Node{i}, []int{h.chunk}), s[6])
			s[1], s[2] = Add(s[1], l), DynamicUpdateSlice(s[2], d, []*Node{i, zero})
			return s
		})
		loss, dx = out[1], out[2]
	}
	back := Gather(Concatenate([]*Node{dx, Zeros(g, shapeOf(h.dt, 1, hidden))}, 0), InsertAxes(inverse, -1))
	return loss, ConvertDType(rmsNormBackward(x, norm, back, h.eps), h.residual)
}

// loss is forwardBackward without a gradient.
func (h *headGraph) loss(x, norm, w, rows, targets, count *Node) *Node {
	g := x.Graph()
	picked := Gather(rmsNorm(x, norm, h.eps, h.dt), InsertAxes(rows, -1))
	if rows.Shape().Size() == h.chunk {
		z, lse := h.logits(picked, w)
		return ReduceAllSum(h.crossEntropy(z, lse, targets))
	}
	hidden := x.Shape().Dim(1)
	state := []*Node{Scalar(g, dtypes.Int32, 0), scalarF32(g, 0), picked, w, targets, count}
	out := h.loop(state, func(i *Node, s []*Node) []*Node {
		part := DynamicSlice(s[2], []*Node{i, Scalar(g, dtypes.Int32, 0)}, []int{h.chunk, hidden})
		z, lse := h.logits(part, s[3])
		s[1] = Add(s[1], ReduceAllSum(h.crossEntropy(z, lse, DynamicSlice(s[4], []*Node{i}, []int{h.chunk}))))
		return s
	})
	return out[1]
}

// loop runs body for i = 0, C, 2C, … below count, the last of the state. The
// first of the state is i.
func (h *headGraph) loop(state []*Node, body func(i *Node, s []*Node) []*Node) []*Node {
	g := state[0].Graph()
	params := func(g *Graph) []*Node {
		in := make([]*Node, len(state))
		for k, s := range state {
			in[k] = Parameter(g, "s"+string(rune('a'+k)), s.Shape())
		}
		return in
	}
	cond := NewClosure(g, func(g *Graph) []*Node {
		in := params(g)
		return []*Node{LessThan(in[0], in[len(in)-1])}
	})
	step := NewClosure(g, func(g *Graph) []*Node {
		in := params(g)
		i := in[0]
		out := body(i, append([]*Node(nil), in...))
		out[0] = AddScalar(i, int32(h.chunk))
		return out
	})
	return While(cond, step, state...)
}

// logits returns z = x·Wᵀ, f32 [C, V], and its log-sum-exp [C, 1].
func (h *headGraph) logits(x, w *Node) (z, lse *Node) {
	z = headLogits(x, w)
	peak := ReduceAndKeep(z, ReduceMax, -1)
	return z, Add(peak, Log(ReduceAndKeep(Exp(Sub(z, peak)), ReduceSum, -1)))
}

// headLogits is x·Wᵀ with a float32 result.
func headLogits(x, w *Node) *Node {
	return Dot(x, w).WithOutputDType(dtypes.Float32).General([]int{1}, nil, []int{1}, nil)
}

// crossEntropy is lse − z[target] by rows, f32 [C]; 0 where the target is −1.
func (h *headGraph) crossEntropy(z, lse, targets *Node) *Node {
	hit := ReduceSum(Where(oneHot(z, targets), z, ZerosLike(z)), -1)
	used := GreaterOrEqual(targets, ZerosLike(targets))
	each := Sub(Squeeze(lse, -1), hit)
	return Where(used, each, ZerosLike(each))
}

// piece is one chunk: the sum of its losses and d [C, D].
func (h *headGraph) piece(x, w, targets, gradScale *Node) (loss, d *Node) {
	z, lse := h.logits(x, w)
	loss = ReduceAllSum(h.crossEntropy(z, lse, targets))
	used := ConvertDType(GreaterOrEqual(targets, ZerosLike(targets)), dtypes.Float32)
	scale := InsertAxes(Mul(used, gradScale), -1)
	p := Exp(Sub(z, lse))
	dz := Mul(Sub(p, ConvertDType(oneHot(z, targets), dtypes.Float32)), scale)
	return loss, DotGeneral(ConvertDType(dz, h.dt), []int{1}, nil, w, []int{0}, nil)
}

// oneHot is bool [C, V]: is this column the row's target?
func oneHot(z, targets *Node) *Node {
	dims := z.Shape().Dimensions
	return Equal(Iota(z.Graph(), shapeOf(dtypes.Int32, dims...), 1), BroadcastToDims(InsertAxes(targets, -1), dims...))
}

// bitsF32 reads an int32 scalar as the float32 with the same bits.
func bitsF32(x *Node) *Node { return Bitcast(x, dtypes.Float32) }

// f32Bits is the inverse, on the host.
func f32Bits(v float64) int32 { return int32(math.Float32bits(float32(v))) }
