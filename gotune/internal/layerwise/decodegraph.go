package layerwise

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// beginGraph embeds tokens int32 [B] and makes what all layers share. in is tokens,
// state, embeddings; the result is
//
//	x [B, D] | slot int32 [1] | cos, sin f32 [B, d/2] | bias f32 [B, M] | the next state
//
// A row's token stands at position len + slot − longest.
func (d *stream) beginGraph(in []*Node) []*Node {
	tokens, state, embed := in[0], in[1], in[2]
	b, g := d.base, tokens.Graph()
	lens, longest, slot := Slice(state, AxisRange(0, d.rows)), Slice(state, AxisRange(d.rows, d.rows+1)), Slice(state, AxisRange(d.rows+1, d.rows+2))
	x := ConvertDType(Gather(embed, InsertAxes(tokens, -1)), b.residual)
	at := Add(lens, Sub(slot, longest)) // positions [B]
	cos, sin := ropeTable(at, b.cfg.InvFreq())

	wide := func(x *Node) *Node { return BroadcastToDims(InsertAxes(x, -1), d.rows, d.room) }
	j := Iota(g, shapeOf(dtypes.Int32, d.rows, d.room), 1)
	prompt := LessThan(j, wide(lens))
	answer := LogicalAnd(GreaterOrEqual(j, wide(longest)), LessOrEqual(j, wide(slot)))
	see := LogicalOr(prompt, answer)
	if w := b.cfg.SlidingWindow; w > 0 {
		place := Where(prompt, j, Add(j, wide(Sub(lens, longest)))) // the key's position
		see = LogicalAnd(see, LessThan(Sub(wide(at), place), Scalar(g, dtypes.Int32, w)))
	}
	bias := Where(see, Zeros(g, shapeOf(dtypes.Float32, d.rows, d.room)), scalarF32(g, masked))
	next := Concatenate([]*Node{lens, longest, OnePlus(slot)}, 0)
	return []*Node{x, slot, cos, sin, bias, next}
}

// endOf is endGraph of in = x, norm, head.
func (d *stream) endOf(in []*Node) []*Node { return d.endGraph(in[0], in[1], in[2]) }

// endGraph returns the logits f32 [B, V] of x [B, D] and the ids of the largest,
// int32 [B]: the first of equals, −1 where a logit is NaN or +Inf or all are −Inf.
func (d *stream) endGraph(x, norm, head *Node) []*Node {
	h := rmsNorm(x, norm, d.base.cfg.RMSNormEps, d.base.dt)
	z := headLogits(h, head)
	if d.direct && d.rows == 1 {
		z = rowProduct(h, head)
	}
	g := z.Graph()
	inf := scalarF32(g, math.Inf(1))
	bad := ConvertDType(LogicalNot(LessThan(z, inf)), dtypes.Int32)
	top := ReduceMax(z, -1)
	ok := LogicalAnd(Equal(ReduceMax(bad, -1), Zeros(g, shapeOf(dtypes.Int32, d.rows))), GreaterThan(top, Neg(inf)))
	return []*Node{z, Where(ok, ArgMax(z, -1), BroadcastToDims(Scalar(g, dtypes.Int32, -1), d.rows))}
}

// stepLayer is a decoder layer that reads one token of each row.
type stepLayer struct {
	*layerGraph
	packed []packedMatrix // of the layer's matrices, in order
	direct bool           // use packed
	kernel bool           // by the kernel
}

// spanGraph builds a span's layers. Inputs are x, slot, cos, sin, bias, the
// adapter's flat vector if there is one, and for each layer its caches, its place
// in the adapter, its weights.
func (d *stream) spanGraph(s *span) func(g *Graph, in []*Node) []*Node {
	return func(_ *Graph, in []*Node) []*Node {
		x, slot, bias := in[0], in[1], in[4]
		common := layerInputs{cos: in[2], sin: in[3]}
		in = in[5:]
		if d.ad != nil {
			common.flat, in = in[0], in[1:]
		}
		var caches []*Node
		for i := range s.kinds {
			kind := &s.kinds[i]
			k, v := in[0], in[1]
			in = in[2:]
			if d.ad != nil {
				common.where, in = in[0], in[1:]
			}
			n := 2
			for _, sp := range kind.specs {
				n += len(sp.shapes())
			}
			common.weights, in = in[:n], in[n:]
			l := &stepLayer{layerGraph: d.base.layer(kind, common), direct: d.direct, kernel: d.kernel}
			l.packed = packedMatrices(kind.specs, common.weights[2:])
			x, k, v = l.forward(x, slot, k, v, bias)
			caches = append(caches, k, v)
		}
		return append([]*Node{x}, caches...)
	}
}

