package layerwise

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
	"github.com/gomlx/gomlx/core/tensors"
)

// e4m3 lists the finite values of the type that are not negative.
func e4m3() (out []float64) {
	for bits := range 127 {
		exponent, mantissa := bits>>3, float64(bits&7)/8
		if exponent == 0 {
			out = append(out, math.Ldexp(mantissa, -6))
		} else {
			out = append(out, math.Ldexp(1+mantissa, exponent-7))
		}
	}
	return out
}

// nearest is x rounded to the nearest of values, its sign apart.
func nearest(x float64, values []float64) float64 {
	best := math.Inf(1)
	for _, v := range values {
		if math.Abs(math.Abs(x)-v) < math.Abs(math.Abs(x)-best) {
			best = v
		}
	}
	return math.Copysign(best, x)
}

// Values are rounded to e4m3 with the scale that the largest asks for, by a plain
// account of the type; bytes are the type's own bits.
func TestFloat8Quantizer(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	normal := make([]float32, 500)
	for i := range normal {
		normal[i] = float32(rng.NormFloat64() * math.Exp(3*rng.NormFloat64()))
	}
	values := e4m3()
	for _, c := range []struct {
		name string
		x    []float32
	}{
		{"wide", normal},
		{"largest is a value", []float32{448, 1, -3.3, 0}},
		{"largest rounds up past the scale", []float32{449, -448, 447, 0.01}},
		{"just below a power", []float32{-895.9, 17, 3e-3}},
		{"tiny", []float32{1e-20, -3e-21, 5e-22}},
		{"zeros", []float32{0, 0, 0}},
		{"outlier", []float32{30000, 1, -1, 1e-3, 1e-6}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, dt := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
				out := MustExecOnceN(openCPU(t), func(x *Node) []*Node {
					q, scale := float8(x, dt)
					again := ConvertDType(ConvertDType(q, dtypes.Uint8), dtypes.F8E4M3FN)
					return []*Node{ConvertDType(q, dtypes.Uint8), scale, ConvertDType(scaledBack(again, scale, dt), dtypes.Float32)}
				}, tensors.FromFlatDataAndDimensions(c.x, len(c.x)))
				bytes := tensors.MustCopyFlatData[uint8](out[0])
				scale := float64(tensors.MustCopyFlatData[float32](out[1])[0])
				largest := 0.0
				for _, v := range c.x {
					largest = max(largest, math.Abs(float64(v)))
				}
				want := math.Max(math.Exp2(math.Ceil(math.Log2(largest/448))), 0x1p-100)
				if scale != want {
					t.Errorf("%v: scale %g, want %g for a largest value of %g", dt, scale, want, largest)
				}
				back := flat(t, out[2])
				for i, x := range c.x {
					v := nearest(float64(x)/want, values) * want
					near(t, "value", back[i:i+1], []float32{float32(v)}, math.Abs(float64(x))/1e6, 0)
					if got := values[bytes[i]&0x7f] * want; float32(got) != float32(math.Abs(float64(back[i]))) {
						t.Errorf("%v: byte %#x of %g stands for %g, want %g", dt, bytes[i], x, got, math.Abs(float64(back[i])))
					}
				}
			}
		})
	}
}

// What is not finite is not hidden by rounding to 8 bits.
func TestFloat8NotFinite(t *testing.T) {
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		x := []float32{1, float32(bad), -2}
		out := MustExecOnceN(openCPU(t), func(x *Node) []*Node { return []*Node{throughFloat8(x)} }, x)
		if got := flat(t, out[0])[1]; !math.IsNaN(float64(got)) {
			t.Errorf("%v became %v", bad, got)
		}
	}
}
