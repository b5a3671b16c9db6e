package engine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune"
)

// tells wants err to be of a kind and to say exactly that; $DIR stands for the
// test's folder.
func tells(t *testing.T, err error, kind *gotune.Error, dir, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("it succeeded, want\n%s", want)
	}
	if !errors.Is(err, kind) {
		t.Errorf("%v\nis not of kind %s", err, kind.Kind)
	}
	if got := strings.ReplaceAll(err.Error(), dir, "$DIR"); got != want {
		t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
}

// Ways to damage a model's folder.

func replaced(file, old, new string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		p := filepath.Join(dir, file)
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), old) {
			t.Fatalf("%s holds no %s", file, old)
		}
		overwritten(file, strings.Replace(string(b), old, new, 1))(t, dir)
	}
}

func overwritten(file, text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func removed(files ...string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		for _, f := range files {
			if err := os.Remove(filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func renamed(old, new string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Rename(filepath.Join(dir, old), filepath.Join(dir, new)); err != nil {
			t.Fatal(err)
		}
	}
}

const weights = "model.safetensors"

func cut(size int64) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Truncate(filepath.Join(dir, weights), size); err != nil {
			t.Fatal(err)
		}
	}
}

// typed changes the type that the weights' header gives a tensor.
func typed(tensor, dtype string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		b, err := os.ReadFile(filepath.Join(dir, weights))
		if err != nil {
			t.Fatal(err)
		}
		n := binary.LittleEndian.Uint64(b)
		var header map[string]map[string]any
		if err := json.Unmarshal(b[8:8+n], &header); err != nil {
			t.Fatal(err)
		}
		header[tensor]["dtype"] = dtype
		head, err := json.Marshal(header)
		if err != nil {
			t.Fatal(err)
		}
		head = append(head, strings.Repeat(" ", (8-len(head)%8)%8)...)
		out := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
		overwritten(weights, string(out)+string(head)+string(b[8+n:]))(t, dir)
	}
}

func both(a, b func(*testing.T, string)) func(*testing.T, string) {
	return func(t *testing.T, dir string) { a(t, dir); b(t, dir) }
}

