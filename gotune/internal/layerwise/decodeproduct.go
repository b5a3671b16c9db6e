package layerwise

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/quant"
)

// directRows and kernelRows are how many rows the direct product serves, as XLA's code and
// as gotune's kernel, which read the codes once for each row; with more, unpacking a
// matrix once and multiplying it is cheaper.
const directRows, kernelRows = 4, 8

// packedMatrix is a group as it is stored.
type packedMatrix struct {
	codes, absmax *Node // u8 [n/2], f32 [n/block]; nil for plain values
}

// packedMatrices reads the groups of a layer.
func packedMatrices(specs []groupSpec, in []*Node) (out []packedMatrix) {
	for i := range specs {
		s := &specs[i]
		var m packedMatrix
		switch {
		case s.typ == "":
		case s.nested:
			m.codes, m.absmax = in[0], s.scales(in[1], in[2], in[3])
		default:
			m.codes, m.absmax = in[0], in[1]
		}
		out, in = append(out, m), in[len(s.shapes()):]
	}
	return out
}

// times is x·Wᵀ for x [B, in], f32 [B, out], without writing the unpacked matrix
// where that can be. m is the same group unpacked; it costs nothing when unused.
func (p *packedMatrix) times(x *Node, m matrix, kernel bool) *Node {
	s := m.spec
	switch {
	case s.typ == "" && x.Shape().Dim(0) == 1:
		return rowProduct(x, m.w)
	case s.typ == "" || s.in%s.block != 0:
		return linearNT(x, m.w)
	case kernel && s.kernelTakes():
		return kernelProduct(s, p.codes, p.absmax, x)
	}
	rows := make([]*Node, x.Shape().Dim(0))
	for i := range rows {
		rows[i] = packedProduct(s, p.codes, p.absmax, Slice(x, AxisElem(i)))
	}
	if len(rows) == 1 {
		return rows[0]
	}
	return Concatenate(rows, 0)
}

// packedProduct is W·x for a packed matrix [out, in] and x [1, in], f32 [1, out]:
//
//	y[o] = Σ_block absmax[o, block] · Σ_i code[nibble(o, i)] · x[i]
//
// as one reduction over words of eight codes, so that the device reads 4 bits a
// weight and writes nothing but y. bitsandbytes' order puts code 2i in the high
// nibble of byte i: of a little-endian word codes 0 … 7 are bits 4, 0, 12, 8, 20, ….
func packedProduct(s *groupSpec, codes, absmax, x *Node) *Node {
	out, blocks, words := s.out(), s.in/s.block, s.block/8
	w := Bitcast(Reshape(codes, out, blocks, words, 4), dtypes.Uint32)
	xs := Reshape(ConvertDType(x, dtypes.Float32), 1, blocks, words, 8)
	var sum *Node
	for i := range 8 {
		shift := uint32(4 * (i ^ 1))
		nibble := BitwiseAnd(BitwiseShiftRightLogicalScalar(w, shift), Scalar(w.Graph(), dtypes.Uint32, 15))
		xi := Reshape(Slice(xs, AxisRange(), AxisRange(), AxisRange(), AxisElem(i)), 1, blocks, words)
		term := Mul(codeValues(nibble, s.typ), xi)
		if sum == nil {
			sum = term
		} else {
			sum = Add(sum, term)
		}
	}
	sum = Mul(sum, InsertAxes(Reshape(absmax, out, blocks), -1))
	return Reshape(ReduceSum(sum, 1, 2), 1, out)
}

// codeValues maps codes of any integer type to their values, f32.
func codeValues(codes *Node, typ quant.Type) *Node {
	table := quant.Code(typ)
	return Gather(Const(codes.Graph(), table[:]), InsertAxes(ConvertDType(codes, dtypes.Int32), -1))
}

// rowProduct is W·x for x [1, in] and W [out, in] as one reduction along W's rows, f32
// [1, out].
func rowProduct(x, w *Node) *Node {
	f := func(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }
	return InsertAxes(ReduceSum(Mul(f(w), f(x)), -1), 0)
}

// adaptDirect is [linears.adapt] without dropout, for one row with the adapter's
// float32 values as they are stored.
func (l *stepLayer) adaptDirect(proj string, x, base *Node) *Node {
	m := l.lora[proj]
	if m == nil || m.dora || x.Shape().Dim(0) != 1 {
		y, _ := l.adapt(proj, x, base)
		return y
	}
	t := rowProduct(x, m.a)
	y := Add(base, ConvertDType(rowProduct(ConvertDType(t, l.dt), m.scaled), l.dt))
	if mx, row := l.groupOf(proj); mx.bias != nil {
		y = Add(y, ConvertDType(InsertAxes(Slice(mx.bias, AxisRange(row, row+y.Shape().Dim(-1))), 0), y.DType()))
	}
	return y
}
