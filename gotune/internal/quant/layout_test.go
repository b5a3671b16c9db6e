package quant

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// storedModels lists the golden folders that bitsandbytes quantized, from
// model_layout.json.
func storedModels(t testing.TB) map[string]struct {
	Source  string
	Tensors map[string][2]json.RawMessage
	State   map[string]string `json:"quant_state_json"`
} {
	var models map[string]struct {
		Source  string
		Tensors map[string][2]json.RawMessage
		State   map[string]string `json:"quant_state_json"`
	}
	oracle.JSON(t, &models, "nf4", "model_layout.json")
	if len(models) == 0 {
		t.Fatal("model_layout.json lists no model")
	}
	return models
}

// Stored weights load and dequantize exactly, and are written back byte for byte.
func TestStoredModelRoundTrip(t *testing.T) {
	for model, layout := range storedModels(t) {
		t.Run(model, func(t *testing.T) {
			g := openGolden(t, "nf4", model, "model.safetensors")
			want := openGolden(t, "nf4", model+".expect.safetensors")
			for name := range layout.Tensors {
				if !g.has(name) {
					t.Errorf("model_layout.json lists %s, which the model lacks", name)
				}
			}
			for name, state := range layout.State {
				if got := string(g.tensor(name).Data); got != state {
					t.Errorf("%s holds %s, model_layout.json says %s", name, got, state)
				}
			}
			packed, compared := 0, 0
			for _, name := range g.Names() {
				if _, part := Owner(name); part {
					continue
				}
				q, err := Load(name, g.Tensor)
				if err != nil {
					t.Fatal(err)
				}
				if q == nil {
					continue
				}
				packed++
				got := make([]float32, q.Len())
				q.Dequantize(got)
				if want.has("dequant." + name) {
					compared++
					sameBits(t, name, got, want.floats("dequant."+name))
				}
				list, err := q.Stored(name)
				if err != nil {
					t.Fatal(err)
				}
				for _, part := range list {
					old := g.tensor(part.Name)
					if part.DType != old.DType || !slices.Equal(part.Shape, old.Shape) || !bytes.Equal(part.Data, old.Data) {
						t.Errorf("%s is written as %s%v, bitsandbytes wrote %s%v (bytes equal: %v)", part.Name, part.DType, part.Shape, old.DType, old.Shape, bytes.Equal(part.Data, old.Data))
					}
				}
				parts := 0
				for _, other := range g.Names() {
					if other == name || strings.HasPrefix(other, name+".") {
						parts++
					}
				}
				if parts != len(list) {
					t.Errorf("%s has %d parts, bitsandbytes wrote %d", name, len(list), parts)
				}
			}
			if packed == 0 || compared == 0 {
				t.Errorf("the model holds %d packed weights, of which %d were compared", packed, compared)
			}
		})
	}
}

// Quantizing the source model gives the bytes that bitsandbytes stored.
func TestQuantizedModelEqualsStored(t *testing.T) {
	for model, layout := range storedModels(t) {
		t.Run(model, func(t *testing.T) {
			src := openGolden(t, append(strings.Split(layout.Source, "/"), "model.safetensors")...)
			g := openGolden(t, "nf4", model, "model.safetensors")
			for _, name := range src.Names() {
				old, err := Load(name, g.Tensor)
				if err != nil {
					t.Fatal(err)
				}
				if old == nil {
					continue
				}
				w, err := safetensors.FromFloat32(name, src.tensor(name).Shape, src.floats(name), map[string]safetensors.DType{"float32": safetensors.F32, "float16": safetensors.F16, "bfloat16": safetensors.BF16}[old.DType])
				if err != nil {
					t.Fatal(err)
				}
				q, err := QuantizeTensor(old.Type, w, old.BlockSize, old.Nested != nil)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(q.Codes, old.Codes) {
					t.Errorf("%s: codes differ from byte %d on", name, firstDiff(q.Codes, old.Codes))
				}
				if old.Nested == nil {
					sameBits(t, name+" absmax", q.Absmax, old.Absmax)
				} else if d := q.Nested.Offset - old.Nested.Offset; d > 1e-6*old.Nested.Offset || -d > 1e-6*old.Nested.Offset {
					t.Errorf("%s: offset %g, want %g", name, q.Nested.Offset, old.Nested.Offset)
				}
			}
		})
	}
}

// store is a folder of tensors that a test can spoil.
type store map[string]safetensors.Tensor

func (s store) get(name string) (safetensors.Tensor, error) {
	t, ok := s[name]
	if !ok {
		return t, &safetensors.NotFoundError{Path: "test", Tensor: name}
	}
	return t, nil
}

