package optim

import (
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// Graph is one update as a graph: p, g, m, v are f32 [N], h is [Hyper] as f32 [6].
// It returns the new p, m and v.
func (o AdamW) Graph(p, g, m, v, h *Node) (p1, m1, v1 *Node) {
	at := func(i int) *Node { return Reshape(Slice(h, AxisRange(i, i+1))) }
	m1 = Add(m, Mul(Sub(g, m), at(hyperMix)))
	v1 = Add(Mul(v, at(hyperBeta2)), Mul(Mul(g, g), at(hyperSquare)))
	denom := AddScalar(Div(Sqrt(v1), at(hyperRoot)), o.Eps)
	p1 = Sub(Mul(p, at(hyperDecay)), Mul(Div(m1, denom), at(hyperStep)))
	return p1, m1, v1
}

// NormGraph is the Euclidean norm of g, f32 [N], as a scalar.
func NormGraph(g *Node) *Node { return Sqrt(ReduceAllSum(Mul(g, g))) }

// ClipGraph is [ClipFactor] for a norm known on the device only. A limit of 0
// gives 1.
func ClipGraph(norm *Node, limit float64) *Node {
	one := ScalarOne(norm.Graph(), norm.DType())
	if limit == 0 {
		return one
	}
	return Min(one, Div(Scalar(norm.Graph(), norm.DType(), limit), AddScalar(norm, 1e-6)))
}
