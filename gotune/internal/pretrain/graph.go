package main

import (
	"math"
	"strings"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/model"
)

// Order of a step's inputs: P weights, P first moments, P second moments, then these.
const (
	inIDs = iota
	inPositions
	inSegments
	inLabels
	inRate
	inStep // from 1, float32
	inRandom
	inCount
)

// batchInputs are ids, positions, segments of the arguments behind the weights.
func batchInputs(in []*Node) layerwise.ReferenceInputs {
	return layerwise.ReferenceInputs{IDs: in[inIDs], Positions: in[inPositions], Segments: in[inSegments]}
}

func byName(names []string, nodes []*Node) map[string]*Node {
	m := make(map[string]*Node, len(names))
	for i, n := range names {
		m[n] = nodes[i]
	}
	return m
}

// stepGraph is one training step: it returns the new weights and moments, the
// mean loss, and the gradient's norm before clipping.
func stepGraph(cfg *model.Config, names []string, s settings, matmul dtypes.DType) func(in []*Node) []*Node {
	return func(in []*Node) []*Node {
		n := len(names)
		weights, first, second, rest := in[:n], in[n:2*n], in[2*n:3*n], in[3*n:]
		opt := layerwise.ReferenceOptions{MatMul: matmul}
		if s.dropout > 0 {
			opt.Dropout = dropout(rest[inRandom], s.dropout)
		}
		logits := layerwise.Reference(cfg, byName(names, weights), batchInputs(rest), opt)
		loss, _ := layerwise.ReferenceLoss(logits, rest[inLabels])
		grads := Gradient(loss, weights...)
		var square *Node
		for _, g := range grads {
			if q := ReduceAllSum(Square(g)); square == nil {
				square = q
			} else {
				square = Add(square, q)
			}
		}
		norm := Sqrt(square)
		shrink := Min(ScalarOne(norm.Graph(), norm.DType()), Div(Scalar(norm.Graph(), norm.DType(), s.clip), AddScalar(norm, 1e-6)))
		out := make([]*Node, 3*n, 3*n+2)
		for i, name := range names {
			decay := s.decay
			if strings.HasSuffix(name, "norm.weight") {
				decay = 0
			}
			out[i], out[n+i], out[2*n+i] = adamW(weights[i], Mul(grads[i], shrink), first[i], second[i], rest[inRate], rest[inStep], s.beta2, decay)
		}
		return append(out, loss, norm)
	}
}

// adamW is one update (arXiv:1711.05101, algorithm 2), β1 = 0.9, ε = 1e-8:
//
//	m = β1·m + (1-β1)·g;  v = β2·v + (1-β2)·g²
//	w = w - η·(m/(1-β1ᵗ) / (√(v/(1-β2ᵗ)) + ε) + decay·w)
func adamW(w, g, m, v, rate, t *Node, beta2, decay float64) (_, _, _ *Node) {
	const beta1 = 0.9
	m = Add(MulScalar(m, beta1), MulScalar(g, 1-beta1))
	v = Add(MulScalar(v, beta2), MulScalar(Square(g), 1-beta2))
	unbias := func(beta float64) *Node { return OneMinus(Exp(MulScalar(t, math.Log(beta)))) }
	step := Div(Div(m, unbias(beta1)), AddScalar(Sqrt(Div(v, unbias(beta2))), 1e-8))
	return Sub(w, Mul(rate, Add(step, MulScalar(w, decay)))), m, v
}

// dropout returns a function that zeroes a share of x and scales up the rest. Each
// call draws anew from the random state.
func dropout(random *Node, share float64) func(x *Node) *Node {
	return func(x *Node) *Node {
		var u *Node
		random, u = RandomUniform(random, x.Shape())
		keep := GreaterOrEqual(u, Scalar(x.Graph(), u.DType(), share))
		return Where(keep, MulScalar(x, 1/(1-share)), ZerosLike(x))
	}
}

// lossGraph returns the summed loss of a batch and the number of its supervised tokens.
func lossGraph(cfg *model.Config, names []string, matmul dtypes.DType) func(in []*Node) []*Node {
	return func(in []*Node) []*Node {
		n := len(names)
		logits := layerwise.Reference(cfg, byName(names, in[:n]), batchInputs(in[n:]), layerwise.ReferenceOptions{MatMul: matmul})
		_, perToken := layerwise.ReferenceLoss(logits, in[n+inLabels])
		s := perToken.Shape().Dim(1)
		next := Slice(in[n+inLabels], AxisRange(), AxisRange(1, s+1))
		supervised := NotEqual(next, Scalar(next.Graph(), next.DType(), -100))
		return []*Node{ReduceAllSum(perToken), ReduceAllSum(ConvertDType(supervised, dtypes.Float32))}
	}
}

// nextGraph returns the logits [V] that follow token `at` of one row of ids [1, S].
func nextGraph(cfg *model.Config, names []string) func(in []*Node) *Node {
	return func(in []*Node) *Node {
		n := len(names)
		logits := layerwise.Reference(cfg, byName(names, in[:n]), layerwise.ReferenceInputs{IDs: in[n]}, layerwise.ReferenceOptions{})
		zero := ScalarZero(logits.Graph(), dtypes.Int32)
		row := DynamicSlice(logits, []*Node{zero, in[n+1], zero}, []int{1, 1, cfg.VocabSize})
		return Reshape(row, cfg.VocabSize)
	}
}