func newStore(t testing.TB, double bool) store {
	w := make([]float32, 64*300)
	for i := range w {
		w[i] = float32(i%37) - 18.5
	}
	q, err := Quantize(NF4, []int{300, 64}, w, 64, double)
	if err != nil {
		t.Fatal(err)
	}
	list, err := q.Stored("w")
	if err != nil {
		t.Fatal(err)
	}
	s := store{}
	for _, part := range list {
		s[part.Name] = part
	}
	return s
}

func TestLoadRefusesBrokenLayouts(t *testing.T) {
	const state = "w" + stateSuffix + "nf4"
	for _, tt := range []struct {
		name  string
		spoil func(store)
		want  string
	}{
		{"codes cut", func(s store) { w := s["w"]; w.Data = w.Data[1:]; s["w"] = w }, "wants 9600 bytes"},
		{"codes of another type", func(s store) { w := s["w"]; w.DType = safetensors.I8; s["w"] = w }, "U8"},
		{"state not JSON", func(s store) { s[state] = safetensors.Tensor{Name: state, Data: []byte("{")} }, "no JSON"},
		{"state of another code", func(s store) {
			s[state] = safetensors.Tensor{Data: bytes.ReplaceAll(s[state].Data, []byte("nf4"), []byte("fp4"))}
		}, `says "fp4"`},
		{"block size 0", func(s store) {
			s[state] = safetensors.Tensor{Data: bytes.ReplaceAll(s[state].Data, []byte(`"blocksize": 64`), []byte(`"blocksize": 0`))}
		}, "block size is 0"},
		{"shape overflows", func(s store) {
			s[state] = safetensors.Tensor{Data: bytes.ReplaceAll(s[state].Data, []byte("300, 64"), []byte("4611686018427387904, 4611686018427387904"))}
		}, "overflows"},
		{"negative shape", func(s store) {
			s[state] = safetensors.Tensor{Data: bytes.ReplaceAll(s[state].Data, []byte("300"), []byte("-300"))}
		}, "negative"},
		{"foreign levels", func(s store) {
			w := s["w.quant_map"]
			w.Data = bytes.Clone(w.Data)
			w.Data[3] = 0
			s["w.quant_map"] = w
		}, "level 0"},
		{"levels missing", func(s store) { delete(s, "w.quant_map") }, "holds no tensor"},
		{"scales missing", func(s store) { delete(s, "w.absmax") }, "holds no tensor"},
		{"scales cut", func(s store) { w := s["w.absmax"]; w.Data = w.Data[4:]; s["w.absmax"] = w }, "[300]"},
		{"nested scales cut", func(s store) { w := s["w.nested_absmax"]; w.Data = nil; s["w.nested_absmax"] = w }, "F32[2]"},
		{"nested levels cut", func(s store) { w := s["w.nested_quant_map"]; w.Data = nil; s["w.nested_quant_map"] = w }, "F32[256]"},
		{"nested blocks of 0", func(s store) {
			s[state] = safetensors.Tensor{Data: bytes.ReplaceAll(s[state].Data, []byte(`"nested_blocksize": 256`), []byte(`"nested_blocksize": -1`))}
		}, "blocks of -1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t, strings.HasPrefix(tt.name, "nested"))
			tt.spoil(s)
			q, err := Load("w", s.get)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Load = %v, %v; want an error with %q", q, err, tt.want)
			}
		})
	}
	s := newStore(t, false)
	delete(s, state)
	if q, err := Load("w", s.get); q != nil || err != nil {
		t.Errorf("Load of a weight that is not packed = %v, %v; want nil, nil", q, err)
	}
}

// FuzzQuantState: a downloaded quant_state never panics and never leads outside
// of the stored codes.
func FuzzQuantState(f *testing.F) {
	for _, double := range []bool{false, true} {
		f.Add(newStore(f, double)["w"+stateSuffix+"nf4"].Data, double)
	}
	f.Add([]byte(`{"quant_type":"nf4","blocksize":64,"shape":null}`), false)
	f.Fuzz(func(t *testing.T, state []byte, double bool) {
		s := newStore(t, double)
		s["w"+stateSuffix+"nf4"] = safetensors.Tensor{Data: state}
		q, err := Load("w", s.get)
		if err != nil {
			if le := (*LayoutError)(nil); !errors.As(err, &le) && !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("Load: %v has no place", err)
			}
			return
		}
		q.Dequantize(make([]float32, q.Len()))
	})
}

func TestStoredFileOpens(t *testing.T) {
	s := newStore(t, true)
	var list []safetensors.Tensor
	for _, w := range s {
		list = append(list, w)
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := safetensors.Write(path, list, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if q, err := Load("w", f.Tensor); err != nil || q.Nested == nil {
		t.Errorf("Load from the file = %v, %v", q, err)
	}
}
