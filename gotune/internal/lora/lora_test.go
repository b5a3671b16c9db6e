package lora

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

const tinyConfig = `{"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":256,"dtype":"bfloat16"}`

func tinyModel(t testing.TB) *model.Config {
	t.Helper()
	c, err := model.ParseConfig("config.json", []byte(tinyConfig))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tinyFolder writes the model with weights of one value.
func tinyFolder(t testing.TB, value float32, dt safetensors.DType) string {
	t.Helper()
	dir := t.TempDir()
	var list []safetensors.Tensor
	for _, w := range tinyModel(t).Weights() {
		n := 1
		for _, d := range w.Shape {
			n *= d
		}
		values := slices.Repeat([]float32{value}, n)
		tensor, err := safetensors.FromFloat32(w.Name, w.Shape, values, dt)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, tensor)
	}
	if err := safetensors.Write(filepath.Join(dir, "model.safetensors"), list, nil); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"config.json": tinyConfig, "generation_config.json": "{}", "tokenizer.json": "{}", "LICENSE.txt": "free", "notes.txt": "mine"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func openTiny(t testing.TB) *model.Checkpoint {
	t.Helper()
	ck, err := model.Open(tinyFolder(t, 0.5, safetensors.BF16))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	return ck
}

func tinyAdapter(t testing.TB, targets ...string) *Adapter {
	t.Helper()
	a, err := New(Config{R: 4, Alpha: 8, TargetModules: targets}, tinyModel(t), 7)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// LoRA, section 4.1: "We use a random Gaussian initialization for A and zero for
// B, so ΔW = BA is zero at the beginning"; PEFT draws A uniformly in ±1/√in.
func TestNewInitializesAsPEFT(t *testing.T) {
	mc, err := model.ParseConfig("config.json", []byte(strings.Replace(tinyConfig, `"hidden_size":64`, `"hidden_size":1024`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{R: 16, Alpha: 32, TargetModules: []string{"q_proj", "down_proj"}}
	a, err := New(cfg, mc, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Modules) != 4 {
		t.Errorf("%d modules, want 2 projections of 2 layers", len(a.Modules))
	}
	if err := a.Check(mc); err != nil {
		t.Error(err)
	}
	for name, m := range a.Modules {
		bound := 1 / math.Sqrt(float64(m.In))
		sum, square := 0.0, 0.0
		for _, v := range m.A {
			if math.Abs(float64(v)) > bound {
				t.Fatalf("%s: A holds %g, outside of ±%g", name, v, bound)
			}
			sum += float64(v)
			square += float64(v) * float64(v)
		}
		n := float64(len(m.A))
		sigma := bound / math.Sqrt(3)
		if math.Abs(sum/n) > 4*sigma/math.Sqrt(n) || math.Abs(math.Sqrt(square/n)/sigma-1) > 4/math.Sqrt(n) {
			t.Errorf("%s: A has the mean %g and the deviation %g, want 0 and %g", name, sum/n, math.Sqrt(square/n), sigma)
		}
		if slices.ContainsFunc(m.B, func(v float32) bool { return v != 0 }) {
			t.Errorf("%s: B is not zero", name)
		}
	}
	again, err := New(cfg, mc, 1)
	if err != nil || !reflect.DeepEqual(a, again) {
		t.Errorf("the same seed gives another adapter (%v)", err)
	}
	other, err := New(Config{R: 16, Alpha: 32, TargetModules: []string{"q_proj"}}, mc, 1)
	if err != nil || !slices.Equal(other.Modules["model.layers.1.self_attn.q_proj"].A, a.Modules["model.layers.1.self_attn.q_proj"].A) {
		t.Errorf("fewer targets change the values of the others (%v)", err)
	}
	other, err = New(cfg, mc, 2)
	if err != nil || slices.Equal(other.Modules["model.layers.1.self_attn.q_proj"].A, a.Modules["model.layers.1.self_attn.q_proj"].A) {
		t.Errorf("another seed gives the same adapter (%v)", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		cfg         Config
		field, want string
	}{
		{Config{R: 0, Alpha: 1, TargetModules: []string{"q_proj"}}, "r", "rank from 1"},
		{Config{R: 65, Alpha: 1, TargetModules: []string{"q_proj"}}, "r", "above 64"},
		{Config{R: 33, Alpha: 1, TargetModules: []string{"q_proj", "v_proj"}}, "r", "v_proj is 32×64"},
		{Config{R: 1, Alpha: math.NaN(), TargetModules: []string{"q_proj"}}, "lora_alpha", "finite"},
		{Config{R: 1, Alpha: 1, Dropout: 1, TargetModules: []string{"q_proj"}}, "lora_dropout", "[0, 1)"},
		{Config{R: 1, Alpha: 1}, "target_modules", "none"},
		{Config{R: 1, Alpha: 1, TargetModules: []string{"lm_head"}}, "target_modules", "lm_head"},
	} {
		_, err := New(tt.cfg, tinyModel(t), 1)
		var ce *ConfigError
		if !errors.As(err, &ce) || ce.Field != tt.field || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%+v): %v; want field %s and %q", tt.cfg, err, tt.field, tt.want)
		}
	}
}

// rsLoRA (arXiv:2312.03732), section 3: the scale is alpha/√r, not alpha/r.
func TestScale(t *testing.T) {
	if s := (Config{R: 64, Alpha: 16}).Scale(); s != 0.25 {
		t.Errorf("Scale = %g, want 16/64", s)
	}
	if s := (Config{R: 64, Alpha: 16, UseRSLoRA: true}).Scale(); s != 2 {
		t.Errorf("rank-stabilized Scale = %g, want 16/8", s)
	}
}

// DoRA (arXiv:2402.09353), section 4.1: the magnitude starts as the weight's own
// length, so the first merge changes nothing.
func TestInitMagnitudeChangesNothing(t *testing.T) {
	ck := openTiny(t)
	a, err := New(Config{R: 4, Alpha: 8, TargetModules: []string{"q_proj", "down_proj"}, UseDoRA: true}, ck.Config, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Check(ck.Config); err == nil || !strings.Contains(err.Error(), "magnitude") {
		t.Errorf("Check before InitMagnitude: %v", err)
	}
	if err := a.InitMagnitude(ck.Float32); err != nil {
		t.Fatal(err)
	}
	if m := a.Modules["model.layers.0.mlp.down_proj"].Magnitude; len(m) != 64 || math.Abs(float64(m[0])-0.5*math.Sqrt(96)) > 1e-6 {
		t.Errorf("magnitude %v, want 64 times ‖(0.5, …)‖ = %g", m, 0.5*math.Sqrt(96))
	}
	out := filepath.Join(t.TempDir(), "merged")
	if err := Merge(context.Background(), ck, a, out, MergeOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	merged, err := model.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer merged.Close()
	for _, w := range ck.Config.Weights() {
		values, _, err := merged.Float32(w.Name)
		if err != nil || slices.ContainsFunc(values, func(v float32) bool { return v != 0.5 }) {
			t.Errorf("%s changed (%v)", w.Name, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	good := tinyAdapter(t, "q_proj")
	list, err := good.Tensors()
	if err != nil {
		t.Fatal(err)
	}
	const key = prefix + "model.layers.0.self_attn.q_proj"
	edit := func(name string, change func(*safetensors.Tensor)) []safetensors.Tensor {
		l := slices.Clone(list)
		i := slices.IndexFunc(l, func(w safetensors.Tensor) bool { return w.Name == name })
		change(&l[i])
		return l
	}
	one, err := safetensors.FromFloat32(key+suffixM, []int{64}, make([]float32, 64), safetensors.F32)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		config  [2]string
		tensors []safetensors.Tensor
		want    string
	}{
		{"another kind", [2]string{`"LORA"`, `"IA3"`}, list, "peft_type"},
		{"rank missing", [2]string{`"r"`, `"R2"`}, list, "missing"},
		{"rank of another file", [2]string{`"r": 4`, `"r": 8`}, list, "for the rank 8"},
		{"rank negative", [2]string{`"r": 4`, `"r": -4`}, list, "rank from 1"},
		{"bias", [2]string{`"bias": "none"`, `"bias": "all"`}, list, "bias"},
		{"more saved modules", [2]string{`"modules_to_save": null`, `"modules_to_save": ["lm_head"]`}, list, "modules_to_save"},
		{"ranks by pattern", [2]string{`"rank_pattern": {}`, `"rank_pattern": {"q_proj": 8}`}, list, "rank_pattern"},
		{"transposed weights", [2]string{`"fan_in_fan_out": false`, `"fan_in_fan_out": true`}, list, "fan_in_fan_out"},
		{"targets a number", [2]string{`"q_proj"`, `1`}, list, "target_modules"},
		{"no JSON", [2]string{`{`, `[`}, list, "does not read"},
		{"DoRA without magnitudes", [2]string{`"use_dora": false`, `"use_dora": true`}, list, "lora_magnitude_vector"},
		{"magnitudes without DoRA", [2]string{}, append(slices.Clone(list), one), "use_dora is false"},
		{"no tensors", [2]string{}, nil, "holds no tensors"},
		{"B missing", [2]string{}, list[:3], "is missing"},
		{"foreign tensor", [2]string{}, edit(key+suffixA, func(w *safetensors.Tensor) { w.Name = "base_model.model.lm_head.weight" }), "lm_head.weight"},
		{"without PEFT's prefix", [2]string{}, edit(key+suffixA, func(w *safetensors.Tensor) { w.Name = "model.layers.0.self_attn.q_proj.lora_A.weight" }), "wanted names like"},
		{"embedding adapter", [2]string{}, edit(key+suffixA, func(w *safetensors.Tensor) { w.Name = prefix + "model.embed_tokens.lora_embedding_A" }), "wanted names like"},
		{"A flat", [2]string{}, edit(key+suffixA, func(w *safetensors.Tensor) { w.Shape = []int{256} }), "[r, in]"},
		{"A transposed", [2]string{}, edit(key+suffixA, func(w *safetensors.Tensor) { w.Shape = []int{64, 4} }), "[r, in]"},
		{"B transposed", [2]string{}, edit(key+suffixB, func(w *safetensors.Tensor) { w.Shape = []int{4, 64} }), "[out, r]"},
		{"A empty", [2]string{}, edit(key+suffixA, func(w *safetensors.Tensor) { w.Shape, w.Data = []int{4, 0}, nil }), "[r, in]"},
		{"A of whole numbers", [2]string{}, edit(key+suffixA, func(w *safetensors.Tensor) { w.DType = safetensors.I32 }), "I32"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := good.Save(dir); err != nil {
				t.Fatal(err)
			}
			text := string(readFile(t, filepath.Join(dir, configName)))
			if tt.config[0] != "" {
				if !strings.Contains(text, tt.config[0]) {
					t.Fatalf("%s holds no %s", configName, tt.config[0])
				}
				text = strings.Replace(text, tt.config[0], tt.config[1], 1)
			}
			if err := errors.Join(os.WriteFile(filepath.Join(dir, configName), []byte(text), 0o600), safetensors.Write(filepath.Join(dir, weightsName), tt.tensors, nil)); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Load: %v; want %q", err, tt.want)
			}
		})
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "holds no "+configName) {
		t.Errorf("Load of an empty folder: %v", err)
	}
}

// FuzzParseConfig: a downloaded adapter_config.json never panics, and one that is
// accepted is written so that it reads the same.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(peftDefaults))
	f.Add([]byte(`{"peft_type":"LORA","r":4,"lora_alpha":8.5,"lora_dropout":1e-05,"target_modules":["q_proj"]}`))
	f.Add([]byte(`{"peft_type":"LORA","r":4,"lora_alpha":8,"target_modules":"all-linear","base_model_name_or_path":"<a&b>"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig("x", raw)
		if err != nil {
			return
		}
		text, err := c.marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig("x", text)
		if err != nil {
			t.Fatalf("%v in what was written: %s", err, text)
		}
		c.extra, again.extra = nil, nil
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v was written and read as %+v", c, again)
		}
	})
}

// The settings of a Config reach the file, whatever was read before.
func TestMarshalWritesChangedFields(t *testing.T) {
	c, err := ParseConfig("x", []byte(`{"peft_type":"LORA","r":4,"lora_alpha":8.0,"lora_dropout":0.0,"target_modules":"all-linear","future_field":[1, 2]}`))
	if err != nil {
		t.Fatal(err)
	}
	c.Dropout, c.R, c.UseDoRA, c.BaseModel, c.TargetModules = 0.1, 8, true, "me/base", []string{"q_proj"}
	text, err := c.marshal()
	if err != nil {
		t.Fatal(err)
	}
	var got, want map[string]any
	wantText := `{"peft_type":"LORA","r":8,"lora_alpha":8.0,"lora_dropout":0.1,"target_modules":["q_proj"],"future_field":[1,2],
		"use_dora":true,"use_rslora":false,"base_model_name_or_path":"me/base","revision":null}`
	if err := errors.Join(json.Unmarshal(text, &got), json.Unmarshal([]byte(wantText), &want)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) || !strings.Contains(string(text), `"lora_alpha": 8.0`) {
		t.Errorf("marshal wrote %s, want %s", text, wantText)
	}
	for v, want := range map[float64]string{0: "0.0", 0.05: "0.05", 16: "16.0", 1e-5: "1e-05", 0.0001: "0.0001"} {
		if got := pyFloat(v); got != want {
			t.Errorf("pyFloat(%g) = %s, want %s as Python writes it", v, got, want)
		}
	}
}

// An adapter in 16 bits keeps its type.
func TestSaveKeepsType(t *testing.T) {
	a := tinyAdapter(t, "q_proj")
	a.DType = safetensors.BF16
	dir := t.TempDir()
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	b, err := Load(dir)
	if err != nil || b.DType != safetensors.BF16 {
		t.Errorf("the type is %s (%v), want BF16", b.DType, err)
	}
	c := b.Clone()
	c.Modules["model.layers.0.self_attn.q_proj"].A[0] = 9
	c.Config.TargetModules[0] = "x"
	if b.Modules["model.layers.0.self_attn.q_proj"].A[0] == 9 || b.Config.TargetModules[0] == "x" {
		t.Error("a clone shares its values")
	}
}
