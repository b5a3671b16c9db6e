package layerwise

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
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
// A weight's scale is found once, from the unpacked values of its matrix. Where layers
// keep their residuals (MemorySave) and there is room, the rounded weights stay on the
// device while a trainer asks for them: a byte each beside the 4-bit codes, two with
// their transposes. Under MemoryRecompute and MemoryOffload, or without that room, each
// call rounds them again from the codes, to the same bits: it writes a byte a weight,
// half of what unpacking to 16 bits does, and nothing but the scales is kept. An
// activation's scale is made of its own largest value in the same program. In the graph a product is that of
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
	return float8By(x, scale), scale
}

// float8By rounds x to e4m3 values by a scale.
func float8By(x, scale *Node) *Node {
	v := Mul(ConvertDType(x, dtypes.Float32), Reciprocal(scale)) // a power of two has an exact one
	// By comparisons, which a value that is not a number passes.
	g, limit := x.Graph(), float64(float8Largest)
	v = Where(GreaterThan(v, scalarF32(g, limit)), BroadcastToShape(scalarF32(g, limit), v.Shape()), v)
	v = Where(LessThan(v, scalarF32(g, -limit)), BroadcastToShape(scalarF32(g, -limit), v.Shape()), v)
	return ConvertDType(v, dtypes.F8E4M3FN)
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

// eightBits are rows of a matrix in 8-bit floats inside a graph.
type eightBits struct {
	row, n int   // which of the matrix's
	bytes  *Node // u8 [n, in] where they are kept, e4m3 where this call rounds them
	scale  *Node // f32 scalar
	turned *Node // bytes' transpose u8 [in, n], or nil
}

// values are the rows in dt, of bytes as they are or turned.
func (e *eightBits) values(bytes *Node, dt dtypes.DType) *Node {
	return scaledBack(ConvertDType(bytes, dtypes.F8E4M3FN), e.scale, dt)
}

// float8Parts cuts a group into what is kept in 8-bit floats as matrices of their own:
// query, key and value, whose products are made one by one where they have adapters,
// for XLA makes no 8-bit product of rows that are cut out of a matrix; other groups stay
// whole, and an adapter's part is added to its columns.
func (s *groupSpec) float8Parts() (out []eightBits) {
	row := 0
	for _, p := range s.parts {
		if p.proj == "q_proj" || p.proj == "k_proj" || p.proj == "v_proj" || row == 0 {
			out = append(out, eightBits{row: row, n: p.out})
		} else {
			out[len(out)-1].n += p.out
		}
		row += p.out
	}
	return out
}

// float8Values are the values of a part, f32 [n, in], from the matrix's inputs. Those of
// the part alone are unpacked: XLA makes no 8-bit product of rows that are cut out later.
func (s *groupSpec) float8Values(in []*Node, e eightBits) *Node {
	if s.typ == "" {
		return ConvertDType(Slice(in[0], AxisRange(e.row, e.row+e.n)), dtypes.Float32)
	}
	absmax := in[1]
	if s.nested {
		absmax = s.scales(in[1], in[2], in[3])
	}
	one, row, from := *s, 0, 0
	one.parts, one.nested, one.bias = nil, false, false
	for _, p := range s.parts {
		if row >= e.row && row < e.row+e.n {
			one.parts = append(one.parts, p)
		} else if row < e.row {
			from += s.blocks(p)
		}
		row += p.out
	}
	to := from + one.totalBlocks()
	return one.dequantize(Slice(in[0], AxisRange(from*s.block/2, to*s.block/2)), Slice(absmax, AxisRange(from, to)), dtypes.Float32)
}

// float8Inputs are what programs of a mode take of a layer for products in 8-bit floats:
// the scale of each part and, where they are kept, bytes and then their transposes.
func (w *layerWeights) float8Inputs(c *passContext) []compute.Buffer {
	switch {
	case c.fp8 == FP8Off:
		return nil
	case !c.eightKept:
		return w.scales
	case c.fp8 == FP8Both:
		return slices.Concat(w.scales, w.eight, w.turned)
	}
	return slices.Concat(w.scales, w.eight)
}

// packed is the layer without unpacked matrices, whose values are rounded to the compute
// dtype already.
func (w *layerWeights) packed() *layerWeights {
	if w.resident == nil {
		return w
	}
	return &layerWeights{groups: w.groups, norm1: w.norm1, norm2: w.norm2}
}

// forPass is the layer as programs of a pass take it.
func (w *layerWeights) forPass(c *passContext) *layerWeights {
	if c.fp8 != FP8Off && !c.eightKept {
		return w.packed()
	}
	return w
}

// readFloat8 gives each matrix its 8-bit form from such inputs, or from its own.
func readFloat8(ms []matrix, in []*Node) {
	all := 0
	for i := range ms {
		ms[i].eight = ms[i].spec.float8Parts()
		all += len(ms[i].eight)
	}
	at := 0
	for i := range ms {
		own := slices.Clone(ms[i].in)
		if ms[i].spec.typ != "" && len(in) == all {
			// The barrier keeps XLA from unpacking once to float32, 4 bytes a weight, for
			// these values and for those in the compute dtype.
			own[0] = OptimizationBarrier(own[0])
		}
		for k := range ms[i].eight {
			e := &ms[i].eight[k]
			e.scale = in[at]
			if len(in) == all {
				e.bytes = float8By(ms[i].spec.float8Values(own, *e), e.scale)
			} else {
				e.bytes = in[all+at]
			}
			if len(in) == 3*all {
				e.turned = in[2*all+at]
			}
			at++
		}
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

// product is x·Wᵀ for n rows of a matrix from the row on, x as operand returns it. In
// 8-bit floats those are whole parts of the matrix.
func (l *linears) product(x *Node, m matrix, row, n int) *Node {
	if m.eight == nil {
		w := m.w
		if n < m.spec.out() {
			w = Slice(w, AxisRange(row, row+n))
		}
		return linearNT(x, w)
	}
	var ys []*Node
	for _, e := range m.eight {
		if e.row >= row && e.row+e.n <= row+n {
			ys = append(ys, linearNT(x, e.values(e.bytes, x.DType())))
		}
	}
	return joinColumns(ys)
}

// apart says whether the products of a matrix's projections are made one by one where
// one of them has an adapter.
func (m *matrix) apart() bool { return len(m.eight) != 1 }

// productBack is dy·W.
func (l *linears) productBack(dy *Node, m matrix) (dx *Node) {
	if m.eight == nil || !l.eightBack {
		return linearNN(dy, m.w)
	}
	for _, e := range m.eight {
		d := throughFloat8(columns(dy, e.row, e.n))
		var part *Node
		if e.turned != nil {
			part = linearNT(d, e.values(e.turned, dy.DType()))
		} else {
			part = linearNN(d, e.values(e.bytes, dy.DType()))
		}
		if dx == nil {
			dx = part
		} else {
			dx = Add(dx, part)
		}
	}
	return dx
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

// float8Bytes is what the base's matrices take in 8-bit floats.
func (b *Base) float8Bytes() (n int64) {
	for _, l := range b.layers {
		for _, g := range l.groups {
			n += int64(g.out()) * int64(g.in)
		}
	}
	return n
}

// scaleFloat8 finds the scales of the base's matrices, once. They stay with the base: 256
// bytes of the device's memory each.
func (b *Base) scaleFloat8() error {
	for _, l := range b.layers {
		if l.scales != nil {
			continue
		}
		var scales []compute.Buffer
		for _, g := range l.groups {
			out, err := b.eachFloat8("scales", g, nil, func(v, _ *Node) *Node {
				return float8Scale(ReduceAllMax(Abs(v)), b.dt)
			})
			if err != nil {
				drop(scales...)
				return err
			}
			scales = append(scales, out...)
		}
		l.scales = scales
	}
	return nil
}

// eachFloat8 runs a program that makes a tensor of every part of a matrix, from its values
// and, where they are given, its scale.
func (b *Base) eachFloat8(what string, g *group, scales []compute.Buffer, build func(values, scale *Node) *Node) ([]compute.Buffer, error) {
	spec := g.groupSpec
	spec.bias = false
	own := g.bufs
	if g.bias {
		own = own[:len(own)-1]
	}
	sh := spec.shapes()
	for range scales {
		sh = append(sh, shapeOf(dtypes.Float32))
	}
	p, err := b.dev.program("float8 "+what+" "+spec.key()+b.dt.String(), sh, func(_ *Graph, in []*Node) (out []*Node) {
		for i, e := range spec.float8Parts() {
			var scale *Node
			if len(in) > len(own) {
				scale = in[len(own)+i]
			}
			out = append(out, build(spec.float8Values(in, e), scale))
		}
		return out
	})
	if err != nil {
		return nil, err
	}
	return p.run(slices.Concat(own, scales))
}

// holdFloat8 keeps every base matrix in 8-bit floats, if no trainer has yet; each call
// wants one of dropFloat8. Scales are there.
func (b *Base) holdFloat8() (err error) {
	b.eightUsers++
	if b.eightUsers > 1 {
		return nil
	}
	defer func() {
		if err != nil {
			b.dropFloat8()
		}
	}()
	for _, l := range b.layers {
		at := 0
		for _, g := range l.groups {
			n := len(g.float8Parts())
			out, err := b.eachFloat8("bytes", g, l.scales[at:at+n], func(v, scale *Node) *Node {
				return ConvertDType(float8By(v, scale), dtypes.Uint8)
			})
			if err != nil {
				return err
			}
			at += n
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

// holdFloat8 keeps the base in 8-bit floats for this trainer's life where its layers keep
// their residuals and there is room. base.mu is held.
func (t *Trainer) holdFloat8() error {
	b := t.base
	if err := b.scaleFloat8(); err != nil {
		return err
	}
	inUse, limit := b.account()
	more := b.float8Bytes()
	if b.eightUsers > 0 {
		more = 0
	}
	if t.opt.Memory != MemorySave || limit > 0 && float64(inUse+more) > FitShare*float64(limit) {
		return nil
	}
	if err := b.holdFloat8(); err != nil {
		return err
	}
	t.eightKept = true
	return nil
}

// dropFloat8 undoes holdFloat8: from here on calls round the weights themselves.
func (t *Trainer) dropFloat8() {
	if t.eightKept {
		t.eightKept = false
		t.base.dropFloat8()
	}
}

// Gradients' products want the transposes of what the forward pass's want: cuBLASLt
// multiplies 8-bit floats along the last axis of both operands. Where there is room, as
// for unpacked layers, they are kept; else XLA makes them in each call, also of weights
// that the call rounds. Bytes of traffic for a weight there: to transpose what was rounded
// for the layer's second forward pass, 2 (read and written), and nothing where XLA unpacks the
// codes into the transpose's tiles, 1.5 (½ read). Codes unpacked in transposed order by the graph
// would take those 1.5 too, but both nibbles of a byte go to rows of their own, and the
// values of a block's scale lie in 64 of them: so the order is left to XLA.

// turnAll keeps the transposes of all 8-bit matrices.
func (b *Base) turnAll() error {
	for _, l := range b.layers {
		for i := range l.eight {
			in := l.eight[i : i+1]
			sh, err := shapesOf(in)
			if err != nil {
				return err
			}
			p, err := b.dev.program("transpose bytes", sh, func(_ *Graph, in []*Node) []*Node { return []*Node{Transpose(in[0], 0, 1)} })
			if err != nil {
				return err
			}
			out, err := p.run(in)
			if err != nil {
				return err
			}
			l.turned = append(l.turned, out...)
		}
	}
	b.turnedBytes = b.eightBytes
	return nil
}

// unturn frees what turnAll made.
func (b *Base) unturn() {
	for _, l := range b.layers {
		drop(l.turned...)
		l.turned = nil
	}
	b.turnedBytes = 0
}

// turn keeps transposes for this trainer's life if the device has room to spare. base.mu
// is held.
func (t *Trainer) turn(micro []*batch.Batch) error {
	b := t.base
	if t.turned {
		return nil
	}
	if b.turners == 0 {
		if !t.spare(b.eightBytes, micro) {
			return nil
		}
		if err := b.turnAll(); err != nil {
			b.unturn()
			return err
		}
	}
	t.turned = true
	b.turners++
	return nil
}

// unturn undoes turn.
func (t *Trainer) unturn() {
	if !t.turned {
		return
	}
	t.turned = false
	if t.base.turners--; t.base.turners == 0 && !t.base.freed {
		t.base.unturn()
	}
}
