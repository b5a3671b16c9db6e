package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gotune/gotune/gotune/internal/parallel"
)

// BF16ToF32 returns the value of a bfloat16: the upper half of a float32.
func BF16ToF32(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// F32ToBF16 rounds to the nearest bfloat16, ties to even. A NaN stays a (quiet)
// NaN; values above the largest finite one become infinite.
func F32ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// F16ToF32 returns the value of an IEEE 754 half-precision number.
func F16ToF32(h uint16) float32 {
	sign, mag := uint32(h&0x8000)<<16, uint32(h&0x7fff)
	if mag >= 0x7c00 { // infinity or NaN
		return math.Float32frombits(sign | 0x7f800000 | mag&0x3ff<<13)
	}
	// Shifted into place, the half's exponent is 112 too small for a float32.
	// The product mends it exactly, also for subnormal halves.
	f := math.Float32frombits(mag<<13) * 0x1p112
	return math.Float32frombits(sign | math.Float32bits(f))
}

// F32ToF16 rounds to the nearest half, ties to even. A NaN stays a (quiet) NaN;
// magnitudes of 65520 and more become infinite.
func F32ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign, mag := uint16(b>>16&0x8000), b&0x7fffffff
	switch {
	case mag > 0x7f800000:
		return sign | 0x7e00 | uint16(mag>>13&0x3ff)
	case mag >= 0x477ff000: // 65520 and above
		return sign | 0x7c00
	case mag >= 0x38800000: // normal halves: 2^-14 and above
		return sign | uint16((mag-0x38000000+0xfff+mag>>13&1)>>13)
	}
	// Below, a half is a multiple of 2^-24. Adding 0.5 lines up a float32's last
	// bit with that step, so the addition does the rounding.
	sum := math.Float32frombits(mag) + 0.5
	return sign | uint16(math.Float32bits(sum)-0x3f000000)
}

// Float32 returns the values as float32. It takes F32, F16, BF16 and F64 (rounded
// to nearest); other types are an error.
func (t Tensor) Float32() ([]float32, error) {
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("safetensors: convert: %w", err)
	}
	dst := make([]float32, t.Len())
	return dst, t.Float32Into(dst, 0, len(dst))
}

// Float32Into converts the n values from index from on into dst[:n], on all
// cores. It lets a large tensor be taken piece by piece.
func (t Tensor) Float32Into(dst []float32, from, n int) error {
	size := t.DType.Size()
	if from < 0 || n < 0 || n > len(dst) || size == 0 || from > len(t.Data)/size-n {
		return fmt.Errorf("safetensors: convert tensor %q %s%v: values %d to %d into %d places", t.Name, t.DType, t.Shape, from, from+n, len(dst))
	}
	src := t.Data[from*size:][:n*size]
	conv, ok := toFloat32[t.DType]
	if !ok {
		return fmt.Errorf("safetensors: convert tensor %q: it has the type %s, wanted F32, F16, BF16 or F64", t.Name, t.DType)
	}
	dst = dst[:n]
	parallel.For(n, 1<<16, func(a, b int) { conv(dst[a:b], src[a*size:b*size]) })
	return nil
}

// toFloat32 holds one loop per type. Each takes eight bytes at a time, which
// halves to quarters the loads.
var toFloat32 = map[DType]func(dst []float32, src []byte){
	F32: func(dst []float32, src []byte) {
		for len(dst) >= 2 && len(src) >= 8 {
			w := binary.LittleEndian.Uint64(src)
			dst[0], dst[1] = math.Float32frombits(uint32(w)), math.Float32frombits(uint32(w>>32))
			dst, src = dst[2:], src[8:]
		}
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	},
	BF16: func(dst []float32, src []byte) {
		for len(dst) >= 4 && len(src) >= 8 {
			w := binary.LittleEndian.Uint64(src)
			dst[0] = math.Float32frombits(uint32(w) << 16)
			dst[1] = math.Float32frombits(uint32(w) & 0xffff0000)
			dst[2] = math.Float32frombits(uint32(w>>32) << 16)
			dst[3] = math.Float32frombits(uint32(w>>32) & 0xffff0000)
			dst, src = dst[4:], src[8:]
		}
		for i := range dst {
			dst[i] = BF16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	},
	F16: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = F16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	},
	F64: func(dst []float32, src []byte) {
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	},
}

