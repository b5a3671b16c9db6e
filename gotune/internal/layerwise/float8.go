package layerwise

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/backend"
)

// With TrainOptions.FP8 the products of a training step with the frozen base take 8-bit
// floats, which units of compute capability 8.9 and newer multiply at about twice the
// rate of 16-bit ones. Both operands are e4m3 (3 bits of mantissa, largest value 448)
// times one scale for the whole tensor, a power of two:
//
//	s = 2^⌈log2(max|x| / 448)⌉,   q = e4m3(x / s),   x·Wᵀ ≈ s_x·s_W · q_x·q_Wᵀ
//
// So scaling never rounds, and the scale is exact in every compute dtype. A scale for
// each row would gain next to nothing (values down to 2⁻¹⁵ of the largest keep all bits)
// and cuBLASLt takes one for a tensor.
//
// Weights are rounded once, from their unpacked values, and stay on the device while a
// trainer asks for them: a byte each beside the 4-bit codes. An activation's scale is
// made of its own largest value in the same program. In the graph a product is that of
// 8-bit values converted to the compute dtype and scaled; XLA makes cuBLASLt's FP8
// product of that pattern, and on a CPU computes it as it is written. Nothing saturates
// but by rounding; a value that is not a number stays one.
//
// What is not a product with the base stays as it was: adapters, norms, attention,
// output layer, optimizer; so do evaluation and generation.

// Modes of TrainOptions.FP8.
const (
	FP8Off     = ""        // no 8-bit floats
	FP8Forward = "forward" // the forward pass's products; gradients flow through the unpacked weights
	FP8Both    = "both"    // also the gradients' products with the base
)

// float8Largest is the largest e4m3 value.
const float8Largest = 448

// float8Scale is the scale for a tensor whose largest absolute value is amax (f32
// scalar). It is not finite where amax is not.
func float8Scale(amax *Node, dt dtypes.DType) *Node {
	g := amax.Graph()
	least := 0x1p-100
	if dt == dtypes.Float16 {
		least = 0x1p-14 // the scale is a float16 too
	}
	s := Max(DivScalar(amax, float8Largest), scalarF32(g, least))
	// Up to a power of two: carry the mantissa into the exponent, and drop it.
	bits := Add(Bitcast(s, dtypes.Uint32), Scalar(g, dtypes.Uint32, 0x7fffff))
	pow := Bitcast(BitwiseAnd(bits, Scalar(g, dtypes.Uint32, 0x7f800000)), dtypes.Float32)
	return Where(IsFinite(amax), pow, amax)
}

// float8 rounds x to e4m3 values q and their scale, an f32 scalar of use in dt.
func float8(x *Node, dt dtypes.DType) (q, scale *Node) {
	scale = float8Scale(ConvertDType(ReduceAllMax(Abs(x)), dtypes.Float32), dt)
	v := Mul(ConvertDType(x, dtypes.Float32), Reciprocal(scale)) // a power of two has an exact one
	// By comparisons, which a value that is not a number passes.
	g, limit := x.Graph(), float64(float8Largest)
	v = Where(GreaterThan(v, scalarF32(g, limit)), BroadcastToShape(scalarF32(g, limit), v.Shape()), v)
	v = Where(LessThan(v, scalarF32(g, -limit)), BroadcastToShape(scalarF32(g, -limit), v.Shape()), v)
	return ConvertDType(v, dtypes.F8E4M3FN), scale
}

// scaledBack is q·scale in dt.
func scaledBack(q, scale *Node, dt dtypes.DType) *Node {
	return Mul(ConvertDType(q, dt), ConvertDType(scale, dt))
}

// throughFloat8 is x rounded to 8 bits and scaled back, in its own dtype.
func throughFloat8(x *Node) *Node {
	q, scale := float8(x, x.DType())
	return scaledBack(q, scale, x.DType())
}

// A program's inputs and results can't be 8-bit floats (package cuda): weights are kept
// as their bytes, which cuda reads as the values.

