package layerwise

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// layerGraph is one decoder layer inside a graph:
//
//	x2 = x + o_proj(attention(rope(q), rope(k), v)),  q, k, v of norm1(x)
//	y  = x2 + down_proj(silu(gate) ∘ up),             gate, up of norm2(x2)
type layerGraph struct {
	*linears
	heads, kv, dim int // H, K, d
	eps            float64
	residual       dtypes.DType
	norm1, norm2   *Node // f32 [D]
	cos, sin       *Node // f32 [T, d/2]
	attn           *attention
}

// residuals are what a layer's forward pass leaves for its backward pass. In the
// order of list they are
//
//	attention's own, o [T, H, d], x2 [T, D], gate|up [T, 2F], t [T, R] of each adapter
//
// The layer's input x is kept by the caller.
type residuals struct {
	attn          *saved
	o, x2, gateUp *Node
	t             map[string]*Node

	q, k, v *Node // [T, H, d], [T, K, d]; q and k rotated; not kept
}

// forward computes y from x [T, D].
func (l *layerGraph) forward(x *Node) (y *Node, r *residuals) {
	r = &residuals{t: map[string]*Node{}}
	r.q, r.k, r.v = l.queryKeyValue(x, r)
	r.o, r.attn = l.attn.forward(r.q, r.k, r.v)
	return l.after(x, r), r
}

// forwardFrom is forward with attention's output and log-sum-exp and x2 given, for the
// residuals.
func (l *layerGraph) forwardFrom(x, o, lse, x2 *Node) (r *residuals) {
	r = &residuals{t: map[string]*Node{}, o: o, x2: x2}
	r.q, r.k, r.v = l.queryKeyValue(x, r)
	r.attn = l.attn.saved(r.q, r.k, r.v, lse)
	l.mlp(r)
	return r
}

// queryKeyValue projects x and rotates q and k.
func (l *layerGraph) queryKeyValue(x *Node, r *residuals) (q, k, v *Node) {
	n := x.Shape().Dim(0)
	h := l.norm(x, l.norm1, false, "q_proj", "k_proj", "v_proj")
	qkv, _ := l.project(h, r, "q_proj", "k_proj", "v_proj")
	q = ropeRotate(Reshape(qkv[0], n, l.heads, l.dim), l.cos, l.sin, false)
	k = ropeRotate(Reshape(qkv[1], n, l.kv, l.dim), l.cos, l.sin, false)
	return q, k, Reshape(qkv[2], n, l.kv, l.dim)
}

// after is the layer behind its attention output r.o: it sets x2 and gateUp.
func (l *layerGraph) after(x *Node, r *residuals) (y *Node) {
	o := Reshape(r.o, x.Shape().Dim(0), l.heads*l.dim)
	_, attended := l.project(o, r, "o_proj")
	r.x2 = Add(x, ConvertDType(attended, l.residual))
	return l.mlp(r)
}

// mlp is the layer behind r.x2: it sets gateUp.
func (l *layerGraph) mlp(r *residuals) (y *Node) {
	_, r.gateUp = l.project(l.norm(r.x2, l.norm2, false, "gate_proj", "up_proj"), r, "gate_proj", "up_proj")
	_, down := l.project(swiGLU(r.gateUp), r, "down_proj")
	return Add(r.x2, ConvertDType(down, l.residual))
}

// project is linears.forward with the inner products noted in r.
func (l *layerGraph) project(x *Node, r *residuals, projs ...string) (y []*Node, joined *Node) {
	y, joined, t := l.linears.forward(x, projs...)
	for i, p := range projs {
		if t[i] != nil {
			r.t[p] = t[i]
		}
	}
	return y, joined
}

// backward returns dx [T, D] (residual dtype) for the gradient dy of y, and
// gathers the adapters' gradients.
func (l *layerGraph) backward(x, dy *Node, r *residuals) (dx *Node) {
	dx2, do := l.backwardAfter(dy, r)
	dq, dk, dv := l.attn.backward(r.attn, r.o, do)
	return l.backwardQueryKeyValue(x, dx2, dq, dk, dv, r)
}

