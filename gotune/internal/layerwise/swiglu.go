package layerwise

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// swiGLU is silu(gate) ∘ up with silu(z) = z·σ(z) (Shazeer, arXiv:2002.05202), in
// float32, returned in the inputs' dtype.
func swiGLU(gate, up *Node) *Node {
	g, u := ConvertDType(gate, dtypes.Float32), ConvertDType(up, dtypes.Float32)
	return ConvertDType(Mul(Mul(g, Sigmoid(g)), u), gate.DType())
}

// swiGLUBackward returns the gradients of [swiGLU] from gate and up alone:
//
//	dGate = dm ∘ up ∘ σ(1 + gate(1 − σ)),  dUp = dm ∘ gate ∘ σ
func swiGLUBackward(gate, up, dm *Node) (dGate, dUp *Node) {
	g, u := ConvertDType(gate, dtypes.Float32), ConvertDType(up, dtypes.Float32)
	d := ConvertDType(dm, dtypes.Float32)
	s := Sigmoid(g)
	dGate = Mul(Mul(d, u), Mul(s, OnePlus(Mul(g, OneMinus(s)))))
	dUp = Mul(d, Mul(g, s))
	return ConvertDType(dGate, gate.DType()), ConvertDType(dUp, up.DType())
}
