package model

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// modelDirs lists every golden folder with a config.json.
func modelDirs(t testing.TB) []string {
	t.Helper()
	var dirs []string
	for _, name := range goldenModels(t) {
		dirs = append(dirs, filepath.Join("llama", name))
	}
	var packed map[string]json.RawMessage
	oracle.JSON(t, &packed, "nf4", "model_layout.json")
	for name := range packed {
		dirs = append(dirs, filepath.Join("nf4", name))
	}
	return dirs
}

// Every golden model opens, is whole, and has the parameters that its shapes say.
func TestGoldenCheckpoints(t *testing.T) {
	for _, dir := range modelDirs(t) {
		t.Run(dir, func(t *testing.T) {
			ck, err := Open(oracle.Dir(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			defer ck.Close()
			if err := ck.Check(); err != nil {
				t.Error(err)
			}
			params, packed := int64(0), 0
			for _, w := range ck.Config.Weights() {
				values, shape, err := ck.Float32(w.Name)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(shape, w.Shape) {
					t.Errorf("%s has the shape %v, want %v", w.Name, shape, w.Shape)
				}
				params += int64(len(values))
				if _, ok, err := ck.Quantized(w.Name); err != nil {
					t.Error(err)
				} else if ok {
					packed++
				}
				ck.Want(w.Name)
				ck.Drop(w.Name)
			}
			if params != ck.Config.Parameters() {
				t.Errorf("%d values, Parameters says %d", params, ck.Config.Parameters())
			}
			if (packed > 0) != (ck.Config.Quantization != nil) {
				t.Errorf("%d packed weights, config.json says %+v", packed, ck.Config.Quantization)
			}
			if !slices.Contains(mustSideFiles(t, ck.Dir()), "generation_config.json") {
				t.Error("generation_config.json is no side file")
			}
		})
	}
}

func mustSideFiles(t testing.TB, dir string) []string {
	t.Helper()
	list, err := SideFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// The index of shards counts parameters as Parameters does.
func TestParametersOfIndex(t *testing.T) {
	for _, name := range goldenModels(t) {
		path := filepath.Join(oracle.Dir(t, "llama", name), indexName)
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var index struct {
			Metadata struct {
				Parameters int64 `json:"total_parameters"`
				Size       int64 `json:"total_size"`
			}
		}
		if err := errors.Join(err, json.Unmarshal(raw, &index)); err != nil {
			t.Fatal(err)
		}
		ck, err := Open(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		defer ck.Close()
		if n := ck.Config.Parameters(); n != index.Metadata.Parameters {
			t.Errorf("%s: %d parameters, the index says %d", name, n, index.Metadata.Parameters)
		}
		if n := ck.Bytes(); n != index.Metadata.Size {
			t.Errorf("%s: %d bytes, the index says %d", name, n, index.Metadata.Size)
		}
	}
}

// tiny is a model that a test can spoil: config.json's text and its weights.
type tiny struct {
	config  string
	tensors map[string]safetensors.Tensor
	shards  int
}

func newTiny(t testing.TB) *tiny {
	m := &tiny{config: with(""), tensors: map[string]safetensors.Tensor{}, shards: 1}
	c, err := ParseConfig("config.json", []byte(m.config))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range c.Weights() {
		n := 1
		for _, d := range w.Shape {
			n *= d
		}
		m.tensors[w.Name] = safetensors.Tensor{Name: w.Name, DType: safetensors.BF16, Shape: w.Shape, Data: make([]byte, 2*n)}
	}
	return m
}

// write puts the model into a new folder.
func (m *tiny) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(m.config), 0o600); err != nil {
		t.Fatal(err)
	}
	if m.shards == 1 {
		if err := safetensors.Write(filepath.Join(dir, singleName), slices.Collect(maps.Values(m.tensors)), nil); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	index, parts := map[string]string{}, map[string][]safetensors.Tensor{}
	for i, name := range slices.Sorted(maps.Keys(m.tensors)) {
		file := "shard-" + string(rune('a'+i%m.shards)) + ".safetensors"
		index[name] = file
		parts[file] = append(parts[file], m.tensors[name])
	}
	for file, list := range parts {
		if err := safetensors.Write(filepath.Join(dir, file), list, nil); err != nil {
			t.Fatal(err)
		}
	}
	writeIndex(t, dir, index)
	return dir
}

func writeIndex(t testing.TB, dir string, weightMap map[string]string) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"weight_map": weightMap})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, indexName), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCheckFindsFaults(t *testing.T) {
	const q = "model.layers.1.self_attn.q_proj.weight"
	reshape := func(m *tiny, name string, shape ...int) {
		w := m.tensors[name]
		w.Shape = shape
		m.tensors[name] = w
	}
	for _, tt := range []struct {
		name   string
		spoil  func(m *tiny)
		tensor string
		want   string
	}{
		{"whole", func(*tiny) {}, "", ""},
		{"tied", func(m *tiny) { m.config = with(`,"tie_word_embeddings":true`); delete(m.tensors, HeadName) }, "", ""},
		{"tied, with a head", func(m *tiny) { m.config = with(`,"tie_word_embeddings":true`) }, "", ""},
		{"old frequency buffers", func(m *tiny) {
			n := "model.layers.0.self_attn.rotary_emb.inv_freq"
			m.tensors[n] = safetensors.Tensor{Name: n, DType: safetensors.F32, Shape: []int{8}, Data: make([]byte, 32)}
		}, "", ""},
		{"weight missing", func(m *tiny) { delete(m.tensors, q) }, q, "missing"},
		{"head missing", func(m *tiny) { delete(m.tensors, HeadName) }, HeadName, "tie_word_embeddings"},
		{"transposed", func(m *tiny) { reshape(m, "model.layers.0.mlp.up_proj.weight", 64, 96) }, "model.layers.0.mlp.up_proj.weight", "[64 96], config.json wants [96 64]"},
		{"flat", func(m *tiny) { reshape(m, q, 64*64) }, q, "[4096]"},
		{"whole numbers", func(m *tiny) {
			w := m.tensors[q]
			w.DType = safetensors.I16
			m.tensors[q] = w
		}, q, "type I16"},
		{"bytes without state", func(m *tiny) {
			m.tensors[q] = safetensors.Tensor{Name: q, DType: safetensors.U8, Shape: []int{2048, 1}, Data: make([]byte, 2048)}
		}, q, "without quant_state"},
		{"scales without state", func(m *tiny) {
			m.tensors[q+".absmax"] = safetensors.Tensor{Name: q + ".absmax", DType: safetensors.F32, Shape: []int{1}, Data: make([]byte, 4)}
		}, q, "no quant_state"},
		{"bias that the configuration lacks", func(m *tiny) {
			n := "model.layers.0.self_attn.q_proj.bias"
			m.tensors[n] = safetensors.Tensor{Name: n, DType: safetensors.BF16, Shape: []int{64}, Data: make([]byte, 128)}
		}, "model.layers.0.self_attn.q_proj.bias", "different models"},
		{"bias that the weights lack", func(m *tiny) { m.config = with(`,"attention_bias":true`) }, "model.layers.0.self_attn.q_proj.bias", "missing"},
		{"fewer layers configured", func(m *tiny) {
			m.config = strings.Replace(with(""), `"num_hidden_layers":2`, `"num_hidden_layers":1`, 1)
		}, "model.layers.1.input_layernorm.weight", "different models"},
		{"more layers configured", func(m *tiny) {
			m.config = strings.Replace(with(""), `"num_hidden_layers":2`, `"num_hidden_layers":3`, 1)
		}, "model.layers.2.input_layernorm.weight", "missing"},
		{"other vocabulary", func(m *tiny) {
			m.config = strings.Replace(with(""), `"vocab_size":256`, `"vocab_size":257`, 1)
		}, EmbedName, "[256 64], config.json wants [257 64]"},
	} {
		for _, shards := range []int{1, 3} {
			t.Run(tt.name, func(t *testing.T) {
				m := newTiny(t)
				m.shards = shards
				tt.spoil(m)
				ck, err := Open(m.write(t))
				if err != nil {
					t.Fatal(err)
				}
				defer ck.Close()
				err = ck.Check()
				if tt.want == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				var ce *CheckpointError
				if !errors.As(err, &ce) || ce.Tensor != tt.tensor && tt.name != "fewer layers configured" || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Check: %v; want tensor %s and %q", err, tt.tensor, tt.want)
				}
			})
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	weights := func(t *testing.T, shards int) string {
		m := newTiny(t)
		m.shards = shards
		return m.write(t)
	}
	truncated := (*safetensors.TruncatedError)(nil)
	for _, tt := range []struct {
		name  string
		dir   func(t *testing.T) string
		want  string
		isErr any
	}{
		{"no weights", func(t *testing.T) string {
			d := weights(t, 1)
			return d + remove(t, d, singleName)
		}, "found neither", nil},
		{"pickled weights", func(t *testing.T) string {
			d := weights(t, 1)
			touch(t, d, "pytorch_model.bin", "")
			return d + remove(t, d, singleName)
		}, "pickled", nil},
		{"an adapter", func(t *testing.T) string {
			d := weights(t, 1)
			touch(t, d, "adapter_config.json", "{}")
			return d + remove(t, d, singleName)
		}, "found an adapter", nil},
		{"a shard missing", func(t *testing.T) string {
			d := weights(t, 3)
			return d + remove(t, d, "shard-b.safetensors")
		}, "found 2 of 3 shards", nil},
		{"a shard cut off", func(t *testing.T) string {
			d := weights(t, 3)
			info, err := os.Stat(filepath.Join(d, "shard-b.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(filepath.Join(d, "shard-b.safetensors"), info.Size()-1); err != nil {
				t.Fatal(err)
			}
			return d
		}, "shard-b.safetensors: the file is cut off", &truncated},
		{"a shard of another model", func(t *testing.T) string {
			d := weights(t, 3)
			if err := safetensors.Write(filepath.Join(d, "shard-b.safetensors"), nil, nil); err != nil {
				t.Fatal(err)
			}
			return d
		}, "which lacks it", nil},
		{"index no JSON", func(t *testing.T) string { d := weights(t, 3); touch(t, d, indexName, "{"); return d }, "does not read as an index", nil},
		{"index empty", func(t *testing.T) string { d := weights(t, 3); touch(t, d, indexName, "{}"); return d }, "empty or missing", nil},
		{"index leads out", func(t *testing.T) string {
			d := weights(t, 3)
			writeIndex(t, d, map[string]string{"a": "../model.safetensors"})
			return d
		}, "wanted the name of a file", nil},
		{"index leads to the root", func(t *testing.T) string {
			d := weights(t, 3)
			writeIndex(t, d, map[string]string{"a": "/etc/passwd"})
			return d
		}, "wanted the name of a file", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ck, err := Open(tt.dir(t))
			if err == nil {
				ck.Close()
				t.Fatal("Open succeeded")
			}
			if !strings.Contains(err.Error(), tt.want) || tt.isErr != nil && !errors.As(err, tt.isErr) {
				t.Errorf("Open: %v; want %q", err, tt.want)
			}
		})
	}
}

func touch(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// remove returns "" so that a caller can do it on the way.
func remove(t testing.TB, dir, name string) string {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	return ""
}

func TestCheckpointNotFound(t *testing.T) {
	ck, err := Open(newTiny(t).write(t))
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	if _, err := ck.Tensor("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Tensor(x): %v", err)
	}
	if _, _, err := ck.Float32("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Float32(x): %v", err)
	}
	if _, ok, err := ck.Quantized(EmbedName); ok || err != nil {
		t.Errorf("Quantized of a plain weight: %v, %v", ok, err)
	}
	if ck.Has("x") || !ck.Has(EmbedName) || len(ck.Names()) != len(ck.Config.Weights()) {
		t.Error("Has or Names is wrong")
	}
}

// FuzzIndex: an index never leads out of its folder.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":1},"weight_map":{"a":"model-00001-of-00002.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":".."}}`))
	f.Add([]byte(`{"weight_map":{"a":"a/../../b"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseIndex("x", raw)
		if err != nil {
			return
		}
		for _, file := range m {
			if filepath.Dir(filepath.Join("folder", file)) != "folder" {
				t.Fatalf("the index leads to %q", file)
			}
		}
	})
}

func TestSideFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"tokenizer.json", "tokenizer.model", "LICENSE.txt", "USE_POLICY.md", "config.json", "README.md", "model.safetensors", "training_args.bin", "adapter_config.json"} {
		touch(t, dir, name, "")
	}
	if err := os.Mkdir(filepath.Join(dir, "vocab.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "README.md"), filepath.Join(dir, "merges.txt")); err != nil {
		t.Fatal(err)
	}
	want := []string{"LICENSE.txt", "USE_POLICY.md", "merges.txt", "tokenizer.json", "tokenizer.model"}
	if got := mustSideFiles(t, dir); !slices.Equal(got, want) {
		t.Errorf("SideFiles = %q, want %q", got, want)
	}
}
