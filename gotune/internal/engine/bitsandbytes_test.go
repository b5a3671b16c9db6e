package engine

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// letters writes a tokenizer for the golden models, whose vocabularies have 256
// ids: one token a character.
func letters(t *testing.T, dir string) {
	t.Helper()
	vocab := map[string]int{"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3}
	for c := '!'; c <= '~'; c++ {
		vocab[string(c)] = len(vocab)
	}
	special := func(id int, text string) map[string]any {
		return map[string]any{"id": id, "content": text, "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false}
	}
	tokenizer := map[string]any{"version": "1.0",
		"added_tokens": []any{special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")},
		"normalizer":   map[string]any{"type": "Replace", "pattern": map[string]any{"String": " "}, "content": "▁"},
		"decoder":      map[string]any{"type": "Replace", "pattern": map[string]any{"String": "▁"}, "content": " "},
		"model":        map[string]any{"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []string{}, "byte_fallback": false, "fuse_unk": false},
	}
	for name, v := range map[string]any{"tokenizer.json": tokenizer,
		"tokenizer_config.json": map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		overwritten(name, string(b))(t, dir)
	}
}

// golden copies a golden model to a folder and gives it a tokenizer.
func golden(t *testing.T, dir string, elem ...string) {
	t.Helper()
	from := oracle.Dir(t, elem...)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"config.json", "generation_config.json", "model.safetensors"} {
		b, err := os.ReadFile(filepath.Join(from, f))
		if err != nil {
			t.Fatal(err)
		}
		overwritten(f, string(b))(t, dir)
	}
	letters(t, dir)
}

// A checkpoint that bitsandbytes quantized is loaded as it is, and is bit for bit
// the model that gotune makes by quantizing the original: the same answers, the
// same losses, the same adapter.
func TestBitsAndBytes(t *testing.T) {
	dir, _ := startEngine(t)
	var rows strings.Builder
	for _, w := range []string{"one", "two", "three", "four", "five", "six", "seven", "eight"} {
		rows.WriteString(row("<s>[INST] say " + w + " [/INST] " + w + " </s>"))
	}
	overwritten("rows.jsonl", rows.String())(t, dir)
	data := gotune.Dataset{Name: "rows", Source: "./rows.jsonl"}

	type result struct {
		model  gotune.ModelInfo
		answer string
		losses []float64
	}
	use := func(name string, elem []string, q gotune.Quantization) (r result) {
		golden(t, filepath.Join(dir, name), elem...)
		m := gotune.Model{Name: name, Source: "./" + name, Device: "xla:cpu", Quant: q}
		var err error
		if r.model, err = m.Load(); err != nil {
			t.Fatal(err)
		}
		g, err := m.Generate("say nine", gotune.Sampling{MaxNewTokens: 24})
		if err != nil || g.Tokens == 0 {
			t.Fatalf("generate with %s: %+v, %v", name, g, err)
		}
		r.answer = g.Text
		run := testRun("on " + name)
		run.Model, run.Dataset, run.OutputDir, run.LearningRate = m, data, "results/"+name, 1e-2
		info, err := run.Train()
		if err != nil || info.State != gotune.RunDone || info.Step != 6 {
			t.Fatalf("train on %s: %s after step %d, %v", name, info.State, info.Step, err)
		}
		if run, err := (gotune.Trainer{Name: "on " + name}).Record(); err != nil {
			t.Fatal(err)
		} else {
			for _, s := range run.Records {
				r.losses = append(r.losses, s.Loss)
			}
		}
		if _, err := run.Merge("merged-"+name, gotune.MergeOptions{DType: "float32"}); err != nil {
			t.Errorf("merge on %s: %v", name, err)
		}
		return r
	}
	ready := use("ready", []string{"nf4", "model_nf4"}, gotune.Quantization{})
	made := use("made", []string{"llama", "gqa"}, gotune.Quantization{Type: "nf4"})
	if ready.answer != made.answer {
		t.Errorf("bitsandbytes' checkpoint answers %q, the one quantized here %q", ready.answer, made.answer)
	}
	if !slices.Equal(ready.losses, made.losses) || !(ready.losses[5] < ready.losses[0]) {
		t.Errorf("losses %v on bitsandbytes' checkpoint, %v on the one quantized here; want equal and falling ones", ready.losses, made.losses)
	}
	sameAdapter(t, 6, filepath.Join(dir, "results", "ready"), filepath.Join(dir, "results", "made"))
	if a, b := ready.model, made.model; heldAs(a) != "nf4/64" || heldAs(b) != "nf4/64" || a.DeviceBytes != b.DeviceBytes {
		t.Errorf("held as %q in %d bytes and as %q in %d; want both as nf4/64 in as many", heldAs(a), a.DeviceBytes, heldAs(b), b.DeviceBytes)
	}

	// Nested quantization: from other 16-bit weights than the original's, so only alike.
	nested := use("nested", []string{"nf4", "model_nf4_nested"}, gotune.Quantization{})
	plain := use("plain", []string{"llama", "bf16"}, gotune.Quantization{Type: "none"})
	for i := range nested.losses {
		if math.Abs(nested.losses[i]-plain.losses[i]) > 0.1*plain.losses[i] {
			t.Errorf("losses %v on the nested checkpoint, %v on the model that it was made from", nested.losses, plain.losses)
			break
		}
	}

	if q := nested.model.Model.Quant; q.Type != "nf4" || !q.DoubleQuant {
		t.Errorf("the nested checkpoint is said to be held as %+v, want nf4 with double quantization", q)
	}

	// A checkpoint is what it is.
	for _, kind := range []string{"fp4", "none"} {
		_, err := gotune.Model{Name: "other", Source: "./ready", Device: "xla:cpu", Quant: gotune.Quantization{Type: kind}}.Load()
		tells(t, err, gotune.ErrInvalid, dir, "load model \"other\": not valid\n\thave a checkpoint that bitsandbytes has quantized to nf4 already (quantization_config in config.json)\n"+
			"\twant weights that can be held as Quant.Type \""+kind+"\"\n\thint: leave Quant.Type out to take them as they are, or take the model's unquantized version")
	}
}

// heldAs says how the first query projection is held on the device.
func heldAs(m gotune.ModelInfo) string {
	for _, ti := range m.Tensors {
		if strings.HasSuffix(ti.Name, "q_proj.weight") {
			return ti.HeldAs
		}
	}
	return ""
}
