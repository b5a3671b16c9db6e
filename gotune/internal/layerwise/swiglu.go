package layerwise

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// swiGLU takes gate and up side by side, [T, 2F]. It is silu(gate) ∘ up, [T, F], with silu(z) = z·σ(z) (Shazeer, arXiv:2002.05202), in
// float32, returned in the inputs' dtype.
func swiGLU(gateUp *Node) *Node {
	g, u := gateAndUp(gateUp)
	return ConvertDType(Mul(Mul(g, Sigmoid(g)), u), gateUp.DType())
}

// gateAndUp cuts [T, 2F] in two, in float32.
func gateAndUp(gateUp *Node) (gate, up *Node) {
	n := gateUp.Shape().Dim(1) / 2
	return ConvertDType(columns(gateUp, 0, n), dtypes.Float32), ConvertDType(columns(gateUp, n, n), dtypes.Float32)
}

// swiGLUBackward returns the gradient of [swiGLU], [T, 2F], from gate and up alone:
//
//	dGate = dm ∘ up ∘ σ(1 + gate(1 − σ)),  dUp = dm ∘ gate ∘ σ
func swiGLUBackward(gateUp, dm *Node) *Node {
	g, u := gateAndUp(gateUp)
	d := ConvertDType(dm, dtypes.Float32)
	s := Sigmoid(g)
	dGate := Mul(Mul(d, u), Mul(s, OnePlus(Mul(g, OneMinus(s)))))
	dUp := Mul(d, Mul(g, s))
	return joinColumns([]*Node{ConvertDType(dGate, gateUp.DType()), ConvertDType(dUp, gateUp.DType())})
}
