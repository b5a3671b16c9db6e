package main

import (
	"context"
	"math"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

func TestRecords(t *testing.T) {
	out := "noise\n" + recordMark + `{"stage":"train","case":"bfloat16 save B=4 S=512","value":{"tok/s":20000,"GiB":9.5}}` + "\n" + recordMark + "{broken\n"
	list := parseRecords(out)
	if len(list) != 1 || list[0].Value["tok/s"] != 20000 {
		t.Fatalf("records %v, want the one whole one", list)
	}
	var sb strings.Builder
	report(&sb, append(list, record{Stage: "load", Case: "second", Value: map[string]float64{"s": 4}}))
	for _, want := range []string{"gotune bfloat16 save", "20000 (9.50)", "Unsloth (elsewhere)", "load     second"} {
		if !strings.Contains(sb.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, sb.String())
		}
	}
}

func TestSelected(t *testing.T) {
	for _, c := range []struct {
		name, only string
		want       bool
	}{{"train", "", true}, {"train float16", "train", true}, {"check bfloat16", "load,check", true}, {"merge", "load,check", false},
		{"peers unsloth", "train,peers", true}, {"peers hf", "train,peers unsloth", false}} {
		if got := selected(c.name, c.only); got != c.want {
			t.Errorf("selected(%q, %q) = %v", c.name, c.only, got)
		}
	}
}

// A stage that fails leaves its error and the end of its log, and the records
// that it gave before.
func TestFailedJobKeepsRecords(t *testing.T) {
	logs := t.TempDir()
	j := job{name: "a stage", cmd: []string{"/bin/sh", "-c", "echo '" + recordMark + `{"stage":"s","case":"c"}` + "'; echo reason >&2; exit 3"}}
	list, err := j.run(context.Background(), logs, 1<<40)
	if len(list) != 1 || err == nil || !strings.Contains(err.Error(), "reason") {
		t.Errorf("records %v, error %v", list, err)
	}
	if missing(filepath.Join(logs, "a_stage.log")) {
		t.Error("no log was written")
	}
}

// The batch of the check has two documents in a row, padding and unlabelled tokens.
func TestUnevenBatch(t *testing.T) {
	bt := uneven(64, 1000)
	if err := bt.Check(1000); err != nil {
		t.Fatal(err)
	}
	if n := bt.Tokens(); n != 112 {
		t.Errorf("%d tokens, want 112", n)
	}
	if n := bt.Supervised(); n < 50 || n > 90 {
		t.Errorf("%d supervised tokens", n)
	}
}

func TestRelative(t *testing.T) {
	if got := relative([]float32{3, 0}, []float32{3, 4}); math.Abs(got-0.8) > 1e-9 {
		t.Errorf("relative error %v, want 0.8", got)
	}
	if got := relative([]float32{float32(math.NaN())}, []float32{1}); !math.IsInf(got, 1) {
		t.Errorf("relative error of NaN is %v: a bound would pass it", got)
	}
}

// The whole check on the small shape: float32 agrees with itself, and a wrong
// reference is found.
func TestCheckStage(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a model for the CPU")
	}
	dir := filepath.Join(t.TempDir(), "mini")
	if out, err := exec.Command("go", "run", "../synth", "-shape", "mini", "-out", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ref := filepath.Join(t.TempDir(), "reference.safetensors")
	ctx := context.Background()
	if err := reference(ctx, []string{"-model", dir, "-backend", "xla:cpu", "-out", ref}); err != nil {
		t.Fatal(err)
	}
	args := []string{"-model", dir, "-backend", "xla:cpu", "-reference"}
	if err := check(ctx, append(args, ref, "-dtype", "bfloat16")); err != nil {
		t.Errorf("bfloat16: %v", err)
	}
	f, err := safetensors.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var ts []safetensors.Tensor
	for _, name := range f.Names() {
		x, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := x.Float32()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "0.self_attn.v_proj.lora_A.weight") {
			for i := range v {
				v[i] *= 1.1
			}
		}
		y, err := safetensors.FromFloat32(name, x.Shape, v, safetensors.F32)
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, y)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.safetensors")
	if err := safetensors.Write(wrong, ts, nil); err != nil {
		t.Fatal(err)
	}
	if err := check(ctx, append(args, wrong, "-dtype", "bfloat16")); err == nil || !strings.Contains(err.Error(), "v_proj.lora_A") {
		t.Errorf("a gradient that is 10 %% off gave %v", err)
	}
}
