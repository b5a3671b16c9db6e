package quant

import (
	"fmt"

	"github.com/gotune/gotune/gotune/internal/parallel"
)

// Len returns the number of weights.
func (t *Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Bytes returns the memory that the packed form takes on a device: codes and
// scales, the scales in 8 bits if they are nested.
func (t *Tensor) Bytes() int64 {
	if n := t.Nested; n != nil {
		return int64(len(t.Codes) + len(n.Codes) + 4*len(n.Absmax) + 4)
	}
	return int64(len(t.Codes) + 4*len(t.Absmax))
}

// Dequantize writes the weights code[c]·absmax, rounded to float32, into dst on
// all cores. dst must have room for Len weights; a shorter one takes the first.
func (t *Tensor) Dequantize(dst []float32) {
	t.DequantizeRange(dst[:min(len(dst), t.Len())], 0)
}

// DequantizeRange writes len(dst) weights from index from on. from must be a
// multiple of BlockSize, so that a large tensor can be taken piece by piece; a
// range outside of the tensor panics, as an index does.
func (t *Tensor) DequantizeRange(dst []float32, from int) {
	if from%t.BlockSize != 0 {
		panic(fmt.Sprintf("quant: dequantize from weight %d, which begins no block of %d", from, t.BlockSize))
	}
	levels := Code(t.Type)
	parallel.For(len(dst), max(t.BlockSize, 1<<14), func(a, b int) {
		for a < b {
			end := min(a+t.BlockSize, b)
			unpack(dst[a:end], t.Codes[(from+a)/2:], &levels, t.Absmax[(from+a)/t.BlockSize])
			a = end
		}
	})
}

// unpack writes the weights of one block. It multiplies the 16 levels once, not
// every weight.
func unpack(dst []float32, codes []byte, levels *[16]float32, scale float32) {
	var v [16]float32
	for i, l := range levels {
		v[i] = l * scale
	}
	n := len(dst) / 2
	codes = codes[:(len(dst)+1)/2]
	for i := range n {
		c := codes[i]
		pair := dst[2*i : 2*i+2 : 2*i+2]
		pair[0], pair[1] = v[c>>4], v[c&15]
	}
	if len(dst)%2 == 1 {
		dst[2*n] = v[codes[n]>>4]
	}
}
