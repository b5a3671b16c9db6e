package quant

import (
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// benchWeights makes normal weights of a 7B model's projection.
func benchWeights(b *testing.B) []float32 {
	w := make([]float32, 4096*4096)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range w {
		w[i] = float32(r.NormFloat64()) * 0.02
	}
	return w
}

// BenchmarkQuantize reports bytes of input a second on one core.
func BenchmarkQuantize(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	w := benchWeights(b)
	for _, dt := range []safetensors.DType{safetensors.F32, safetensors.BF16, safetensors.F16} {
		t, err := safetensors.FromFloat32("w", []int{4096, 4096}, w, dt)
		if err != nil {
			b.Fatal(err)
		}
		for _, typ := range []Type{NF4, FP4} {
			b.Run(string(typ)+"/"+string(dt), func(b *testing.B) {
				b.SetBytes(int64(len(t.Data)))
				for b.Loop() {
					if _, err := QuantizeTensor(typ, t, 64, false); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkDequantize reports bytes of float32 output a second on one core.
func BenchmarkDequantize(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	w := benchWeights(b)
	t, err := Quantize(NF4, []int{4096, 4096}, w, 64, false)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(4 * len(w)))
	for b.Loop() {
		t.Dequantize(w)
	}
}
