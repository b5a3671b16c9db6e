package lora

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// goldenAdapters lists every adapter folder of the golden data.
func goldenAdapters(t testing.TB) []string {
	t.Helper()
	root := oracle.Dir(t)
	var dirs []string
	for _, pattern := range []string{"lora/*", "lora/*/*", "dpo/*/*"} {
		matches, err := filepath.Glob(filepath.Join(root, pattern, configName))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range matches {
			rel, err := filepath.Rel(root, filepath.Dir(m))
			if err != nil {
				t.Fatal(err)
			}
			dirs = append(dirs, rel)
		}
	}
	if len(dirs) == 0 {
		t.Fatal("no adapter in the golden data")
	}
	return dirs
}

// What PEFT wrote is read and written back byte for byte.
func TestSaveEqualsPEFT(t *testing.T) {
	for _, rel := range goldenAdapters(t) {
		t.Run(rel, func(t *testing.T) {
			dir := oracle.Dir(t, rel)
			a, err := Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			if err := a.Save(out); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{configName, weightsName} {
				got, want := readFile(t, filepath.Join(out, name)), readFile(t, filepath.Join(dir, name))
				if !bytes.Equal(got, want) {
					t.Errorf("%s differs from PEFT's (%d bytes, want %d)\n%s", name, len(got), len(want), configDiff(name, got, want))
				}
			}
			b, err := Load(out)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(a, b) {
				t.Error("an adapter that was saved and loaded differs")
			}
		})
	}
}

