package layerwise

import (
	"fmt"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"

	"github.com/gotune/gotune/gotune/internal/parallel"
	"github.com/gotune/gotune/gotune/internal/quant"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// hostWeight is a projection on its way to the device: packed, or a view of the
// checkpoint.
type hostWeight struct {
	proj, name string
	out, in    int
	packed     *quant.Tensor // nil when kept plain
	plain      safetensors.Tensor
	bias       []float32 // nil without
	room       *room     // what packed lies in; nil if elsewhere
}

// alike says whether two projections can share one matrix.
func (h *hostWeight) alike(o hostWeight) bool {
	if h.in != o.in || (h.packed == nil) != (o.packed == nil) || (h.bias == nil) != (o.bias == nil) {
		return false
	}
	p, q := h.packed, o.packed
	return p == nil || p.Type == q.Type && p.BlockSize == q.BlockSize && (p.Nested == nil) == (q.Nested == nil)
}

// hostWeight reads a projection and its bias, and quantizes it, if asked, into
// room.
func (l *loader) hostWeight(layer int, proj string, room *room) (h hostWeight, err error) {
	if err = l.ctx.Err(); err != nil {
		return h, err
	}
	h.proj, h.name = proj, l.cfg.Weight(layer, proj)
	h.out, h.in = l.cfg.ProjShape(proj)
	packed, ok, err := l.ck.Quantized(h.name)
	switch {
	case err != nil:
		return h, err
	case ok:
		h.packed = packed
		l.done.Add(packed.Bytes())
	case l.opt.Quant == QuantNone:
		h.plain, err = l.read(h.name)
	default:
		h.room = room
		h.packed, err = l.quantize(h.name, room, h.out*h.in)
	}
	if err != nil {
		return h, err
	}
	if name, ok := l.cfg.Bias(layer, proj); ok {
		t, err := l.read(name)
		if err != nil {
			return h, err
		}
		if h.bias, err = t.Float32(); err != nil {
			return h, fmt.Errorf("layerwise: load %s: %w", name, err)
		}
	}
	return h, nil
}

// quantize packs n weights into the next part of room.
func (l *loader) quantize(name string, room *room, n int) (*quant.Tensor, error) {
	r, spec, err := l.ck.Reader(name)
	if err != nil {
		return nil, err
	}
	blocks := (n + l.opt.BlockSize - 1) / l.opt.BlockSize
	part := room.take(blocks)
	q, err := quant.QuantizeFrom(part, quant.Type(l.opt.Quant), spec, r, l.opt.BlockSize, l.opt.DoubleQuant)
	if err != nil {
		return nil, fmt.Errorf("layerwise: quantize %s: %w", name, err)
	}
	clear(part.Codes[len(q.Codes):])
	size, _ := spec.Bytes() // QuantizeFrom has computed it already
	l.done.Add(size)
	return q, nil
}

// upload puts projections that are alike on the device as one group.
func (l *loader) upload(hs []hostWeight) (*group, error) {
	g := &group{groupSpec: groupSpec{in: hs[0].in, dtype: l.dt, bias: hs[0].bias != nil}}
	for _, h := range hs {
		g.parts = append(g.parts, part{h.proj, h.out})
	}
	var err error
	if q := hs[0].packed; q != nil {
		g.typ, g.block, g.nested = q.Type, q.BlockSize, q.Nested != nil
		err = l.uploadPacked(g, hs)
	} else {
		err = l.uploadPlain(g, hs)
	}
	if err == nil && g.bias {
		var bias []float32
		for _, h := range hs {
			bias = append(bias, h.bias...)
		}
		err = l.push(g, bias, dtypes.Float32, len(bias))
	}
	if err != nil {
		drop(g.bufs...)
		return nil, err
	}
	for _, h := range hs {
		dtype, bytes := l.opt.ComputeDType, int64(h.out*h.in*l.dt.Size())
		if h.packed != nil {
			dtype, bytes = string(h.packed.Type), h.packed.Bytes()
		} else {
			l.ck.Drop(h.name)
		}
		l.finished(h.name, []int{h.out, h.in}, dtype, bytes+int64(4*len(h.bias)), h.packed != nil)
	}
	return g, nil
}

// push uploads the group's next tensor.
func (l *loader) push(g *group, flat any, dt dtypes.DType, dims ...int) error {
	buf, err := l.dev.upload(flat, dt, dims...)
	if err == nil {
		g.bufs = append(g.bufs, buf)
	}
	return err
}

// uploadPacked lays codes and scales out as groupSpec describes.
func (l *loader) uploadPacked(g *group, hs []hostWeight) error {
	r := hs[0].room
	if r != nil && !r.full(len(hs)) {
		r = nil
	}
	if err := l.pushCodes(g, hs, r); err != nil {
		return err
	}
	if !g.nested {
		return l.pushScales(g, hs, r)
	}
	var scales []byte
	var absmax2, offset []float32
	for i, h := range hs {
		n, m := h.packed.Nested, g.superBlocks(g.parts[i])
		if n.BlockSize != nestedBlock || len(n.Absmax) != m {
			return fmt.Errorf("layerwise: load %s: %d scales of scales for blocks of %d, want %d for blocks of %d", h.name, len(n.Absmax), n.BlockSize, m, nestedBlock)
		}
		block := make([]byte, m*nestedBlock)
		copy(block, n.Codes)
		scales, absmax2 = append(scales, block...), append(absmax2, n.Absmax...)
		for range m {
			offset = append(offset, n.Offset)
		}
		g.levels = *n.Map
	}
	m := len(absmax2)
	return firstError(l.push(g, scales, dtypes.Uint8, m, nestedBlock),
		l.push(g, absmax2, dtypes.Float32, m), l.push(g, offset, dtypes.Float32, m))
}

// pushCodes uploads the group's codes, or takes them over from r, which is nil if
// they do not fill one room.
func (l *loader) pushCodes(g *group, hs []hostWeight, r *room) error {
	if r != nil && r.codesBuf != nil {
		g.bufs, r.codesBuf = append(g.bufs, r.codesBuf), nil
		return nil
	}
	if r != nil {
		return l.push(g, r.codes, dtypes.Uint8, len(r.codes))
	}
	buf, err := filled(l.dev, dtypes.Uint8, func(codes []byte) error {
		for i, h := range hs {
			dst := codes[:g.blocks(g.parts[i])*g.block/2]
			parallel.For(len(h.packed.Codes), 1<<20, func(from, to int) { copy(dst[from:to], h.packed.Codes[from:to]) })
			clear(dst[len(h.packed.Codes):])
			codes = codes[len(dst):]
		}
		return nil
	}, g.totalBlocks()*g.block/2)
	if err == nil {
		g.bufs = append(g.bufs, buf)
	}
	return err
}

// pushScales is pushCodes for scales that are not quantized themselves.
func (l *loader) pushScales(g *group, hs []hostWeight, r *room) error {
	if r != nil && r.absmaxBuf != nil {
		g.bufs, r.absmaxBuf = append(g.bufs, r.absmaxBuf), nil
		return nil
	}
	if r != nil {
		return l.push(g, r.absmax, dtypes.Float32, len(r.absmax))
	}
	var absmax []float32
	for _, h := range hs {
		absmax = append(absmax, h.packed.Absmax...)
	}
	return l.push(g, absmax, dtypes.Float32, len(absmax))
}

// uploadPlain joins plain weights row-wise in the compute dtype.
func (l *loader) uploadPlain(g *group, hs []hostWeight) (err error) {
	var buf compute.Buffer
	if len(hs) == 1 {
		buf, err = l.uploadAs(hs[0].plain, g.out(), g.in)
	} else {
		joined := make([]float32, g.out()*g.in)
		at := 0
		for _, h := range hs {
			n := h.out * h.in
			if err := h.plain.Float32Into(joined[at:at+n], 0, n); err != nil {
				return fmt.Errorf("layerwise: load %s: %w", h.name, err)
			}
			at += n
		}
		buf, err = l.dev.upload(hostFloats(joined, l.dt), l.dt, g.out(), g.in)
	}
	if err == nil {
		g.bufs = append(g.bufs, buf)
	}
	return err
}

// hostView returns a tensor's values as the slice type of dt without a copy, when
// it has that type and lies aligned in memory.
func hostView(t safetensors.Tensor, dt dtypes.DType) (flat any, ok bool) {
	if len(t.Data) == 0 || uintptr(unsafe.Pointer(&t.Data[0]))%uintptr(dt.Size()) != 0 {
		return nil, false
	}
	p, n := unsafe.Pointer(&t.Data[0]), t.Len()
	switch {
	case dt == dtypes.Float32 && t.DType == safetensors.F32:
		return unsafe.Slice((*float32)(p), n), true
	case dt == dtypes.BFloat16 && t.DType == safetensors.BF16:
		return unsafe.Slice((*bfloat16.BFloat16)(p), n), true
	case dt == dtypes.Float16 && t.DType == safetensors.F16:
		return unsafe.Slice((*float16.Float16)(p), n), true
	}
	return nil, false
}

// hostFloats rounds values to dt, to nearest, ties to even.
func hostFloats(x []float32, dt dtypes.DType) any {
	const grain = 1 << 14
	switch dt {
	case dtypes.BFloat16:
		out := make([]bfloat16.BFloat16, len(x))
		parallel.For(len(x), grain, func(from, to int) {
			for i := from; i < to; i++ {
				out[i] = bfloat16.BFloat16(safetensors.F32ToBF16(x[i]))
			}
		})
		return out
	case dtypes.Float16:
		out := make([]float16.Float16, len(x))
		parallel.For(len(x), grain, func(from, to int) {
			for i := from; i < to; i++ {
				out[i] = float16.Float16(safetensors.F32ToF16(x[i]))
			}
		})
		return out
	}
	return x
}