// Int64s returns the values of an I64, I32, I16, I8, U8 or BOOL tensor.
func (t Tensor) Int64s() ([]int64, error) {
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("safetensors: convert: %w", err)
	}
	dst := make([]int64, t.Len())
	for i := range dst {
		switch t.DType {
		case I64:
			dst[i] = int64(binary.LittleEndian.Uint64(t.Data[8*i:]))
		case I32:
			dst[i] = int64(int32(binary.LittleEndian.Uint32(t.Data[4*i:])))
		case I16:
			dst[i] = int64(int16(binary.LittleEndian.Uint16(t.Data[2*i:])))
		case I8:
			dst[i] = int64(int8(t.Data[i]))
		case U8, Bool:
			dst[i] = int64(t.Data[i])
		default:
			return nil, fmt.Errorf("safetensors: convert tensor %q: it has the type %s, wanted whole numbers", t.Name, t.DType)
		}
	}
	return dst, nil
}

// FromFloat32 makes a tensor of type F32, F16, BF16 or F64 from values, rounded
// to the nearest, ties to even. len(data) must be the product of shape.
func FromFloat32(name string, shape []int, data []float32, dt DType) (Tensor, error) {
	put, ok := fromFloat32[dt]
	if !ok {
		return Tensor{}, fmt.Errorf("safetensors: make tensor %q: the type is %s, wanted F32, F16, BF16 or F64", name, dt)
	}
	size := dt.Size()
	bytes, err := Spec{name, dt, shape}.Bytes()
	if err != nil {
		return Tensor{}, fmt.Errorf("safetensors: make a tensor: %w", err)
	}
	if bytes/int64(size) != int64(len(data)) {
		return Tensor{}, fmt.Errorf("safetensors: make tensor %q: found %d values, but the shape %v wants %d", name, len(data), shape, bytes/int64(size))
	}
	t := Tensor{name, dt, shape, make([]byte, len(data)*size)}
	parallel.For(len(data), 1<<16, func(a, b int) { put(t.Data[a*size:b*size], data[a:b]) })
	return t, nil
}

// PutFloat32 writes values of type dt to dst, rounded as by [FromFloat32]. dst
// must have room for all of them.
func PutFloat32(dst []byte, dt DType, values []float32) error {
	put, ok := fromFloat32[dt]
	if !ok || len(dst) < len(values)*dt.Size() {
		return fmt.Errorf("safetensors: convert %d values to %s in %d bytes", len(values), dt, len(dst))
	}
	put(dst, values)
	return nil
}

var fromFloat32 = map[DType]func(dst []byte, src []float32){
	F32: func(dst []byte, src []float32) {
		for i, f := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(f))
		}
	},
	BF16: func(dst []byte, src []float32) {
		for i, f := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToBF16(f))
		}
	},
	F16: func(dst []byte, src []float32) {
		for i, f := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToF16(f))
		}
	},
	F64: func(dst []byte, src []float32) {
		for i, f := range src {
			binary.LittleEndian.PutUint64(dst[8*i:], math.Float64bits(float64(f)))
		}
	},
}

// FromInt64 makes an I64 tensor.
func FromInt64(name string, shape []int, data []int64) (Tensor, error) {
	t := Tensor{name, I64, shape, make([]byte, 8*len(data))}
	for i, v := range data {
		binary.LittleEndian.PutUint64(t.Data[8*i:], uint64(v))
	}
	if err := t.check(); err != nil {
		return Tensor{}, fmt.Errorf("safetensors: make a tensor: %w", err)
	}
	return t, nil
}