func configDiff(name string, got, want []byte) string {
	if name != configName {
		return ""
	}
	return string(got) + "\nwant\n" + string(want)
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A configuration made from nothing but its settings has the fields and values
// that PEFT wrote for the same settings.
func TestNewConfigEqualsPEFT(t *testing.T) {
	for _, rel := range goldenAdapters(t) {
		a, err := Load(oracle.Dir(t, rel))
		if err != nil {
			t.Fatal(err)
		}
		c := a.Config
		c.extra = nil
		got, err := c.marshal()
		if err != nil {
			t.Fatal(err)
		}
		if want := readFile(t, oracle.Dir(t, rel, configName)); !bytes.Equal(got, want) {
			t.Errorf("%s: wrote\n%s\nPEFT wrote\n%s", rel, got, want)
		}
	}
}

// mergeCase is one adapter of lora/index.json.
type mergeCase struct {
	Model  string
	Config struct {
		R       int      `json:"r"`
		Alpha   float64  `json:"lora_alpha"`
		Targets []string `json:"target_modules"`
		RSLoRA  bool     `json:"use_rslora"`
		DoRA    bool     `json:"use_dora"`
	}
	Trainable int64
}

func mergeCases(t testing.TB) map[string]mergeCase {
	var index struct{ Adapters map[string]mergeCase }
	oracle.JSON(t, &index, "lora", "index.json")
	if len(index.Adapters) == 0 {
		t.Fatal("lora/index.json lists no adapter")
	}
	return index.Adapters
}

func openModel(t testing.TB, elem ...string) *model.Checkpoint {
	t.Helper()
	ck, err := model.Open(oracle.Dir(t, elem...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	return ck
}

// PEFT's merge_and_unload in float32 (1e-6) and in float16 (one unit in the last
// place), tensor by tensor; weights without an adapter are unchanged.
func TestMergeEqualsPEFT(t *testing.T) {
	compared := map[safetensors.DType]int{}
	for name, tt := range mergeCases(t) {
		t.Run(name, func(t *testing.T) {
			ck := openModel(t, tt.Model)
			a, err := Load(oracle.Dir(t, "lora", name))
			if err != nil {
				t.Fatal(err)
			}
			if a.Parameters() != tt.Trainable {
				t.Errorf("%d parameters, PEFT counts %d", a.Parameters(), tt.Trainable)
			}
			expect, err := safetensors.Open(oracle.Dir(t, "lora", name, "expect.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer expect.Close()
			for kind, dt := range map[string]safetensors.DType{"merged_f32.": safetensors.F32, "merged_fp16.": safetensors.F16} {
				out := filepath.Join(t.TempDir(), "merged")
				if err := Merge(context.Background(), ck, a, out, MergeOptions{DType: dt}, nil); err != nil {
					t.Fatal(err)
				}
				merged, err := model.Open(out)
				if err != nil {
					t.Fatal(err)
				}
				if err := merged.Check(); err != nil {
					t.Error(err)
				}
				for _, key := range expect.Names() {
					weight, ok := strings.CutPrefix(key, kind)
					if !ok {
						continue
					}
					compared[dt]++
					compareMerged(t, merged, expect, weight, key, dt)
				}
				checkUnchanged(t, ck, merged, a, dt)
				merged.Close()
			}
			if ref := filepath.Join(oracle.Dir(t, "lora", name), "merged_f32"); isDir(ref) {
				compareModels(t, ck, a, ref)
			}
		})
	}
	if compared[safetensors.F32] == 0 || compared[safetensors.F16] == 0 {
		t.Errorf("compared %v tensors: the golden data should hold both types", compared)
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func compareMerged(t *testing.T, merged *model.Checkpoint, expect *safetensors.File, weight, key string, dt safetensors.DType) {
	t.Helper()
	want, err := expect.Tensor(key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := merged.Tensor(weight)
	if err != nil {
		t.Fatal(err)
	}
	if got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) {
		t.Fatalf("%s is %s%v, want %s%v", weight, got.DType, got.Shape, want.DType, want.Shape)
	}
	g, w := floats(t, got), floats(t, want)
	worst := 0.0
	for i := range g {
		if dt == safetensors.F32 {
			worst = max(worst, math.Abs(float64(g[i]-w[i])))
			continue
		}
		// Halves of one sign are ordered as their bits are.
		a, b := int(safetensors.F32ToF16(g[i])), int(safetensors.F32ToF16(w[i]))
		if a&0x8000 != b&0x8000 && g[i] != w[i] {
			a, b = a&0x7fff, -(b & 0x7fff)
		}
		worst = max(worst, math.Abs(float64(a-b)))
	}
	if limit := map[safetensors.DType]float64{safetensors.F32: 1e-6, safetensors.F16: 1}[dt]; worst > limit {
		t.Errorf("%s (%s) differs by %g, want at most %g", weight, dt, worst, limit)
	}
}

func floats(t testing.TB, w safetensors.Tensor) []float32 {
	t.Helper()
	f, err := w.Float32()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func checkUnchanged(t *testing.T, base, merged *model.Checkpoint, a *Adapter, dt safetensors.DType) {
	t.Helper()
	for _, w := range base.Config.Weights() {
		if a.Modules[strings.TrimSuffix(w.Name, ".weight")] != nil {
			continue
		}
		old, _, err := base.Float32(w.Name)
		if err != nil {
			t.Fatal(err)
		}
		roundTo(dt, old)
		if now, _, err := merged.Float32(w.Name); err != nil || !slices.Equal(old, now) {
			t.Errorf("%s has no adapter but changed (%v)", w.Name, err)
		}
	}
}

// compareModels holds a merged folder against one that PEFT wrote, config.json
// included.
func compareModels(t *testing.T, ck *model.Checkpoint, a *Adapter, ref string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "merged")
	if err := Merge(context.Background(), ck, a, out, MergeOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	want, err := model.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	got, err := model.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	names, wantNames := got.Names(), want.Names()
	slices.Sort(names)
	slices.Sort(wantNames)
	if !slices.Equal(names, wantNames) {
		t.Errorf("tensors %v, PEFT wrote %v", names, wantNames)
	}
	for _, name := range wantNames {
		g, shape, err := got.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		w, wantShape, err := want.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(shape, wantShape) {
			t.Fatalf("%s has the shape %v, want %v", name, shape, wantShape)
		}
		for i := range w {
			if d := math.Abs(float64(g[i] - w[i])); d > 1e-6 {
				t.Fatalf("%s[%d] = %g, want %g", name, i, g[i], w[i])
			}
		}
	}
	var c, wc map[string]any
	for path, into := range map[string]*map[string]any{out: &c, ref: &wc} {
		if err := json.Unmarshal(readFile(t, filepath.Join(path, "config.json")), into); err != nil {
			t.Fatal(err)
		}
	}
	// use_cache is a switch of the program that wrote the reference, not of the model.
	delete(c, "use_cache")
	delete(wc, "use_cache")
	if !reflect.DeepEqual(c, wc) {
		t.Errorf("config.json is %v, PEFT's model has %v", c, wc)
	}
}

// A packed base is dequantized and merged: the result is dequant(W) + s·B·A.
func TestMergeFromPackedBase(t *testing.T) {
	var layout map[string]struct{ Source string }
	oracle.JSON(t, &layout, "nf4", "model_layout.json")
	for name := range layout {
		ck := openModel(t, "nf4", name)
		a, err := New(Config{R: 4, Alpha: 8, TargetModules: model.Projections}, ck.Config, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range a.Modules {
			for i := range m.B {
				m.B[i] = float32(i%7-3) / 32
			}
		}
		out := filepath.Join(t.TempDir(), "merged")
		if err := Merge(context.Background(), ck, a, out, MergeOptions{DType: safetensors.F32}, nil); err != nil {
			t.Fatal(err)
		}
		merged, err := model.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		defer merged.Close()
		if merged.Config.Quantization != nil || merged.Config.DType != "float32" {
			t.Errorf("config.json of the merged model says %+v, %q", merged.Config.Quantization, merged.Config.DType)
		}
		if err := merged.Check(); err != nil {
			t.Error(err)
		}
		for _, mod := range a.Names() {
			base, _, err := ck.Float32(mod + ".weight")
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := merged.Float32(mod + ".weight")
			if err != nil {
				t.Fatal(err)
			}
			want := plainMerge(base, a.Modules[mod], a.Config)
			for i := range want {
				if d := math.Abs(float64(got[i]) - want[i]); d > 1e-6 {
					t.Fatalf("%s[%d] = %g, want %g", mod, i, got[i], want[i])
				}
			}
		}
	}
}

// plainMerge is W + s·B·A in float64.
func plainMerge(w []float32, m *Module, cfg Config) []float64 {
	out := make([]float64, len(w))
	for o := range m.Out {
		for i := range m.In {
			sum := 0.0
			for k := range cfg.R {
				sum += float64(m.B[o*cfg.R+k]) * float64(m.A[k*m.In+i])
			}
			out[o*m.In+i] = float64(w[o*m.In+i]) + cfg.Scale()*sum
		}
	}
	return out
}
