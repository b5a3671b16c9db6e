package quant

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// golden opens a file of golden tensors.
type golden struct {
	testing.TB
	*safetensors.File
}

func openGolden(t testing.TB, elem ...string) golden {
	t.Helper()
	f, err := safetensors.Open(oracle.Dir(t, elem...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return golden{t, f}
}

func (g golden) tensor(name string) safetensors.Tensor {
	g.Helper()
	w, err := g.Tensor(name)
	if err != nil {
		g.Fatal(err)
	}
	return w
}

func (g golden) floats(name string) []float32 {
	g.Helper()
	f, err := g.tensor(name).Float32()
	if err != nil {
		g.Fatal(err)
	}
	return f
}

func (g golden) has(name string) bool { _, ok := g.Spec(name); return ok }

// sameBits reports the first place where two runs of floats differ in bits.
func sameBits(t testing.TB, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] != 0 || want[i] != 0) {
			t.Errorf("%s[%d] = %g (%08x), want %g (%08x)", what, i, got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
			return
		}
	}
}

// fourBitCase is one entry of nf4/cases.json.
type fourBitCase struct {
	Type      Type   `json:"quant_type"`
	Case      string `json:"case"`
	BlockSize int    `json:"blocksize"`
	Shape     []int  `json:"shape"`
	DType     string `json:"dtype"`
	Nested    int    `json:"nested_blocksize"`
}

func fourBitCases(t testing.TB) []fourBitCase {
	var index struct{ Cases []fourBitCase }
	oracle.JSON(t, &index, "nf4", "cases.json")
	if len(index.Cases) == 0 {
		t.Fatal("nf4/cases.json lists no case")
	}
	return index.Cases
}

// Every code, scale and dequantized weight of bitsandbytes, bit for bit.
func TestFourBitEqualsBitsandbytes(t *testing.T) {
	files := map[Type]golden{NF4: openGolden(t, "nf4", "nf4.safetensors"), FP4: openGolden(t, "nf4", "fp4.safetensors")}
	for typ, g := range files {
		code := Code(typ)
		sameBits(t, string(typ)+" code", code[:], g.floats("code"))
		sameBits(t, string(typ)+" dynamic map", DynamicMap(true)[:], g.floats("dynamic_map"))
	}
	for _, tt := range fourBitCases(t) {
		t.Run(fmt.Sprintf("%s/%s/bs%d", tt.Type, tt.Case, tt.BlockSize), func(t *testing.T) {
			g := files[tt.Type]
			g.TB = t
			prefix := fmt.Sprintf("%s.bs%d.", tt.Case, tt.BlockSize)
			input := g.tensor(tt.Case + ".input")
			if !slices.Equal(input.Shape, tt.Shape) {
				t.Fatalf("cases.json gives the shape %v, the file %v", tt.Shape, input.Shape)
			}
			fromRaw, err := QuantizeTensor(tt.Type, input, tt.BlockSize, false)
			if err != nil {
				t.Fatal(err)
			}
			q, err := Quantize(tt.Type, tt.Shape, g.floats(tt.Case+".input"), tt.BlockSize, false)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(q.Codes, fromRaw.Codes) || !slices.Equal(q.Absmax, fromRaw.Absmax) || fromRaw.DType != tt.DType {
				t.Errorf("QuantizeTensor of %s differs from Quantize of its values", tt.DType)
			}
			if want := g.tensor(prefix + "packed").Data; !bytes.Equal(q.Codes, want) {
				t.Errorf("codes differ from byte %d on", firstDiff(q.Codes, want))
			}
			sameBits(t, "absmax", q.Absmax, g.floats(prefix+"absmax"))
			dequant := make([]float32, q.Len())
			q.Dequantize(dequant)
			sameBits(t, "dequant", rounded(t, dequant, tt.DType), g.floats(prefix+"dequant"))

			q, err = Quantize(tt.Type, tt.Shape, g.floats(tt.Case+".input"), tt.BlockSize, true)
			if err != nil {
				t.Fatal(err)
			}
			checkNested(t, g, prefix+"nested.", q, tt)
		})
	}
}

// checkNested holds the 8-bit scales against the oracle. Its offset may be
// summed in another order; where it is the same, all the rest must be.
func checkNested(t *testing.T, g golden, prefix string, q *Tensor, tt fourBitCase) {
	n := q.Nested
	if n.BlockSize != tt.Nested {
		t.Errorf("nested block size %d, want %d", n.BlockSize, tt.Nested)
	}
	offset := g.floats(prefix + "offset")[0]
	if d := math.Abs(float64(n.Offset - offset)); d > 1e-6*math.Abs(float64(offset)) {
		t.Errorf("offset %g, want %g", n.Offset, offset)
	}
	want := g.tensor(prefix + "absmax_u8").Data
	if n.Offset == offset {
		sameBits(t, "absmax2", n.Absmax, g.floats(prefix+"absmax2"))
		if !bytes.Equal(n.Codes, want) {
			t.Errorf("8-bit codes differ from %d on", firstDiff(n.Codes, want))
		}
	}
	// The stored scales decode to the stored weights, whoever chose the codes.
	stored := *q
	stored.Nested = &Nested{want, g.floats(prefix + "absmax2"), offset, tt.Nested, DynamicMap(true)}
	stored.Absmax = make([]float32, len(want))
	stored.Nested.decode(stored.Absmax)
	dequant := make([]float32, stored.Len())
	stored.Dequantize(dequant)
	sameBits(t, "nested dequant", rounded(t, dequant, tt.DType), g.floats(prefix+"dequant"))
	for i := range n.Codes {
		if d := int(n.Codes[i]) - int(want[i]); d < -1 || d > 1 {
			t.Errorf("8-bit code %d is %d, want %d", i, n.Codes[i], want[i])
		}
	}
}

// rounded rounds to the type that bitsandbytes dequantizes to.
func rounded(t testing.TB, x []float32, dtype string) []float32 {
	dt := map[string]safetensors.DType{"float32": safetensors.F32, "float16": safetensors.F16, "bfloat16": safetensors.BF16}[dtype]
	w, err := safetensors.FromFloat32("x", []int{len(x)}, x, dt)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.Float32()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func firstDiff(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func TestDynamic8EqualsBitsandbytes(t *testing.T) {
	g := openGolden(t, "nf4", "dynamic8.safetensors")
	sameBits(t, "code", DynamicMap(true)[:], g.floats("code"))
	cases := 0
	for _, name := range g.Names() {
		c, ok := strings.CutSuffix(name, ".input")
		if !ok {
			continue
		}
		cases++
		x := g.floats(name)
		codes, scales := Quantize8(DynamicMap(true), x, 0)
		if want := g.tensor(c + ".u8").Data; !bytes.Equal(codes, want) {
			t.Errorf("%s: codes differ from %d on", c, firstDiff(codes, want))
		}
		sameBits(t, c+" absmax", scales, g.floats(c+".absmax"))
		back := make([]float32, len(x))
		Dequantize8(back, DynamicMap(true), codes, scales, 0)
		sameBits(t, c+" dequant", back, g.floats(c+".dequant"))
	}
	if cases == 0 {
		t.Fatal("dynamic8.safetensors holds no case")
	}
}