// eightBits is a matrix in 8-bit floats inside a graph.
type eightBits struct {
	bytes *Node // u8 [Σ out, in]
	scale *Node // f32 scalar
}

// rows are n rows from the row on, in dt.
func (e *eightBits) rows(row, n int, dt dtypes.DType) *Node {
	q := e.bytes
	if n < q.Shape().Dim(0) {
		q = Slice(q, AxisRange(row, row+n))
	}
	return scaledBack(ConvertDType(q, dtypes.F8E4M3FN), e.scale, dt)
}

// readFloat8 gives each matrix its 8-bit form from the layer's last inputs, as
// layerWeights.eight has them.
func readFloat8(ms []matrix, in []*Node) {
	for i := range ms {
		ms[i].eight = &eightBits{bytes: in[2*i], scale: in[2*i+1]}
	}
}

// operand is x as the products with the base take it: where they are in 8-bit floats,
// rounded to those.
func (l *linears) operand(x *Node) *Node {
	if len(l.matrices) == 0 || l.matrices[0].eight == nil {
		return x
	}
	return throughFloat8(x)
}

// product is x·Wᵀ for n rows of a matrix from the row on, x as operand returns it.
func (l *linears) product(x *Node, m matrix, row, n int) *Node {
	if m.eight != nil {
		return linearNT(x, m.eight.rows(row, n, x.DType()))
	}
	w := m.w
	if n < m.spec.out() {
		w = Slice(w, AxisRange(row, row+n))
	}
	return linearNT(x, w)
}

// productBack is dy·W.
func (l *linears) productBack(dy *Node, m matrix) *Node {
	if m.eight != nil && l.eightBack {
		return linearNN(throughFloat8(dy), m.eight.rows(0, m.spec.out(), dy.DType()))
	}
	return linearNN(dy, m.w)
}

// hasFloat8 returns an error where a device can't do a mode of TrainOptions.FP8.
func hasFloat8(info backend.Info, mode string) error {
	const next = "leave FP8 out, or train on a GPU of compute capability 8.9 or newer (L4, RTX 4090, H100)"
	switch {
	case mode == FP8Off:
	case info.GPU != nil && !info.GPU.FP8():
		return fmt.Errorf("layerwise: train with FP8 %q: %s has no 8-bit float units; %s", mode, info.GPU, next)
	case info.Name != backend.CUDA && info.Name != backend.CPU:
		return fmt.Errorf("layerwise: train with FP8 %q: backend %s has no 8-bit floats; %s", mode, info.Name, next)
	}
	return nil
}

// holdFloat8 makes the 8-bit form of every base matrix, if no trainer has yet; each
// call wants one of dropFloat8.
func (b *Base) holdFloat8() (err error) {
	b.eightUsers++
	if b.eightBytes > 0 {
		return nil
	}
	defer func() {
		if err != nil {
			b.dropFloat8()
		}
	}()
	for _, l := range b.layers {
		for _, g := range l.groups {
			spec := g.groupSpec
			spec.bias = false
			in := g.bufs
			if g.bias {
				in = in[:len(in)-1]
			}
			p, err := b.dev.program("float8 "+spec.key()+b.dt.String(), spec.shapes(), func(_ *Graph, in []*Node) []*Node {
				m, _ := spec.read(in, dtypes.Float32)
				q, scale := float8(m.w, b.dt)
				return []*Node{ConvertDType(q, dtypes.Uint8), scale}
			})
			if err != nil {
				return err
			}
			out, err := p.run(in)
			if err != nil {
				return err
			}
			l.eight = append(l.eight, out...)
			b.eightBytes += int64(g.out()) * int64(g.in)
		}
	}
	return nil
}

// dropFloat8 undoes holdFloat8.
func (b *Base) dropFloat8() {
	if b.eightUsers--; b.eightUsers > 0 || b.freed {
		return
	}
	for _, l := range b.layers {
		drop(l.eight...)
		l.eight = nil
	}
	b.eightBytes = 0
}
