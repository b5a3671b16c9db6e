package lora

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/parallel"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// Module is the adapter of one weight.
type Module struct {
	A         []float32 // [R, In]
	B         []float32 // [Out, R]
	Magnitude []float32 // [Out], DoRA only
	In, Out   int
}

// Adapter is a set of modules, by the name of the module that they adapt, such as
// "model.layers.0.self_attn.q_proj".
type Adapter struct {
	Config  Config
	Modules map[string]*Module

	// DType is the type in which Save writes the tensors; empty means F32.
	DType safetensors.DType
}

// Names of PEFT's files and tensors.
const (
	configName  = "adapter_config.json"
	weightsName = "adapter_model.safetensors"
	prefix      = "base_model.model."
	suffixA     = ".lora_A.weight"
	suffixB     = ".lora_B.weight"
	suffixM     = ".lora_magnitude_vector"
	suffixOldM  = ".lora_magnitude_vector.weight" // up to PEFT 0.11
)

// New makes an adapter for a model, initialized as PEFT does: A uniform in
// ±1/√in (Kaiming uniform with a = √5), B zero, so that it changes nothing yet.
// The numbers depend on seed and the module's name only, so an adapter on fewer
// modules starts with the same values on those.
//
// A DoRA adapter still needs [Adapter.InitMagnitude].
func New(cfg Config, mc *model.Config, seed int64) (*Adapter, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Adapter{Config: cfg, Modules: map[string]*Module{}}
	a.Config.TargetModules = slices.Clone(cfg.TargetModules)
	for _, proj := range cfg.TargetModules {
		out, in := mc.ProjShape(proj)
		if out == 0 {
			return nil, &ConfigError{"", "target_modules", fmt.Sprintf("found %q, wanted some of %q", proj, model.Projections)}
		}
		if cfg.R > min(in, out) {
			return nil, &ConfigError{"", "r", fmt.Sprintf("found %d, but %s is %d×%d: a rank above %d has no use", cfg.R, proj, out, in, min(in, out))}
		}
		for l := range mc.NumLayers {
			name := mc.Module(l, proj)
			m := &Module{A: make([]float32, cfg.R*in), B: make([]float32, out*cfg.R), In: in, Out: out}
			h := fnv.New64a()
			h.Write([]byte(name)) // never fails
			rng := rand.New(rand.NewPCG(uint64(seed), h.Sum64()))
			bound := float32(1 / math.Sqrt(float64(in)))
			for i := range m.A {
				m.A[i] = (2*rng.Float32() - 1) * bound
			}
			a.Modules[name] = m
		}
	}
	return a, nil
}

// InitMagnitude sets each DoRA magnitude to the length of its row of W + s·B·A,
// as PEFT does, so that the adapter changes nothing yet. weight returns a
// weight's values and shape, such as [model.Checkpoint.Float32]; for a model
// quantized while loading it should return the dequantized ones.
func (a *Adapter) InitMagnitude(weight func(name string) ([]float32, []int, error)) error {
	for _, name := range a.Names() {
		m := a.Modules[name]
		w, shape, err := weight(name + ".weight")
		if err != nil {
			return fmt.Errorf("lora: magnitude of %s: %w", name, err)
		}
		if !slices.Equal(shape, []int{m.Out, m.In}) {
			return fmt.Errorf("lora: magnitude of %s: the weight has the shape %v, the adapter wants [%d %d]", name, shape, m.Out, m.In)
		}
		m.Magnitude = make([]float32, m.Out)
		d := newDelta(m, a.Config)
		parallel.For(m.Out, d.rowsPerBlock(), func(from, to int) {
			buf := d.buffer()
			for r := from; r < to; r += d.rowsPerBlock() {
				n := min(d.rowsPerBlock(), to-r)
				rows := d.rows(buf, r, n)
				for i := range n {
					m.Magnitude[r+i] = rowNorm(w[(r+i)*m.In:(r+i+1)*m.In], rows(i))
				}
			}
		})
	}
	return nil
}

// rowNorm returns ‖w + d‖ with the sums rounded to float32, as in PyTorch.
func rowNorm(w, d []float32) float32 {
	sum := 0.0
	for i, v := range w {
		x := float64(v + d[i])
		sum += x * x
	}
	return float32(math.Sqrt(sum))
}

