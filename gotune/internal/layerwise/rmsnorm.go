package layerwise

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// rmsNorm is RMSNorm (Zhang & Sennrich, arXiv:1910.07467), computed in float32:
//
//	r = 1 / sqrt(mean(x²) + ε)        y = x · r ∘ w
//
// x is [T, D], w is f32 [D]; y [T, D] has dtype dt.
func rmsNorm(x, w *Node, eps float64, dt dtypes.DType) *Node {
	f := ConvertDType(x, dtypes.Float32)
	return ConvertDType(Mul(Mul(f, invRMS(f, eps)), InsertAxes(w, 0)), dt)
}

// invRMS is 1/sqrt(mean(f²) + ε), f32 [T, 1].
func invRMS(f *Node, eps float64) *Node {
	return Reciprocal(Sqrt(AddScalar(ReduceAndKeep(Mul(f, f), ReduceMean, -1), eps)))
}

// rmsNormBackward is the gradient of [rmsNorm] in x, f32 [T, D]:
//
//	n = x·r,  g = dy∘w:   dx = r · (g − n · mean(g∘n))
func rmsNormBackward(x, w, dy *Node, eps float64) *Node {
	f := ConvertDType(x, dtypes.Float32)
	r := invRMS(f, eps)
	n := Mul(f, r)
	g := Mul(ConvertDType(dy, dtypes.Float32), InsertAxes(w, 0))
	return Mul(r, Sub(g, Mul(n, ReduceAndKeep(Mul(g, n), ReduceMean, -1))))
}
