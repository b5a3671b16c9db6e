package quant

import (
	"math"
	"slices"
	"sync"

	"github.com/gotune/gotune/gotune/internal/parallel"
)

// DynamicBlockSize is the number of values that share a scale in bitsandbytes'
// 8-bit quantization, of scales and of optimizer states.
const DynamicBlockSize = 256

// DynamicMap returns the 256 ascending levels of dynamic 8-bit quantization
// (Dettmers, "8-Bit Approximations for Parallelism in Deep Learning",
// arXiv:1511.04561): seven decades, the larger ones in finer steps. The signed
// map is for values of either sign (Adam's first moment, scales less their mean),
// the unsigned one for values from 0 on (Adam's second moment).
func DynamicMap(signed bool) *[256]float32 {
	if signed {
		return signedMap()
	}
	return unsignedMap()
}

var (
	signedMap   = sync.OnceValue(func() *[256]float32 { return newDynamicMap(true) })
	unsignedMap = sync.OnceValue(func() *[256]float32 { return newDynamicMap(false) })
)

// newDynamicMap computes the levels as create_dynamic_map in bitsandbytes does,
// rounding to float32 where PyTorch does.
func newDynamicMap(signed bool) *[256]float32 {
	var levels []float32
	add := func(items int, decade float32) {
		b := linspace(0.1, 1, items+1)
		for k := range items {
			mean := (b[k] + b[k+1]) / 2
			levels = append(levels, decade*mean)
			if signed {
				levels = append(levels, -decade*mean)
			}
		}
	}
	for i := range 7 {
		items := 1 << i
		if !signed {
			items *= 2
		}
		add(items, float32(math.Pow10(i-6)))
	}
	levels = append(levels, 0, 1)
	slices.Sort(levels)
	return (*[256]float32)(levels)
}

// linspace is torch.linspace for float32: it steps from either end to the middle.
func linspace(from, to float32, n int) []float32 {
	step := (to - from) / float32(n-1)
	x := make([]float32, n)
	for i := range x {
		if i < n/2 {
			x[i] = float32(math.FMA(float64(step), float64(i), float64(from)))
		} else {
			x[i] = float32(math.FMA(float64(-step), float64(n-1-i), float64(to)))
		}
	}
	return x
}

// bounds8 returns the midpoints between neighbouring levels.
func bounds8(levels *[256]float32) *[255]float32 {
	var b [255]float32
	for k := range b {
		b[k] = (levels[k] + levels[k+1]) / 2
	}
	return &b
}

// code8 counts the midpoints below s by halving, without branches that depend on
// the data. A NaN has the code 0.
func code8(bounds *[255]float32, s float32) byte {
	k := 0
	for step := 128; step > 0; step /= 2 {
		if bounds[k+step-1] < s {
			k += step
		}
	}
	return byte(k)
}

// Quantize8 packs x into one byte a value, with a scale for each blockSize values
// (0 means 256): the nearest of the ascending levels to x/absmax, a tie to the
// lower, by the rule of the package comment. Values should be finite.
func Quantize8(levels *[256]float32, x []float32, blockSize int) (codes []byte, scales []float32) {
	if blockSize <= 0 {
		blockSize = DynamicBlockSize
	}
	codes = make([]byte, len(x))
	scales = make([]float32, (len(x)+blockSize-1)/blockSize)
	bounds := bounds8(levels)
	parallel.For(len(scales), 64, func(from, to int) {
		for b := from; b < to; b++ {
			end := min((b+1)*blockSize, len(x))
			block, dst := x[b*blockSize:end], codes[b*blockSize:end]
			m := absmax(block)
			if len(block) < blockSize {
				m = max(m, tiny)
				for i, v := range block {
					dst[i] = code8(bounds, v/m)
				}
			} else {
				inv := 1 / max(m, tiny)
				for i, v := range block {
					dst[i] = code8(bounds, v*inv)
				}
			}
			scales[b] = m
		}
	})
	return codes, scales
}

// Dequantize8 writes levels[codes[i]]·scales[i/blockSize] into dst, which must
// have room for len(codes) values.
func Dequantize8(dst []float32, levels *[256]float32, codes []byte, scales []float32, blockSize int) {
	if blockSize <= 0 {
		blockSize = DynamicBlockSize
	}
	for i, c := range codes {
		dst[i] = levels[c] * scales[i/blockSize]
	}
}

// newNested packs scales: less their mean, in blocks of 256.
func newNested(scales []float32) *Nested {
	sum := 0.0
	for _, s := range scales {
		sum += float64(s)
	}
	n := &Nested{BlockSize: DynamicBlockSize, Map: DynamicMap(true)}
	if len(scales) > 0 {
		n.Offset = float32(sum / float64(len(scales)))
	}
	rest := make([]float32, len(scales))
	for i, s := range scales {
		rest[i] = s - n.Offset
	}
	n.Codes, n.Absmax = Quantize8(n.Map, rest, n.BlockSize)
	return n
}

// decode writes the scales.
func (n *Nested) decode(dst []float32) {
	Dequantize8(dst, n.Map, n.Codes, n.Absmax, n.BlockSize)
	for i := range dst {
		dst[i] += n.Offset
	}
}
