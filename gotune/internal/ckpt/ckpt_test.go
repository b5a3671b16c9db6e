package ckpt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/safetensors"
	"github.com/gotune/gotune/gotune/internal/train"
)

// adapter is a small adapter all of whose values are v.
func adapter(v float32, in, out int) *lora.Adapter {
	fill := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = v
		}
		return x
	}
	return &lora.Adapter{
		Config: lora.Config{R: 4, Alpha: 8, TargetModules: []string{"q_proj", "v_proj"}, BaseModel: "tiny"},
		Modules: map[string]*lora.Module{
			"model.layers.0.self_attn.q_proj": {A: fill(4 * in), B: fill(out * 4), In: in, Out: out},
			"model.layers.0.self_attn.v_proj": {A: fill(4 * in), B: fill(out * 4), In: in, Out: out},
		},
	}
}

// snapshot is a run after the given step; its tensors are full of v.
func snapshot(t testing.TB, step int, v float32, n int) train.Snapshot {
	x := make([]float32, n)
	for i := range x {
		x[i] = v
	}
	m, err := safetensors.FromFloat32("momentum", []int{n}, x, safetensors.F32)
	if err != nil {
		t.Fatal(err)
	}
	c, err := safetensors.FromInt64("counter", []int{1}, []int64{int64(step)})
	if err != nil {
		t.Fatal(err)
	}
	return train.Snapshot{
		State: train.State{Step: step, LossSum: 1.0 / 3, LossCount: 2, TotalLoss: 10.0 / 3, TotalCount: step, Tokens: 1 << 40, Seconds: 0.1, Data: "abc",
			History: []train.LogEntry{
				{Step: 1, Epoch: 0.04, Loss: 1.5, GradNorm: math.Inf(1), LearningRate: 2e-4},
				{Step: 1, Epoch: 0.04, Loss: 1.25, Eval: true, Seconds: 0.5, Rows: 10, Batches: 5},
			}},
		Epoch: float64(step) / 25, Steps: 50, Tensors: []safetensors.Tensor{m, c},
		Config: train.Config{Epochs: 2, BatchSize: 4, LearningRate: 2e-4, Schedule: "polynomial", ScheduleArgs: train.Args{"power": 2.0}, SaveSteps: 5, Seed: 42},
	}
}