// backwardAfter is the gradient of [layerGraph.after]: that of x2, which is x's on
// that way, and of o [T, H, d].
func (l *layerGraph) backwardAfter(dy *Node, r *residuals) (dx2, do *Node) {
	n := dy.Shape().Dim(0)
	dm := l.back(r, swiGLU(r.gateUp), nil, ConvertDType(dy, l.dt), "down_proj")
	dh2 := l.back(r, l.norm(r.x2, l.norm2, true, "gate_proj", "up_proj"), nil, swiGLUBackward(r.gateUp, dm), "gate_proj", "up_proj")
	dx2 = l.normBackward(r.x2, l.norm2, dh2, dy)
	do = l.back(r, Reshape(r.o, n, l.heads*l.dim), nil, ConvertDType(dx2, l.dt), "o_proj")
	return dx2, Reshape(do, n, l.heads, l.dim)
}

// backwardQueryKeyValue adds the gradient of [layerGraph.queryKeyValue] to dx2.
func (l *layerGraph) backwardQueryKeyValue(x, dx2, dq, dk, dv *Node, r *residuals) (dx *Node) {
	n := x.Shape().Dim(0)
	dq, dk = ropeRotate(dq, l.cos, l.sin, true), ropeRotate(dk, l.cos, l.sin, true)
	flat := func(x *Node, heads int) *Node { return Reshape(x, n, heads*l.dim) }
	dh := l.back(r, l.norm(x, l.norm1, true, "q_proj", "k_proj", "v_proj"), []*Node{flat(dq, l.heads), flat(dk, l.kv), flat(dv, l.kv)}, nil, "q_proj", "k_proj", "v_proj")
	return l.normBackward(x, l.norm1, dh, dx2)
}

// norm is RMSNorm of x for the projections that read it. A kernel makes the dropped inputs
// of their adapters in the same pass; again is for the backward pass, which seldom reads
// the norm itself (then XLA leaves it out).
func (l *layerGraph) norm(x, w *Node, again bool, projs ...string) *Node {
	var adapted []string
	for _, p := range projs {
		delete(l.ready, p)
		if l.lora[p] != nil {
			adapted = append(adapted, p)
		}
	}
	if l.kernels == nil || l.rng == nil || len(adapted) == 0 {
		return rmsNorm(x, w, l.eps, l.dt)
	}
	h, dropped := l.kernels.norm(x, w, l.eps, !again, l.rng, adapted)
	for i, p := range adapted {
		l.ready[p] = dropped[i]
	}
	if again {
		return rmsNorm(x, w, l.eps, l.dt)
	}
	return h
}

// normBackward is dres and the gradient of a norm of x for that of its result.
func (l *layerGraph) normBackward(x, w, dh, dres *Node) *Node {
	if l.kernels != nil {
		return l.kernels.normBackward(x, w, dh, dres, l.eps)
	}
	return Add(dres, ConvertDType(rmsNormBackward(x, w, dh, l.eps), l.residual))
}

// back is linears.backward with the inner products noted in r.
func (l *layerGraph) back(r *residuals, x *Node, dys []*Node, joined *Node, projs ...string) *Node {
	t := make([]*Node, len(projs))
	for i, p := range projs {
		t[i] = r.t[p]
	}
	return l.linears.backward(x, dys, joined, t, projs...)
}

// list returns the residuals as outputs of the forward program.
func (r *residuals) list(ss loraSpecs) []*Node {
	out := []*Node{r.attn.q, r.attn.k, r.attn.v, r.attn.lse, r.o, r.x2, r.gateUp}
	for _, s := range ss {
		out = append(out, r.t[s.proj])
	}
	return out
}

// residualsOf is the inverse of list.
func residualsOf(in []*Node, ss loraSpecs) *residuals {
	r := &residuals{attn: &saved{in[0], in[1], in[2], in[3]}, o: in[4], x2: in[5], gateUp: in[6], t: map[string]*Node{}}
	for i, s := range ss {
		r.t[s.proj] = in[7+i]
	}
	return r
}
