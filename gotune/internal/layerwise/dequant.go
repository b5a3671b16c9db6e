package layerwise

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/quant"
)

// dequantize unpacks a group inside the graph:
//
//	w[i] = code[nibble i] · absmax[i / block]      in float32, then cast to dt
//
// which is bitsandbytes' rule (functional.dequantize_4bit), value for value.
// codes is u8 [n/2], absmax f32 [n/block]; the result is [Σ out, in].
func (s *groupSpec) dequantize(codes, absmax *Node, dt dtypes.DType) *Node {
	blocks := s.totalBlocks()
	v := Mul(Reshape(decodeNibbles(codes, s.typ), blocks, s.block), InsertAxes(absmax, -1))
	w := Reshape(ConvertDType(v, dt), blocks*s.block)
	if blocks*s.block == s.out()*s.in {
		return Reshape(w, s.out(), s.in)
	}
	rows := make([]*Node, len(s.parts))
	at := 0
	for i, p := range s.parts {
		rows[i] = Reshape(Slice(w, AxisRange(at, at+p.out*s.in)), p.out, s.in)
		at += s.blocks(p) * s.block
	}
	return Concatenate(rows, 0)
}

// decodeNibbles maps u8 [n/2] to the code's values, f32 [n/2, 2].
func decodeNibbles(codes *Node, typ quant.Type) *Node {
	g := codes.Graph()
	code := quant.Code(typ)
	table := Const(g, code[:])
	wide := ConvertDType(codes, dtypes.Int32)
	hi := BitwiseShiftRightLogicalScalar(wide, int32(4))
	lo := BitwiseAnd(wide, Scalar(g, dtypes.Int32, 15))
	return Gather(table, InsertAxes(Stack([]*Node{hi, lo}, -1), -1))
}

// scales restores double-quantized block scales:
//
//	absmax = dynamic[u8] · absmax2 + offset
//
// codes u8 [m, 256], absmax2 and offset f32 [m]; the result is f32 [Σ blocks].
func (s *groupSpec) scales(codes, absmax2, offset *Node) *Node {
	g := codes.Graph()
	v := Gather(Const(g, s.levels[:]), InsertAxes(ConvertDType(codes, dtypes.Int32), -1))
	// The barrier keeps product and sum apart: fused they would round once, not twice.
	v = OptimizationBarrier(Mul(v, InsertAxes(absmax2, -1)))
	flat := Reshape(Add(v, InsertAxes(offset, -1)), -1)
	parts := make([]*Node, len(s.parts))
	at := 0
	for i, p := range s.parts {
		parts[i] = Slice(flat, AxisRange(at, at+s.blocks(p)))
		at += s.superBlocks(p) * nestedBlock
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return Concatenate(parts, 0)
}

// scalarF32 is a float32 constant.
func scalarF32(g *Graph, v float64) *Node { return Scalar(g, dtypes.Float32, v) }

// shapeOf is shapes.Make with the dtype first, for the many parameter lists here.
func shapeOf(dt dtypes.DType, dims ...int) shapes.Shape { return shapes.Make(dt, dims...) }
