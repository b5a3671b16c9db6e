package quant

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// bitsandbytes stores a packed weight W as several tensors (QuantState.as_dict):
//
//	W                                  U8 [n/2, 1]  codes
//	W.absmax                           F32 [blocks], or U8 [blocks] if nested
//	W.quant_map                        F32 [16]     the code's levels
//	W.nested_absmax                    F32 [blocks/256], nested only
//	W.nested_quant_map                 F32 [256], nested only
//	W.quant_state.bitsandbytes__nf4    U8           a JSON text: see quantState
const stateSuffix = ".quant_state.bitsandbytes__"

// quantState is the JSON text, in the order in which bitsandbytes writes it.
type quantState struct {
	Type            Type     `json:"quant_type"`
	BlockSize       int      `json:"blocksize"`
	DType           string   `json:"dtype"`
	Shape           []int    `json:"shape"`
	NestedBlockSize int      `json:"nested_blocksize,omitempty"`
	NestedDType     string   `json:"nested_dtype,omitempty"`
	NestedOffset    *float64 `json:"nested_offset,omitempty"`
}

// Owner returns the name of the packed weight that a tensor of this name belongs
// to as a part, such as "W" for "W.absmax"; ok is false for other names.
func Owner(name string) (weight string, ok bool) {
	for _, suffix := range []string{".nested_quant_map", ".nested_absmax", ".quant_map", ".absmax", stateSuffix + string(NF4), stateSuffix + string(FP4)} {
		if w, ok := strings.CutSuffix(name, suffix); ok {
			return w, true
		}
	}
	return "", false
}

