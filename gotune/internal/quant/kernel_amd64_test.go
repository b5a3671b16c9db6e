package quant

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// plainly runs f without the kernels.
func plainly(f func()) {
	defer func(had bool) { hasKernel = had }(hasKernel)
	hasKernel = false
	f()
}

// hardWeights has, in blocks of 64: normal weights, every bound with its
// neighbours, zeros, magnitudes at both ends of float32, and bits at random.
func hardWeights(typ Type, n int) []float32 {
	r := rand.New(rand.NewPCG(3, 5))
	w := make([]float32, n)
	for at := 0; at < n; at += 64 {
		block := w[at:min(at+64, n)]
		scale := float32(math.Ldexp(1, r.IntN(250)-140))
		kind := r.IntN(5)
		for i := range block {
			switch kind {
			case 0:
				block[i] = float32(r.NormFloat64()) * scale
			case 1:
				b := codecs[typ].ladder.bounds[r.IntN(15)]
				block[i] = []float32{b, math.Nextafter32(b, 2), math.Nextafter32(b, -2)}[r.IntN(3)]
			case 2:
				block[i] = float32(math.Copysign(0, r.Float64()-0.5))
			case 3:
				block[i] = math.Float32frombits(r.Uint32() &^ (0x7f << 24))
			default:
				if block[i] = math.Float32frombits(r.Uint32()); block[i]-block[i] != 0 {
					block[i] = math.MaxFloat32
				}
			}
		}
		if kind == 1 {
			block[0] = 1
		}
	}
	return w
}

// The kernels equal the plain way in every bit: codes, scales, both codes' types,
// each type of input, each block size, short ends.
func TestKernelEqualsPlain(t *testing.T) {
	if !hasKernel {
		t.Skip("this processor has no AVX2: only the plain way runs here, and the other tests hold it")
	}
	for _, typ := range []Type{NF4, FP4} {
		for _, dt := range []safetensors.DType{safetensors.F32, safetensors.BF16, safetensors.F16} {
			for _, size := range []int{32, 64, 256, 4096} {
				for _, n := range []int{1, 31, 64, 4096*5 + 64 + 17, 1 << 17} {
					t.Run(fmt.Sprintf("%s/%s/bs%d/%d", typ, dt, size, n), func(t *testing.T) {
						w := hardWeights(typ, n)
						if dt == safetensors.F16 {
							for i := range w {
								w[i] = float32(math.Mod(float64(w[i]), 60000))
							}
						}
						in, err := safetensors.FromFloat32("w", []int{n}, w, dt)
						if err != nil {
							t.Fatal(err)
						}
						compareWithPlain(t, typ, in, size)
					})
				}
			}
		}
	}
}

func compareWithPlain(t *testing.T, typ Type, in safetensors.Tensor, size int) {
	t.Helper()
	var want *Tensor
	var plainErr error
	plainly(func() { want, plainErr = QuantizeTensor(typ, in, size, false) })
	defer func(had bool) { hasAVX512 = had }(hasAVX512)
	for _, wide := range []bool{false, hasAVX512} {
		hasAVX512 = wide
		got, err := QuantizeTensor(typ, in, size, false)
		sameTensor(t, fmt.Sprintf("AVX-512 %v: ", wide), got, want, err, plainErr)
	}
}

func sameTensor(t *testing.T, what string, got, want *Tensor, err, plainErr error) {
	t.Helper()
	if fmt.Sprint(err) != fmt.Sprint(plainErr) {
		t.Fatalf("%serror %v, the plain way gives %v", what, err, plainErr)
	}
	if err != nil {
		return
	}
	if !bytes.Equal(got.Codes, want.Codes) {
		i := firstDiff(got.Codes, want.Codes)
		t.Errorf("%scodes differ from byte %d on: %02x, want %02x", what, i, got.Codes[i], want.Codes[i])
	}
	sameBits(t, what+"absmax", got.Absmax, want.Absmax)
}

// A weight that is not finite is found in the block it lies in, wherever that is.
func TestKernelRefusesNotFinite(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, at := range []int{0, 63, 64, 2048, 10_000, 64*1000 - 1} {
			w := hardWeights(NF4, 64*1000)
			w[at] = float32(v)
			var bad *ValueError
			if _, err := Quantize(NF4, []int{len(w)}, w, 64, false); !errors.As(err, &bad) || bad.Block != at/64 {
				t.Errorf("%v at %d: %v, want a ValueError for block %d", v, at, err, at/64)
			}
		}
	}
}
