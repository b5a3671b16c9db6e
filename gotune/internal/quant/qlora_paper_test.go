package quant

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// QLoRA, section 3: the data type has "an exact representation of zero", and its
// ends -1 and 1 make a block's largest magnitude exact.
func TestZeroAndEndsAreExact(t *testing.T) {
	for _, typ := range []Type{NF4, FP4} {
		for name, w := range map[string][]float32{
			"zeros": make([]float32, 64), "ends": {3, -3, 0, 3}, "tiny": {1e-30, -1e-30}, "odd length": {-2, 0, 2}, "one value": {-7},
			"full block": append(slices.Repeat([]float32{0}, 62), 1.5, -1.5),
		} {
			q, err := Quantize(typ, []int{len(w)}, w, 64, false)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float32, len(w))
			q.Dequantize(got)
			if !slices.Equal(got, w) {
				t.Errorf("%s: %s became %v", typ, name, got[:min(len(got), 8)])
			}
		}
	}
}

// QLoRA, section 3: 4 bits a weight and 32/64 bits of scales give 4.5 bits; double
// quantization lowers the scales' share from 0.5 to 0.127 bits.
func TestBitsPerWeight(t *testing.T) {
	const n = 64 * 256 * 8
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(i % 13)
	}
	plain, err := Quantize(NF4, []int{n}, w, 64, false)
	if err != nil {
		t.Fatal(err)
	}
	double, err := Quantize(NF4, []int{n}, w, 64, true)
	if err != nil {
		t.Fatal(err)
	}
	if b := float64(plain.Bytes()) * 8 / n; b != 4.5 {
		t.Errorf("%g bits a weight, want 4.5", b)
	}
	if b := float64(double.Bytes()) * 8 / n; math.Abs(b-4.127) > 0.001 {
		t.Errorf("%g bits a weight with double quantization, want 4.127", b)
	}
}

// The table lookup equals the plain count of midpoints on each side of every
// midpoint, at the cells' edges, beyond the ends and for a sweep of values.
func TestGridEqualsLadder(t *testing.T) {
	for typ, c := range codecs {
		check := func(s float32) {
			if got, want := c.grid.code(s), c.ladder.code(s); got != want {
				t.Fatalf("%s: the code of %v is %d, want %d", typ, s, got, want)
			}
		}
		for _, b := range c.ladder.bounds {
			for s, i := b, 0; i < 50; s, i = math.Nextafter32(s, 2), i+1 {
				check(s)
			}
			for s, i := b, 0; i < 50; s, i = math.Nextafter32(s, -2), i+1 {
				check(s)
			}
		}
		for i := -1024; i <= 1024; i++ {
			s := float32(i) / 1024
			check(s)
			check(math.Nextafter32(s, 2))
			check(math.Nextafter32(s, -2))
		}
		r := rand.New(rand.NewPCG(5, 6))
		for range 200_000 {
			check(2*r.Float32() - 1)
		}
		for _, s := range []float32{0, float32(math.Copysign(0, -1)), 1e-45, -1e-45, 1 + 1e-7, -1 - 1e-7} {
			check(s)
		}
	}
}

// Packing in parallel, in pieces and from any type gives the same bits.
func TestLargeTensorEqualsItsBlocks(t *testing.T) {
	const rows, cols = 301, 1000 // blocks cross rows, the last one is short
	r := rand.New(rand.NewPCG(7, 8))
	w := make([]float32, rows*cols)
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
	for _, dt := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		raw, err := safetensors.FromFloat32("w", []int{rows, cols}, w, dt)
		if err != nil {
			t.Fatal(err)
		}
		values, err := raw.Float32()
		if err != nil {
			t.Fatal(err)
		}
		for _, bs := range []int{32, 64, 4096} {
			q, err := QuantizeTensor(NF4, raw, bs, false)
			if err != nil {
				t.Fatal(err)
			}
			whole := make([]float32, len(w))
			q.Dequantize(whole)
			for b := range q.Absmax {
				block := values[b*bs : min((b+1)*bs, len(values))]
				one, err := Quantize(NF4, []int{len(block)}, block, bs, false)
				if err != nil {
					t.Fatal(err)
				}
				if q.Absmax[b] != one.Absmax[0] || !slices.Equal(q.Codes[b*bs/2:][:len(one.Codes)], one.Codes) {
					t.Fatalf("%s, blocks of %d: block %d differs from the same block alone", dt, bs, b)
				}
			}
			part := make([]float32, 3*bs+1)
			q.DequantizeRange(part, 5*bs)
			if !slices.Equal(part, whole[5*bs:][:len(part)]) {
				t.Errorf("%s, blocks of %d: a range differs from the whole", dt, bs)
			}
		}
	}
}