// forward runs one token of each row, x [B, D], with caches k, v [B, K, M, d].
func (l *stepLayer) forward(x, slot, k, v, bias *Node) (y, k1, v1 *Node) {
	b := x.Shape().Dim(0)
	h := rmsNorm(x, l.norm1, l.eps, l.dt)
	qkv, _ := l.project(h, "q_proj", "k_proj", "v_proj")
	q := ropeRotate(Reshape(qkv[0], b, l.heads, l.dim), l.cos, l.sin, false)
	kNew := ropeRotate(Reshape(qkv[1], b, l.kv, l.dim), l.cos, l.sin, false)
	put := func(cache, x *Node) *Node { // x [B, K, d] at the slot
		return putRows(cache, Reshape(x, b, l.kv, 1, l.dim), Reshape(slot), 2)
	}
	k1, v1 = put(k, kNew), put(v, qkv[2])
	o := l.attendCache(q, k1, v1, bias)
	_, attended := l.project(Reshape(o, b, l.heads*l.dim), "o_proj")
	x = Add(x, ConvertDType(attended, l.residual))
	_, gateUp := l.project(rmsNorm(x, l.norm2, l.eps, l.dt), "gate_proj", "up_proj")
	_, down := l.project(swiGLU(gateUp), "down_proj")
	return Add(x, ConvertDType(down, l.residual)), k1, v1
}

// attendCache is attention of one token's queries q [B, H, d] over caches
// [B, K, M, d]; it returns o [B, H, d].
func (l *stepLayer) attendCache(q, k, v, bias *Node) *Node {
	b, m := q.Shape().Dim(0), k.Shape().Dim(2)
	q, k, v = Reshape(q, b*l.kv, l.heads/l.kv, l.dim), Reshape(k, b*l.kv, m, l.dim), Reshape(v, b*l.kv, m, l.dim)
	sc := Dot(q, k).WithOutputDType(dtypes.Float32).General([]int{2}, []int{0}, []int{2}, []int{0}) // [B·K, G, M]
	if b > 1 {
		bias = Reshape(BroadcastToDims(InsertAxes(bias, 1), b, l.kv, m), b*l.kv, m)
	}
	sc = Add(MulScalar(sc, attentionScale(l.dim)), InsertAxes(bias, 1))
	e := Exp(Sub(sc, ReduceAndKeep(sc, ReduceMax, -1)))
	o := Dot(ConvertDType(e, v.DType()), v).WithOutputDType(dtypes.Float32).General([]int{2}, []int{0}, []int{1}, []int{0})
	return Reshape(ConvertDType(Div(o, ReduceAndKeep(e, ReduceSum, -1)), l.dt), b, l.heads, l.dim)
}

// project is [linears.forward] without dropout, by the products of this file.
func (l *stepLayer) project(x *Node, projs ...string) (y []*Node, joined *Node) {
	if !l.direct {
		y, joined, _ = l.linears.forward(x, projs...)
		return y, joined
	}
	base := map[string]*Node{}
	for i, m := range l.matrices {
		if m.spec.outOf(projs[0]) == 0 && m.spec.outOf(projs[len(projs)-1]) == 0 {
			continue
		}
		whole := ConvertDType(l.packed[i].times(x, m, l.kernel), l.dt)
		if m.holds(projs) {
			joined = whole
		}
		row := 0
		for _, p := range m.spec.parts {
			base[p.proj] = columns(whole, row, p.out)
			row += p.out
		}
	}
	for _, proj := range projs {
		yp := l.adaptDirect(proj, x, base[proj])
		if yp != base[proj] {
			joined = nil
		}
		y = append(y, yp)
	}
	if joined == nil {
		joined = joinColumns(y)
	}
	return y, joined
}
