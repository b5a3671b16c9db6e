package layerwise

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// ropeTable is cos and sin of position · frequency (Su et al., arXiv:2104.09864;
// frequencies scaled as the model's config says), each f32 [T, d/2].
// positions is int32 [T].
func ropeTable(positions *Node, invFreq []float32) (cos, sin *Node) {
	p := InsertAxes(ConvertDType(positions, dtypes.Float32), -1)
	angle := Mul(p, InsertAxes(Const(positions.Graph(), invFreq), 0))
	return Cos(angle), Sin(angle)
}

// ropeRotate turns feature i with feature i + d/2 by the token's angle. x is
// [T, heads, d], cos and sin f32 [T, d/2]. The gradient of a rotation is the
// rotation by the negative angle: inverse does that.
func ropeRotate(x, cos, sin *Node, inverse bool) *Node {
	half := x.Shape().Dim(-1) / 2
	f := ConvertDType(x, dtypes.Float32)
	a := Slice(f, AxisRange(), AxisRange(), AxisRange(0, half))
	b := Slice(f, AxisRange(), AxisRange(), AxisRange(half, 2*half))
	c, s := InsertAxes(cos, 1), InsertAxes(sin, 1)
	if inverse {
		s = Neg(s)
	}
	return ConvertDType(Concatenate([]*Node{Sub(Mul(a, c), Mul(b, s)), Add(Mul(b, c), Mul(a, s))}, -1), x.DType())
}