func save(t testing.TB, dir string, step int, o Options) string {
	t.Helper()
	got, err := Save(dir, adapter(float32(step), 8, 6), snapshot(t, step, float32(step), 10), o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSaveLoad(t *testing.T) {
	out := filepath.Join(t.TempDir(), "results")
	tok := filepath.Join(t.TempDir(), "tokenizer.json")
	if err := os.WriteFile(tok, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := save(t, out, 25, Options{Copy: []string{tok}})
	if want := filepath.Join(out, "checkpoint-25"); dir != want {
		t.Errorf("saved in %s, want %s", dir, want)
	}
	c, damaged, err := Latest(out)
	if err != nil || len(damaged) > 0 {
		t.Fatal(err, damaged)
	}
	if c.Dir != dir || c.Snapshot.Name != "checkpoint-25" {
		t.Errorf("loaded %s as %q", c.Dir, c.Snapshot.Name)
	}
	want := snapshot(t, 25, 25, 10)
	want.Name = "checkpoint-25"
	byName := func(ts []safetensors.Tensor) {
		slices.SortFunc(ts, func(a, b safetensors.Tensor) int { return strings.Compare(a.Name, b.Name) })
	}
	byName(want.Tensors)
	byName(c.Snapshot.Tensors)
	if !reflect.DeepEqual(c.Snapshot, want) {
		t.Errorf("snapshot\n%+v\nwant\n%+v", c.Snapshot, want)
	}
	for name, m := range adapter(25, 8, 6).Modules {
		if g := c.Adapter.Modules[name]; g == nil || !slices.Equal(g.A, m.A) || !slices.Equal(g.B, m.B) {
			t.Errorf("%s is not as it was saved", name)
		}
	}
	var names []string
	items, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		names = append(names, it.Name())
	}
	if want := []string{"adapter_config.json", "adapter_model.safetensors", "gotune_state.json", "optimizer.safetensors", "tokenizer.json", "trainer_state.json"}; !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
}

// TestDamage spoils each file in turn: Load names it, Latest passes on to the
// older checkpoint.
func TestDamage(t *testing.T) {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte {
			b[(len(b)+at)%len(b)] ^= 1
			return b
		}
	}
	for _, tt := range []struct {
		file  string
		spoil func([]byte) []byte // nil: delete
		want  string
	}{
		{"adapter_model.safetensors", func(b []byte) []byte { return b[:len(b)-1] }, "bytes, wanted"},
		{"adapter_model.safetensors", flip(-1), "other content"},
		{"adapter_model.safetensors", nil, "is missing"},
		{"optimizer.safetensors", flip(-1), "other content"},
		{"optimizer.safetensors", func([]byte) []byte { return nil }, "has 0 bytes"},
		{"adapter_config.json", flip(3), "other content"},
		{"trainer_state.json", nil, "is missing"},
		{"gotune_state.json", nil, "gotune_state.json is missing"},
		{"gotune_state.json", func([]byte) []byte { return nil }, "unexpected end"},
		{"gotune_state.json", func(b []byte) []byte { return b[:len(b)/2] }, "unexpected end"},
		{"gotune_state.json", func([]byte) []byte { return []byte(`{"Format":9}`) }, "format 9"},
		{"gotune_state.json", func([]byte) []byte { return []byte(`{"Format":1}`) }, "does not list"},
		{"gotune_state.json", func([]byte) []byte {
			return []byte(`{"Format":1,"Files":{"optimizer.safetensors":{},"../../x":{}}}`)
		}, ""},
	} {
		out := t.TempDir()
		save(t, out, 5, Options{})
		path := filepath.Join(save(t, out, 10, Options{}), tt.file)
		b, err := os.ReadFile(path)
		if err == nil && tt.spoil != nil {
			err = os.WriteFile(path, tt.spoil(b), 0o644)
		} else if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		c, damaged, err := Latest(out)
		if err != nil || c.Snapshot.State.Step != 5 || len(damaged) != 1 {
			t.Errorf("%s spoiled: loaded %v, damaged %v, %v", tt.file, c, damaged, err)
			continue
		}
		var e *Error
		if !errors.As(damaged[0], &e) || !strings.Contains(e.Error(), "checkpoint-10") || !strings.Contains(e.Error(), tt.want) {
			t.Errorf("%s spoiled: %v, want %q", tt.file, damaged[0], tt.want)
		}
	}
}

func TestLatestNone(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		if _, _, err := Latest(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	out := t.TempDir()
	for _, name := range []string{"checkpoint-7", "checkpoint-07", "checkpoint--1", "checkpoint-x", "checkpoint-", "runs"} {
		if err := os.Mkdir(filepath.Join(out, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(out, "checkpoint-9"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if list, err := List(out); err != nil || len(list) != 1 || list[0].Step != 7 {
		t.Errorf("list %v, %v", list, err)
	}
	if _, damaged, err := Latest(out); !errors.Is(err, fs.ErrNotExist) || len(damaged) != 1 || !strings.Contains(err.Error(), "train anew") {
		t.Errorf("damaged %v, %v", damaged, err)
	}
}

func steps(t *testing.T, dir string) []int {
	t.Helper()
	list, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, e := range list {
		out = append(out, e.Step)
	}
	return out
}

func TestLimit(t *testing.T) {
	out := t.TempDir()
	for _, tt := range []struct {
		step, limit int
		want        []int
	}{
		{5, 0, []int{5}}, {10, 0, []int{5, 10}}, {15, 0, []int{5, 10, 15}},
		{20, 2, []int{15, 20}},
		{20, 2, []int{15, 20}}, // saved again
		{17, 2, []int{17, 20}}, // the new one stays though it is not the newest
		{16, 1, []int{16}},
		{100, 1, []int{100}},
	} {
		save(t, out, tt.step, Options{Limit: tt.limit})
		if got := steps(t, out); !slices.Equal(got, tt.want) {
			t.Errorf("after saving %d with limit %d: %v, want %v", tt.step, tt.limit, got, tt.want)
		}
	}
	save(t, out, 110, Options{})
	save(t, out, 120, Options{})
	if err := RemoveAfter(out, 100); err != nil {
		t.Fatal(err)
	}
	if got := steps(t, out); !slices.Equal(got, []int{100}) {
		t.Errorf("after RemoveAfter(100): %v", got)
	}
	if err := RemoveAfter(out, -1); err != nil || len(steps(t, out)) > 0 {
		t.Errorf("after RemoveAfter(-1): %v, %v", steps(t, out), err)
	}
	if items, _ := os.ReadDir(out); len(items) > 0 {
		t.Errorf("left over: %v", items)
	}
}

// TestReplaceKeepsOne: a checkpoint of the same step is replaced by the new one.
func TestReplace(t *testing.T) {
	out := t.TempDir()
	save(t, out, 5, Options{})
	if _, err := Save(out, adapter(9, 8, 6), snapshot(t, 5, 9, 10), Options{}); err != nil {
		t.Fatal(err)
	}
	c, _, err := Latest(out)
	if err != nil || c.Adapter.Modules["model.layers.0.self_attn.q_proj"].A[0] != 9 {
		t.Errorf("%v, %v", c, err)
	}
	if items, _ := os.ReadDir(out); len(items) != 1 {
		t.Errorf("left over: %v", items)
	}
}

func TestSaveFails(t *testing.T) {
	out := t.TempDir()
	save(t, out, 5, Options{})
	for name, f := range map[string]func() (string, error){
		"no adapter":  func() (string, error) { return Save(out, nil, snapshot(t, 6, 1, 10), Options{}) },
		"bad adapter": func() (string, error) { return Save(out, &lora.Adapter{}, snapshot(t, 6, 1, 10), Options{}) },
		"missing file": func() (string, error) {
			return Save(out, adapter(1, 8, 6), snapshot(t, 6, 1, 10), Options{Copy: []string{filepath.Join(out, "tokenizer.json")}})
		},
		"clash": func() (string, error) {
			return Save(out, adapter(1, 8, 6), snapshot(t, 6, 1, 10), Options{Copy: []string{filepath.Join(out, "checkpoint-5", "adapter_config.json")}})
		},
	} {
		_, err := f()
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), "checkpoint-6") || !strings.Contains(err.Error(), "earlier checkpoints are whole") {
			t.Errorf("%s: %v", name, err)
		}
		if items, _ := os.ReadDir(out); len(items) != 1 {
			t.Errorf("%s: left over %v", name, items)
		}
	}
	if _, err := Load(filepath.Join(out, "checkpoint-5")); err != nil {
		t.Error(err)
	}
}

// TestTransformersReadsState loads trainer_state.json with transformers.
func TestTransformersReadsState(t *testing.T) {
	t.Parallel()
	py := oracle.Python(t, "transformers")
	dir := save(t, t.TempDir(), 25, Options{})
	const script = `
import sys, json
from transformers.trainer_callback import TrainerState
s = TrainerState.load_from_json(sys.argv[1] + "/trainer_state.json")
print(json.dumps([s.global_step, s.max_steps, s.epoch, s.num_train_epochs, s.save_steps, s.log_history]))`
	cmd := exec.Command(py, "-c", script, dir)
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1", "CUDA_VISIBLE_DEVICES=")
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("transformers: %v\n%s", err, text)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var got, want any
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
		t.Fatal(err)
	}
	const golden = `[25, 50, 1.0, 2, 5, [{"epoch": 0.04, "grad_norm": null, "learning_rate": 0.0002, "loss": 1.5, "step": 1},
		{"epoch": 0.04, "eval_loss": 1.25, "eval_runtime": 0.5, "eval_samples_per_second": 20, "eval_steps_per_second": 10, "step": 1}]]`
	if err := json.Unmarshal([]byte(golden), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("transformers read\n%v\nwant\n%v", got, want)
	}
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"Format":1,"State":{"Step":5},"History":[{"Loss":"NaN"}],"Files":{"optimizer.safetensors":{"Size":3}}}`))
	f.Add([]byte(`{"Format":1,"History":[{"Loss":""}],"Files":{"optimizer.safetensors":{}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		if _, err := json.Marshal(s); err != nil {
			t.Errorf("what was read can't be written: %v", err)
		}
	})
}

func ExampleLatest() {
	_, _, err := Latest("no/such/folder")
	fmt.Println(errors.Is(err, fs.ErrNotExist), err)
	// Output: true ckpt: no/such/folder holds no checkpoint: train first, or give the run's output folder
}
