package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune"
)

// copyModel copies the embedded model's files to a folder, for a test to damage.
func copyModel(t *testing.T, e *Engine, dir string) string {
	t.Helper()
	m, err := testBase.Load()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "damaged")
	if err := os.CopyFS(out, os.DirFS(m.Path)); err != nil {
		t.Fatal(err)
	}
	return out
}

// Each mistake is told apart, names what was found and wanted, and says what to
// do next.
func TestDamagedModels(t *testing.T) {
	replace := func(file, old, new string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			p := filepath.Join(dir, file)
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(b), old) {
				t.Fatalf("%s holds no %s", file, old)
			}
			if err := os.WriteFile(p, []byte(strings.Replace(string(b), old, new, 1)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(*testing.T, string)
		says   []string
	}{
		{"truncated shard", func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "model.safetensors"), 100000); err != nil {
				t.Fatal(err)
			}
		}, []string{"model.safetensors", "bytes"}},
		{"no weights", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "model.safetensors")); err != nil {
				t.Fatal(err)
			}
		}, []string{"model.safetensors"}},
		{"no tokenizer", func(t *testing.T, dir string) {
			for _, f := range []string{"tokenizer.json", "tokenizer.model"} {
				if err := os.Remove(filepath.Join(dir, f)); err != nil {
					t.Fatal(err)
				}
			}
		}, []string{"tokenizer"}},
		{"unknown architecture", replace("config.json", "LlamaForCausalLM", "MambaForCausalLM"), []string{"MambaForCausalLM"}},
		{"wrong shape", replace("config.json", `"intermediate_size": 688`, `"intermediate_size": 704`), []string{"704", "688"}},
		{"vocabulary", replace("config.json", `"vocab_size": 4096`, `"vocab_size": 64`), []string{"64", "4095", "tokenizer"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, e := startEngine(t)
			path := copyModel(t, e, dir)
			tt.damage(t, path)
			_, err := gotune.Model{Name: "damaged", Source: path, Device: "xla:cpu"}.Load()
			if err == nil {
				t.Fatal("the damaged model was loaded")
			}
			if errors.Is(err, gotune.ErrInternal) {
				t.Errorf("told as an internal error: %v", err)
			}
			for _, s := range append(tt.says, `"damaged"`) {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v\nlacks %q", err, s)
				}
			}
		})
	}
}

func TestBadInput(t *testing.T) {
	dir, _ := startEngine(t)
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	train := func(d gotune.Dataset) func() error {
		return func() error {
			r := testRun("bad " + d.Name)
			r.Dataset = d
			_, err := r.Train()
			return err
		}
	}
	load := func(d gotune.Dataset) func() error { return func() error { _, err := d.Load(); return err } }
	for _, tt := range []struct {
		name string
		do   func() error
		kind *gotune.Error
		says []string
	}{
		{"no such folder", func() error { _, err := gotune.Model{Name: "m", Source: "./nowhere"}.Load(); return err }, gotune.ErrNotFound, []string{"nowhere"}},
		{"no such file", load(gotune.Dataset{Name: "d", Source: "./no.jsonl"}), gotune.ErrNotFound, []string{"no.jsonl"}},
		{"empty data set", load(gotune.Dataset{Name: "e", Source: write("empty.jsonl", "")}), nil, []string{"empty.jsonl"}},
		{"missing column", load(gotune.Dataset{Name: "c", Source: write("cols.jsonl", `{"question":"a","answer":"b"}`+"\n")}), gotune.ErrNotFound, []string{"text", "question", "answer"}},
		{"not JSON", load(gotune.Dataset{Name: "j", Source: write("bad.jsonl", `{"text":"a"}`+"\n"+`{"text":`+"\n")}), gotune.ErrInvalid, []string{"bad.jsonl", "row 1"}},
		{"no EOS", train(gotune.Dataset{Name: "n", Source: write("noeos.jsonl", `{"text":"<s>[INST] a [/INST] b"}`+"\n")}), gotune.ErrInvalid, []string{"end-of-sequence", "Parity"}},
		{"long prompt", func() error {
			_, err := testBase.Generate(strings.Repeat("word ", 2000), gotune.Sampling{})
			return err
		}, gotune.ErrInvalid, []string{"1024", "shorten"}},
		{"no token", func() error {
			t.Setenv("HF_TOKEN", "")
			t.Setenv("HF_HOME", dir)
			_, err := gotune.Push(dir, "me/x", gotune.PushOptions{})
			return err
		}, gotune.ErrAuth, []string{"HF_TOKEN"}},
		{"no network", func() error {
			t.Setenv("HF_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv("HF_HUB_OFFLINE", "1")
			_, err := gotune.Model{Name: "far", Source: "owner/far"}.Load()
			return err
		}, gotune.ErrNetwork, []string{"owner/far"}},
		{"eight bits", func() error { r := testRun("8"); r.Optim = "paged_adamw_8bit"; _, err := r.Train(); return err }, gotune.ErrInvalid, []string{"8bit"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.do()
			if err == nil {
				t.Fatal("it succeeded")
			}
			if tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("%v\nis not of kind %s", err, tt.kind.Kind)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v\nlacks %q", err, s)
				}
			}
		})
	}
}