// Names lists the modules layer by layer, in the order of the forward pass.
func (a *Adapter) Names() []string {
	return slices.SortedFunc(maps.Keys(a.Modules), func(x, y string) int {
		lx, px := place(x)
		ly, py := place(y)
		if lx != ly {
			return lx - ly
		}
		if px != py {
			return px - py
		}
		return strings.Compare(x, y)
	})
}

// place returns a module's layer and its projection's index.
func place(module string) (layer, proj int) {
	parts := strings.Split(module, ".")
	if len(parts) > 2 {
		layer, _ = strconv.Atoi(parts[2]) // 0 for a name of another form: it is ordered by text
	}
	return layer, slices.Index(model.Projections, parts[len(parts)-1])
}

// Parameters counts the trained values.
func (a *Adapter) Parameters() int64 {
	n := 0
	for _, m := range a.Modules {
		n += len(m.A) + len(m.B) + len(m.Magnitude)
	}
	return int64(n)
}

// Clone returns a copy that shares nothing with a.
func (a *Adapter) Clone() *Adapter {
	b := &Adapter{Config: a.Config, DType: a.DType, Modules: map[string]*Module{}}
	b.Config.TargetModules = slices.Clone(a.Config.TargetModules)
	for name, m := range a.Modules {
		b.Modules[name] = &Module{slices.Clone(m.A), slices.Clone(m.B), slices.Clone(m.Magnitude), m.In, m.Out}
	}
	return b
}

// An AdapterError reports an adapter that does not fit together or to its model.
type AdapterError struct {
	Place  string // folder, or "adapter"
	Module string
	What   string // found, wanted, next step
}

func (e *AdapterError) Error() string {
	return fmt.Sprintf("lora: %s: module %q: %s", e.Place, e.Module, e.What)
}

// Check compares the adapter with a model: each module must be one of the
// model's, in its shape, and whole in itself.
func (a *Adapter) Check(mc *model.Config) error {
	shapes := map[string][2]int{}
	for l := range mc.NumLayers {
		for _, proj := range model.Projections {
			out, in := mc.ProjShape(proj)
			shapes[mc.Module(l, proj)] = [2]int{out, in}
		}
	}
	if len(a.Modules) == 0 {
		return &AdapterError{"adapter", "", "it adapts nothing: it has no modules"}
	}
	for _, name := range a.Names() {
		m, want := a.Modules[name], shapes[name]
		if want == [2]int{} {
			return &AdapterError{"adapter", name, fmt.Sprintf("the model has no such projection (%s of %d layers): the adapter is for another model (it names %q)", mc.ModelType, mc.NumLayers, a.Config.BaseModel)}
		}
		if m.Out != want[0] || m.In != want[1] {
			return &AdapterError{"adapter", name, fmt.Sprintf("the adapter is for a weight of %d×%d, the model's is %d×%d: the adapter is for another model (it names %q)", m.Out, m.In, want[0], want[1], a.Config.BaseModel)}
		}
		if len(m.A) != a.Config.R*m.In || len(m.B) != m.Out*a.Config.R {
			return &AdapterError{"adapter", name, fmt.Sprintf("A has %d values and B %d, wanted %d and %d for the rank %d", len(m.A), len(m.B), a.Config.R*m.In, m.Out*a.Config.R, a.Config.R)}
		}
		if a.Config.UseDoRA != (m.Magnitude != nil) || m.Magnitude != nil && len(m.Magnitude) != m.Out {
			return &AdapterError{"adapter", name, fmt.Sprintf("its magnitude vector has %d values, wanted %d if use_dora is set and none otherwise (it is %v)", len(m.Magnitude), m.Out, a.Config.UseDoRA)}
		}
	}
	return nil
}

// Load reads an adapter that PEFT or [Adapter.Save] wrote.
func Load(dir string) (*Adapter, error) {
	path := filepath.Join(dir, configName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lora: %s holds no %s: is this an adapter's folder as PEFT writes it? (%w)", dir, configName, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lora: %w", err)
	}
	cfg, err := ParseConfig(path, raw)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, weightsName)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "adapter_model.bin")); err == nil {
			return nil, fmt.Errorf("lora: %s holds adapter_model.bin, wanted %s: gotune reads no pickled weights, since loading them runs code; save the adapter with safe_serialization", dir, weightsName)
		}
	}
	f, err := safetensors.Open(file)
	if err != nil {
		return nil, fmt.Errorf("lora: %w", err)
	}
	defer f.Close()
	a := &Adapter{Config: cfg, Modules: map[string]*Module{}}
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return nil, fmt.Errorf("lora: %w", err)
		}
		if err := a.take(dir, t); err != nil {
			return nil, err
		}
	}
	for _, name := range a.Names() {
		if m := a.Modules[name]; m.A == nil || m.B == nil || cfg.UseDoRA && m.Magnitude == nil {
			return nil, &AdapterError{dir, name, "one of its tensors lora_A, lora_B (and lora_magnitude_vector for DoRA) is missing: fetch the adapter again"}
		}
	}
	if len(a.Modules) == 0 {
		return nil, &AdapterError{dir, "", fmt.Sprintf("%s holds no tensors: fetch the adapter again", weightsName)}
	}
	return a, nil
}