func TestQuantizeRefuses(t *testing.T) {
	w := make([]float32, 128)
	for _, tt := range []struct {
		name  string
		typ   Type
		shape []int
		bs    int
		want  string
	}{
		{"unknown code", "nf5", []int{128}, 64, "nf5"},
		{"block of 48", NF4, []int{128}, 48, "block size"},
		{"block of 16", NF4, []int{128}, 16, "block size"},
		{"block of 8192", NF4, []int{128}, 8192, "block size"},
		{"negative block", NF4, []int{128}, -64, "block size"},
		{"other shape", NF4, []int{2, 65}, 64, "wants 130"},
		{"negative shape", NF4, []int{-2, -64}, 64, "negative"},
	} {
		if _, err := Quantize(tt.typ, tt.shape, w, tt.bs, false); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, at := range []int{0, 63, 64, 100, 127} {
			for _, n := range []int{128, 130} {
				x := make([]float32, n)
				x[at] = float32(v)
				_, err := Quantize(FP4, []int{n}, x, 64, true)
				var ve *ValueError
				if !errors.As(err, &ve) || ve.Block != at/64 {
					t.Errorf("%g at %d of %d: %v; want block %d", v, at, n, err, at/64)
				}
			}
		}
	}
	if _, err := QuantizeTensor(NF4, safetensors.Tensor{Name: "ids", DType: safetensors.I64, Shape: []int{1}, Data: make([]byte, 8)}, 64, false); err == nil || !strings.Contains(err.Error(), "ids") {
		t.Errorf("QuantizeTensor of I64: %v", err)
	}
	q, err := Quantize(NF4, []int{0, 64}, nil, 64, true)
	if err != nil || q.Len() != 0 || len(q.Codes) != 0 {
		t.Errorf("Quantize of no weights: %+v, %v", q, err)
	}
}

// FuzzQuantizeErrorBound: a weight comes back within half of the widest gap
// between two levels, times its block's scale: 0.152 for NF4, 1/6 for FP4. Below
// 1e-38 the rule stops to scale, and weights may become zero.
func FuzzQuantizeErrorBound(f *testing.F) {
	f.Add([]byte{0, 0, 128, 63, 0, 0, 128, 191, 1, 2, 3, 4}, false)
	f.Fuzz(func(t *testing.T, data []byte, fp4 bool) {
		typ, bound := NF4, 0.152
		if fp4 {
			typ, bound = FP4, 1.0/6
		}
		w := make([]float32, len(data)/4)
		widen(safetensors.F32, w, data)
		for i, v := range w {
			if v-v != 0 {
				w[i] = 1 // what is not finite has its own test
			}
		}
		q, err := Quantize(typ, []int{len(w)}, w, 32, false)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(w))
		q.Dequantize(got)
		for i := range w {
			scale := float64(q.Absmax[i/32])
			if d := math.Abs(float64(got[i]) - float64(w[i])); d > bound*scale*(1+1e-5)+float64(tiny) {
				t.Fatalf("weight %d: %g became %g, more than %g·%g off", i, w[i], got[i], bound, scale)
			}
		}
	})
}

// The unsigned levels of 8-bit Adam's second moment; testdata/dynamic_map.py
// makes the numbers.
func TestUnsignedDynamicMap(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "dynamic_map_unsigned.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Bits []string }
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	got := DynamicMap(false)
	if len(file.Bits) != len(got) {
		t.Fatalf("%d levels, want %d", len(got), len(file.Bits))
	}
	for i, bits := range file.Bits {
		want, err := strconv.ParseUint(bits, 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		if math.Float32bits(got[i]) != uint32(want) {
			t.Errorf("level %d is %g, want %s", i, got[i], bits)
		}
	}
}

// The halving search equals the count of midpoints below.
func TestCode8EqualsCount(t *testing.T) {
	for _, signed := range []bool{true, false} {
		bounds := bounds8(DynamicMap(signed))
		for _, b := range bounds {
			for _, s := range []float32{b, math.Nextafter32(b, 2), math.Nextafter32(b, -2)} {
				want := 0
				for _, m := range bounds {
					if m < s {
						want++
					}
				}
				if got := code8(bounds, s); int(got) != want {
					t.Fatalf("the code of %g is %d, want %d", s, got, want)
				}
			}
		}
	}
}
