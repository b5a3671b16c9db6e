package lora

import (
	"fmt"
	"math"
	"strings"
	"sync/atomic"

	"github.com/gotune/gotune/gotune/internal/parallel"
	"github.com/gotune/gotune/gotune/internal/quant"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// tensor computes one weight of the merged model, in the type of spec. Its values
// are valid until the next call.
func (m *merger) tensor(spec safetensors.Spec) (safetensors.Tensor, error) {
	var mod *Module
	if m.adapter != nil {
		mod = m.adapter.Modules[strings.TrimSuffix(spec.Name, ".weight")]
	}
	src, err := m.source(spec.Name)
	if err != nil {
		return safetensors.Tensor{}, err
	}
	if mod == nil && src.packed == nil && src.plain.DType == spec.DType {
		return src.plain, nil // as it is: a view of the mapped file
	}
	n, err := spec.Bytes()
	if err != nil {
		return safetensors.Tensor{}, fmt.Errorf("lora: merge: %w", err)
	}
	// One buffer serves all weights: each is written before the next is computed.
	if int64(cap(m.buf)) < n {
		m.buf = make([]byte, n)
	}
	out := safetensors.Tensor{Name: spec.Name, DType: spec.DType, Shape: spec.Shape, Data: m.buf[:n]}
	cols := spec.Shape[len(spec.Shape)-1]
	mw := mergedWeight{src: src, out: out, cols: cols, rows: out.Len() / max(cols, 1)}
	if mod != nil {
		mw.delta, mw.magnitude = newDelta(mod, m.adapter.Config), mod.Magnitude
	}
	if row := mw.run(); row >= 0 {
		return out, fmt.Errorf("lora: merge: tensor %q: row %d has a value that %s cannot hold, or that is no number: %s", spec.Name, row, spec.DType, overflowHint(spec.DType))
	}
	return out, nil
}

func overflowHint(dt safetensors.DType) string {
	if dt == safetensors.F16 {
		return "merge into BF16 or F32, whose range is larger"
	}
	return "the adapter or the base model is broken; check the training's loss"
}

// source is a base weight as stored.
type source struct {
	plain  safetensors.Tensor
	packed *quant.Tensor // nil for a plain one
}

func (m *merger) source(name string) (source, error) {
	q, ok, err := m.ck.Quantized(name)
	if err != nil {
		return source{}, err
	}
	if ok {
		return source{packed: q}, nil
	}
	t, err := m.ck.Tensor(name)
	return source{plain: t}, err
}

// mergedWeight computes a weight block by block of rows, each from base values to
// rounded bytes while it is in the cache.
type mergedWeight struct {
	src        source
	out        safetensors.Tensor
	rows, cols int
	delta      *delta    // nil: convert only
	magnitude  []float32 // DoRA, or nil
}

// run returns the first row with a value that is not finite, or -1.
func (w *mergedWeight) run() int {
	grain := max(2, (1<<16)/max(w.cols, 1)&^1)
	if w.delta != nil {
		grain = w.delta.rowsPerBlock()
	}
	if q := w.src.packed; q != nil {
		grain = wholeBlocks(grain, w.cols, q.BlockSize)
	}
	var bad atomic.Int64
	bad.Store(math.MaxInt64)
	parallel.For(w.rows, grain, func(from, to int) {
		base := make([]float32, grain*w.cols)
		var buf []float32
		if w.delta != nil {
			buf = w.delta.buffer()
		}
		for r := from; r < to; r += grain {
			n := min(grain, to-r)
			if row := w.block(base[:n*w.cols], buf, r, n); row >= 0 {
				for old := bad.Load(); int64(row) < old && !bad.CompareAndSwap(old, int64(row)); old = bad.Load() {
				}
				return
			}
		}
	})
	if b := bad.Load(); b < math.MaxInt64 {
		return int(b)
	}
	return -1
}

// wholeBlocks returns the smallest multiple of grain rows that ends on a
// quantization block, so that every range of rows begins one.
func wholeBlocks(grain, cols, blockSize int) int {
	a, b := cols*grain, blockSize
	for b != 0 {
		a, b = b, a%b
	}
	return grain * (blockSize / a)
}

// block computes the rows [r, r+n).
func (w *mergedWeight) block(base, buf []float32, r, n int) int {
	dt, at := w.out.DType, r*w.cols
	if w.src.packed != nil {
		w.src.packed.DequantizeRange(base, at)
	} else if err := w.src.plain.Float32Into(base, at, len(base)); err != nil {
		return r // Check has seen the type and the shape: not reached
	}
	if w.delta != nil {
		if w.src.packed != nil || w.src.plain.DType != dt {
			roundTo(dt, base)
		}
		step := w.delta.rowsPerBlock()
		for i := 0; i < n; i += step {
			rows := w.delta.rows(buf, r+i, min(step, n-i))
			for j := range min(step, n-i) {
				w.add(base[(i+j)*w.cols:(i+j+1)*w.cols], rows(j), r+i+j)
			}
		}
	}
	size := dt.Size()
	dst := w.out.Data[at*size : (at+len(base))*size]
	if err := safetensors.PutFloat32(dst, dt, base); err != nil {
		return r // the type was checked: not reached
	}
	if i := notFinite(dt, dst); i >= 0 {
		return r + i/w.cols
	}
	return -1
}

// add puts the update on a row: W + d, scaled to the magnitude for DoRA.
func (w *mergedWeight) add(row, d []float32, r int) {
	if w.magnitude == nil {
		for i := range row {
			row[i] += d[i]
		}
		return
	}
	factor := w.magnitude[r] / rowNorm(row, d)
	for i := range row {
		row[i] = factor * (row[i] + d[i])
	}
}

// roundTo rounds values to a 16-bit type and back.
func roundTo(dt safetensors.DType, x []float32) {
	switch dt {
	case safetensors.F16:
		for i, v := range x {
			x[i] = safetensors.F16ToF32(safetensors.F32ToF16(v))
		}
	case safetensors.BF16:
		for i, v := range x {
			x[i] = safetensors.BF16ToF32(safetensors.F32ToBF16(v))
		}
	}
}

// notFinite returns the index of the first value with all exponent bits set, or
// -1.
func notFinite(dt safetensors.DType, data []byte) int {
	size := dt.Size()
	mask := uint16(0x7f80) // BF16, and the upper half of F32
	if dt == safetensors.F16 {
		mask = 0x7c00
	}
	for i := size; i <= len(data); i += size {
		if (uint16(data[i-2])|uint16(data[i-1])<<8)&mask == mask {
			return i/size - 1
		}
	}
	return -1
}