// take adds one stored tensor to its module.
func (a *Adapter) take(dir string, t safetensors.Tensor) error {
	name, ok := strings.CutPrefix(t.Name, prefix)
	module, kind := name, ""
	for _, suffix := range []string{suffixA, suffixB, suffixOldM, suffixM} {
		if m, cut := strings.CutSuffix(name, suffix); cut {
			module, kind = m, suffix
			break
		}
	}
	if !ok || kind == "" {
		return &AdapterError{dir, module, fmt.Sprintf("found the tensor %q, wanted names like %s…%s: gotune reads LoRA weights of projections only", t.Name, prefix, suffixA)}
	}
	values, err := t.Float32()
	if err != nil {
		return fmt.Errorf("lora: %w", err)
	}
	if a.DType == "" {
		a.DType = t.DType
	}
	m := a.Modules[module]
	if m == nil {
		m = &Module{}
		a.Modules[module] = m
	}
	bad := func(want string) error {
		return &AdapterError{dir, module, fmt.Sprintf("%s has the shape %v, wanted %s for the rank %d of %s", kind[1:], t.Shape, want, a.Config.R, configName)}
	}
	dims := slices.Contains(t.Shape, 0)
	switch {
	case kind == suffixA && (len(t.Shape) != 2 || t.Shape[0] != a.Config.R || dims):
		return bad("[r, in]")
	case kind == suffixA:
		m.A, m.In = values, t.Shape[1]
	case kind == suffixB && (len(t.Shape) != 2 || t.Shape[1] != a.Config.R || dims || m.Magnitude != nil && t.Shape[0] != m.Out):
		return bad("[out, r]")
	case kind == suffixB:
		m.B, m.Out = values, t.Shape[0]
	case len(t.Shape) != 1 || m.B != nil && t.Shape[0] != m.Out || dims:
		return bad("[out]")
	case !a.Config.UseDoRA:
		return &AdapterError{dir, module, fmt.Sprintf("found a magnitude vector, but use_dora is false in %s", configName)}
	default:
		m.Magnitude, m.Out = values, t.Shape[0]
	}
	return nil
}

// Tensors returns the adapter's tensors as PEFT names them, in F32 or DType.
func (a *Adapter) Tensors() ([]safetensors.Tensor, error) {
	dt := a.DType
	if dt == "" {
		dt = safetensors.F32
	}
	var list []safetensors.Tensor
	for _, name := range a.Names() {
		m := a.Modules[name]
		parts := []struct {
			suffix string
			shape  []int
			data   []float32
		}{{suffixA, []int{a.Config.R, m.In}, m.A}, {suffixB, []int{m.Out, a.Config.R}, m.B}, {suffixM, []int{m.Out}, m.Magnitude}}
		for _, p := range parts {
			if p.data == nil {
				continue
			}
			t, err := safetensors.FromFloat32(prefix+name+p.suffix, p.shape, p.data, dt)
			if err != nil {
				return nil, fmt.Errorf("lora: %w", err)
			}
			list = append(list, t)
		}
	}
	return list, nil
}

// Save writes the adapter into dir, which it makes if need be, so that PEFT loads
// it. Each of the two files appears whole or not at all; the weights come first,
// so that a folder with a new configuration has its weights.
func (a *Adapter) Save(dir string) error {
	if err := a.Config.Validate(); err != nil {
		return err
	}
	text, err := a.Config.marshal()
	if err != nil {
		return err
	}
	list, err := a.Tensors()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("lora: save the adapter: %w", err)
	}
	if err := safetensors.Write(filepath.Join(dir, weightsName), list, map[string]string{"format": "pt"}); err != nil {
		return fmt.Errorf("lora: save the adapter: %w", err)
	}
	return writeFile(filepath.Join(dir, configName), text)
}