// Each damage is told apart, names what was found and wanted, and says what to do
// next.
func TestDamagedModels(t *testing.T) {
	dir, e := startEngine(t)
	good, err := testBase.Load()
	if err != nil {
		t.Fatal(err)
	}
	const load = "load model \"damaged\" ($DIR/damaged): not valid\n\thave "
	for _, tt := range []struct {
		name   string
		damage func(*testing.T, string)
		kind   *gotune.Error
		want   string
	}{
		{"truncated shard", cut(100000), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: safetensors: open $DIR/damaged/model.safetensors: the file is cut off: found 100000 bytes, wanted 10013128: delete the file and load the model again"},
		{"shard truncated in its header", cut(100), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: safetensors: open $DIR/damaged/model.safetensors: the file is cut off: found 100 bytes, wanted 5064: delete the file and load the model again"},
		{"empty shard", cut(0), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: safetensors: open $DIR/damaged/model.safetensors: the file is cut off: found 0 bytes, wanted 8: delete the file and load the model again"},
		{"LFS pointer", overwritten(weights, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: safetensors: open $DIR/damaged/model.safetensors: this is a Git LFS pointer, not the weights: fetch them with 'git lfs pull' or load the model again"},
		{"missing shard", both(renamed(weights, "model-00001-of-00002.safetensors"), overwritten("model.safetensors.index.json",
			`{"metadata":{},"weight_map":{"model.embed_tokens.weight":"model-00001-of-00002.safetensors","model.norm.weight":"model-00002-of-00002.safetensors"}}`)), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: found 1 of 2 shards, missing [\"model-00002-of-00002.safetensors\"]: load the model again to fetch them"},
		{"no weights", removed(weights), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: found neither model.safetensors nor model.safetensors.index.json: the download is incomplete or this is no model's folder; load the model again"},
		{"pickled weights", renamed(weights, "pytorch_model.bin"), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: found pytorch_model.bin, wanted model.safetensors: gotune reads no pickled weights, since loading them runs code; take a revision or repository with safetensors"},
		{"wrong type", typed("model.norm.weight", "I16"), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: tensor \"model.norm.weight\": it has the type I16, wanted F32, F16, BF16 or 4-bit bitsandbytes: take an unquantized version of the model"},
		{"a type of another size", typed("model.norm.weight", "F32"), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: safetensors: open $DIR/damaged/model.safetensors: tensor \"model.norm.weight\": its data_offsets hold 512 bytes, but F32[256] needs 1024"},
		{"unknown architecture", replaced("config.json", "LlamaForCausalLM", "MambaForCausalLM"), gotune.ErrInvalid,
			load + "model: read $DIR/damaged/config.json: architectures: unknown architecture [\"MambaForCausalLM\"] for model_type \"llama\", wanted \"LlamaForCausalLM\""},
		{"another shape", replaced("config.json", `"intermediate_size": 688`, `"intermediate_size": 704`), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: tensor \"model.layers.0.mlp.gate_proj.weight\": it has the shape [688 256], config.json wants [704 256]: configuration and weights are of different models; load the model again (and 14 more faults of this kind or another)"},
		{"more layers", replaced("config.json", `"num_hidden_layers": 5`, `"num_hidden_layers": 6`), gotune.ErrInvalid,
			load + "model: open $DIR/damaged: tensor \"model.layers.5.input_layernorm.weight\": it is missing among 47 stored tensors: the download is incomplete or config.json is of another model; load the model again (and 8 more faults of this kind or another)"},
		{"heads that don't divide", replaced("config.json", `"hidden_size": 256`, `"hidden_size": 260`), gotune.ErrInvalid,
			load + "model: read $DIR/damaged/config.json: hidden_size: found 260, which the 8 attention heads do not divide"},
		{"config cut short", overwritten("config.json", "{"), gotune.ErrInvalid,
			load + "model: read $DIR/damaged/config.json: it does not read as a model's configuration: unexpected end of JSON input"},
		{"no config", removed("config.json"), gotune.ErrNotFound,
			"load model \"damaged\" ($DIR/damaged): not found\n\thave model: $DIR/damaged holds no config.json: is this a model's folder in the Hugging Face layout? (open $DIR/damaged/config.json: no such file or directory)"},
		{"vocabulary smaller than the tokenizer's", replaced("config.json", `"vocab_size": 4096`, `"vocab_size": 64`), gotune.ErrInvalid,
			load + "token: tokenizer and vocabulary disagree: the tokenizer has ids up to 4095 (first too large: 64 \"<0x3D>\"), the model has 64 embedding rows: use the tokenizer files that came with the model, or resize its embeddings"},
		{"no tokenizer", removed("tokenizer.json", "tokenizer.model"), gotune.ErrInvalid,
			load + "token: no tokenizer in $DIR/damaged: found neither tokenizer.json nor tokenizer.model: download the model's tokenizer files"},
		{"tokenizer cut short", both(removed("tokenizer.model"), overwritten("tokenizer.json", "{}")), gotune.ErrInvalid,
			load + "token: $DIR/damaged/tokenizer.json: not a tokenizer: \"model\" is missing: the file may be cut short or of another kind; download it again"},
		{"a file", func(t *testing.T, dir string) {
			if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o644)); err != nil {
				t.Fatal(err)
			}
		}, gotune.ErrInvalid,
			"load model \"damaged\": not valid\n\thave $DIR/damaged is a file\n\twant the folder that holds it, with config.json and the tokenizer\n\thint: correct Source"},
		{"nothing", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, gotune.ErrNotFound,
			"load model \"damaged\": not found\n\thave stat $DIR/damaged: no such file or directory\n\twant a folder with config.json and *.safetensors, a Hub id \"owner/name\", or \"embedded\"\n\thint: correct Source"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, "damaged")
			if err := errors.Join(os.RemoveAll(path), os.CopyFS(path, os.DirFS(good.Path))); err != nil {
				t.Fatal(err)
			}
			tt.damage(t, path)
			_, err := gotune.Model{Name: "damaged", Source: "./damaged", Device: "xla:cpu"}.Load()
			tells(t, err, tt.kind, dir, tt.want)
		})
	}
	if s := e.models.all(); len(s) != 1 {
		t.Errorf("%d models are held, want the good one only", len(s))
	}
}

func TestNoDevice(t *testing.T) {
	dir, _ := startEngine(t)
	_, err := gotune.Model{Name: "m", Source: "embedded", Device: "xla:tpu"}.Load()
	tells(t, err, gotune.ErrInvalid, dir, "check Model.Device: not valid\n\thave \"xla:tpu\"\n\twant one of auto, xla:cuda, xla:cpu, go\n\thint: did you mean \"xla:cpu\"?")
	if gpus, err := cuda.Devices(); err == nil && len(gpus) > 0 {
		t.Skipf("this machine has %s: what is left of the test is about one without a GPU", gpus[0].Name)
	}
	_, err = gotune.Model{Name: "m", Source: "embedded", Device: "xla:cuda"}.Load()
	tells(t, err, gotune.ErrNotFound, dir, "load model \"m\": not found\n\thave open backend xla:cuda: no CUDA driver: libcuda.so.1 is not on this machine; use xla:cpu, or choose a runtime with a GPU\n"+
		"\twant a device that works\n\thint: leave Device out, which takes what there is; gotune.Doctor() shows it")
}