// Stored returns the tensors that bitsandbytes stores for the weight called name.
// Codes and scales are shared with t where the byte order allows.
func (t *Tensor) Stored(name string) ([]safetensors.Tensor, error) {
	state := quantState{Type: t.Type, BlockSize: t.BlockSize, DType: t.DType, Shape: t.Shape}
	levels := Code(t.Type)
	maps := []struct {
		suffix string
		data   []float32
	}{{".quant_map", levels[:]}}
	list := []safetensors.Tensor{{Name: name, DType: safetensors.U8, Shape: []int{len(t.Codes), 1}, Data: t.Codes}}
	if n := t.Nested; n == nil {
		maps = append(maps, struct {
			suffix string
			data   []float32
		}{".absmax", t.Absmax})
	} else {
		offset := float64(n.Offset)
		state.NestedBlockSize, state.NestedDType, state.NestedOffset = n.BlockSize, "float32", &offset
		list = append(list, safetensors.Tensor{Name: name + ".absmax", DType: safetensors.U8, Shape: []int{len(n.Codes)}, Data: n.Codes})
		for suffix, data := range map[string][]float32{".nested_absmax": n.Absmax, ".nested_quant_map": n.Map[:]} {
			maps = append(maps, struct {
				suffix string
				data   []float32
			}{suffix, data})
		}
	}
	for _, m := range maps {
		w, err := safetensors.FromFloat32(name+m.suffix, []int{len(m.data)}, m.data, safetensors.F32)
		if err != nil {
			return nil, fmt.Errorf("quant: store %q: %w", name, err)
		}
		list = append(list, w)
	}
	text, err := pythonJSON(state)
	if err != nil {
		return nil, fmt.Errorf("quant: store %q: %w", name, err)
	}
	list = append(list, safetensors.Tensor{Name: name + stateSuffix + string(t.Type), DType: safetensors.U8, Shape: []int{len(text)}, Data: text})
	slices.SortFunc(list, func(a, b safetensors.Tensor) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// pythonJSON writes the state as Python's json.dumps does, with a space after
// each comma and colon, so that equal states are equal bytes.
func pythonJSON(state quantState) ([]byte, error) {
	text, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(bytes.ReplaceAll(text, []byte(","), []byte(", ")), []byte(`":`), []byte(`": `)), nil
}

// A LayoutError reports a packed weight whose stored parts do not fit together.
type LayoutError struct {
	Tensor string // name of the weight
	What   string // found and wanted
}

func (e *LayoutError) Error() string {
	return fmt.Sprintf("quant: read the packed weight %q: %s: the checkpoint is broken or of an unknown kind; load the model again", e.Tensor, e.What)
}

// Load reads the weight called name from the tensors that bitsandbytes stored,
// which get returns by name. Codes are a view of what get returned. A weight that
// is not packed (it has no quant_state) gives nil and no error.
func Load(name string, get func(name string) (safetensors.Tensor, error)) (*Tensor, error) {
	bad := func(format string, args ...any) (*Tensor, error) {
		return nil, &LayoutError{name, fmt.Sprintf(format, args...)}
	}
	state, err := loadState(name, get)
	if err != nil || state == nil {
		return nil, err
	}
	w, err := get(name)
	if err != nil {
		return nil, err
	}
	n, err := safetensors.Spec{Name: name, DType: safetensors.U8, Shape: state.Shape}.Bytes()
	if err != nil {
		return bad("%v", err)
	}
	if w.DType != safetensors.U8 || int64(len(w.Data)) != n/2+n%2 {
		return bad("found %s%v, but the shape %v wants %d bytes of U8", w.DType, w.Shape, state.Shape, n/2+n%2)
	}
	t := &Tensor{Type: state.Type, Shape: state.Shape, BlockSize: state.BlockSize, Codes: w.Data, DType: state.DType}
	blocks := int((n + int64(t.BlockSize) - 1) / int64(t.BlockSize))
	if err := t.checkMap(name, get); err != nil {
		return nil, err
	}
	scales, err := get(name + ".absmax")
	if err != nil {
		return nil, err
	}
	if state.NestedOffset == nil {
		if t.Absmax, err = floats(scales, blocks); err != nil {
			return bad("%v", err)
		}
		return t, nil
	}
	if scales.DType != safetensors.U8 || len(scales.Data) != blocks {
		return bad("absmax is %s%v, wanted U8[%d]", scales.DType, scales.Shape, blocks)
	}
	if t.Nested, err = loadNested(name, state, scales.Data, get); err != nil {
		return nil, err
	}
	t.Absmax = make([]float32, blocks)
	t.Nested.decode(t.Absmax)
	return t, nil
}

// loadState finds and checks the JSON part; nil means that there is none.
func loadState(name string, get func(string) (safetensors.Tensor, error)) (*quantState, error) {
	for _, typ := range []Type{NF4, FP4} {
		text, err := get(name + stateSuffix + string(typ))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var s quantState
		if err := json.Unmarshal(text.Data, &s); err != nil {
			return nil, &LayoutError{name, fmt.Sprintf("its quant_state is no JSON: %v", err)}
		}
		if s.Type != typ {
			return nil, &LayoutError{name, fmt.Sprintf("its quant_state says %q, its name %q", s.Type, typ)}
		}
		if err := checkBlockSize(s.BlockSize); err != nil {
			return nil, &LayoutError{name, err.Error()}
		}
		if s.NestedOffset != nil && (s.NestedBlockSize <= 0 || s.NestedBlockSize > 1<<20 || s.NestedDType != "float32") {
			return nil, &LayoutError{name, fmt.Sprintf("its scales are in blocks of %d %s, wanted 256 float32", s.NestedBlockSize, s.NestedDType)}
		}
		return &s, nil
	}
	return nil, nil
}

// checkMap holds the stored levels against the code's own.
func (t *Tensor) checkMap(name string, get func(string) (safetensors.Tensor, error)) error {
	stored, err := get(name + ".quant_map")
	if err != nil {
		return err
	}
	levels, err := floats(stored, 16)
	if err != nil {
		return &LayoutError{name, err.Error()}
	}
	for i, want := range Code(t.Type) {
		if !(math.Abs(float64(levels[i]-want)) < 1e-6) {
			return &LayoutError{name, fmt.Sprintf("level %d of its quant_map is %g, wanted %g for %s", i, levels[i], want, t.Type)}
		}
	}
	return nil
}

func loadNested(name string, state *quantState, codes []byte, get func(string) (safetensors.Tensor, error)) (*Nested, error) {
	n := &Nested{Codes: codes, Offset: float32(*state.NestedOffset), BlockSize: state.NestedBlockSize}
	absmax, err := get(name + ".nested_absmax")
	if err != nil {
		return nil, err
	}
	if n.Absmax, err = floats(absmax, (len(codes)+n.BlockSize-1)/n.BlockSize); err != nil {
		return nil, &LayoutError{name, err.Error()}
	}
	levels, err := get(name + ".nested_quant_map")
	if err != nil {
		return nil, err
	}
	m, err := floats(levels, 256)
	if err != nil {
		return nil, &LayoutError{name, err.Error()}
	}
	n.Map = (*[256]float32)(m)
	return n, nil
}

// floats reads exactly n float32 values.
func floats(t safetensors.Tensor, n int) ([]float32, error) {
	if t.DType != safetensors.F32 || len(t.Data) != 4*n {
		return nil, fmt.Errorf("%s is %s%v, wanted F32[%d]", t.Name, t.DType, t.Shape, n)
	}
	x := make([]float32, n)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	return x, nil
}
