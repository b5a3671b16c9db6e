package model

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// goldenModels lists the model folders of the golden data, by llama/index.json.
func goldenModels(t testing.TB) []string {
	t.Helper()
	var index struct{ Models map[string]json.RawMessage }
	oracle.JSON(t, &index, "llama", "index.json")
	var names []string
	for name := range index.Models {
		names = append(names, name)
	}
	if len(names) == 0 {
		t.Fatal("llama/index.json lists no model")
	}
	return names
}

// The layouts of transformers 4 and 5 give equal configurations.
func TestBothLayoutsAreEqual(t *testing.T) {
	for _, name := range goldenModels(t) {
		var configs [2]*Config
		for i, file := range []string{"config.json", "config_v4.json"} {
			path := oracle.Dir(t, "llama", name, file)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if configs[i], err = ParseConfig(path, raw); err != nil {
				t.Fatal(err)
			}
			configs[i].Raw = nil
		}
		if !reflect.DeepEqual(configs[0], configs[1]) {
			t.Errorf("%s: config.json gives %+v, config_v4.json %+v", name, configs[0], configs[1])
		}
		checkFields(t, name, configs[0])
	}
}

// checkFields compares the fields with the file's, read as plain JSON.
func checkFields(t *testing.T, name string, c *Config) {
	t.Helper()
	var f map[string]any
	oracle.JSON(t, &f, "llama", name, "config.json")
	rope := f["rope_parameters"].(map[string]any)
	for field, got := range map[string]any{
		"hidden_size": float64(c.HiddenSize), "intermediate_size": float64(c.IntermediateSize), "num_hidden_layers": float64(c.NumLayers),
		"num_attention_heads": float64(c.NumHeads), "num_key_value_heads": float64(c.NumKVHeads), "head_dim": float64(c.HeadDim),
		"vocab_size": float64(c.VocabSize), "max_position_embeddings": float64(c.MaxPositions), "rms_norm_eps": c.RMSNormEps,
		"tie_word_embeddings": c.TieWordEmbeddings, "dtype": c.DType, "bos_token_id": float64(c.BOS), "pad_token_id": float64(c.Pad),
		"model_type": c.ModelType,
	} {
		if f[field] != got {
			t.Errorf("%s: %s is %v, the file has %v", name, field, got, f[field])
		}
	}
	if w, ok := f["sliding_window"]; ok && w != float64(c.SlidingWindow) {
		t.Errorf("%s: sliding window %d, the file has %v", name, c.SlidingWindow, w)
	}
	if b, ok := f["attention_bias"]; ok && (b != c.AttentionBias || f["mlp_bias"] != c.MLPBias) {
		t.Errorf("%s: biases %v and %v, the file has %v and %v", name, c.AttentionBias, c.MLPBias, b, f["mlp_bias"])
	}
	if rope["rope_theta"] != c.RopeTheta {
		t.Errorf("%s: theta %g, the file has %v", name, c.RopeTheta, rope["rope_theta"])
	}
	if (rope["rope_type"] == "default") != (c.RopeScaling == nil) || c.RopeScaling != nil && (c.RopeScaling.Type != rope["rope_type"] || c.RopeScaling.Factor != rope["factor"]) {
		t.Errorf("%s: scaling %+v, the file has %v", name, c.RopeScaling, rope)
	}
}

// base is a configuration with only what must be there.
const base = `{"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"vocab_size":256%s}`

func with(more string) string { return strings.Replace(base, "%s", more, 1) }

func TestParseConfigDefaults(t *testing.T) {
	c, err := ParseConfig("config.json", []byte(with("")))
	if err != nil {
		t.Fatal(err)
	}
	c.Raw = nil
	want := &Config{ModelType: "llama", Architecture: "LlamaForCausalLM", HiddenSize: 64, IntermediateSize: 96, NumLayers: 2, NumHeads: 4, NumKVHeads: 4,
		HeadDim: 16, VocabSize: 256, MaxPositions: 2048, RMSNormEps: 1e-6, RopeTheta: 10000, BOS: 1, EOS: []int{2}, Pad: -1}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("ParseConfig = %+v, want %+v", c, want)
	}
	for _, tt := range []struct {
		name, more string
		got        func(*Config) any
		want       any
	}{
		{"eos list", `,"eos_token_id":[7,8]`, func(c *Config) any { return c.EOS }, []int{7, 8}},
		{"eos null", `,"eos_token_id":null`, func(c *Config) any { return len(c.EOS) }, 0},
		{"bos null", `,"bos_token_id":null`, func(c *Config) any { return c.BOS }, -1},
		{"pad", `,"pad_token_id":0`, func(c *Config) any { return c.Pad }, 0},
		{"pad -1", `,"pad_token_id":-1`, func(c *Config) any { return c.Pad }, -1},
		{"old type name", `,"torch_dtype":"torch.bfloat16"`, func(c *Config) any { return c.DType }, "bfloat16"},
		{"head_dim", `,"head_dim":32`, func(c *Config) any { return c.HeadDim }, 32},
		{"head_dim null", `,"head_dim":null`, func(c *Config) any { return c.HeadDim }, 16},
		{"grouped heads", `,"num_key_value_heads":2`, func(c *Config) any { return c.NumKVHeads }, 2},
		{"old scaling", `,"rope_scaling":{"type":"linear","factor":2.0}`, func(c *Config) any { return *c.RopeScaling }, RopeScaling{Type: "linear", Factor: 2}},
		{"theta beside new layout", `,"rope_theta":5e5,"rope_parameters":{"rope_type":"default"}`, func(c *Config) any { return c.RopeTheta }, 5e5},
		{"llama ignores a window", `,"sliding_window":4`, func(c *Config) any { return c.SlidingWindow }, 0},
		{"mistral's window", `,"model_type":"mistral"`, func(c *Config) any { return c.SlidingWindow }, 4096},
		{"mistral without window", `,"model_type":"mistral","sliding_window":null,"num_key_value_heads":4`, func(c *Config) any { return c.SlidingWindow }, 0},
		{"mistral has no biases", `,"model_type":"mistral","attention_bias":true,"num_key_value_heads":4`, func(c *Config) any { return c.AttentionBias }, false},
	} {
		text := with(tt.more)
		if strings.Contains(tt.more, "mistral") && !strings.Contains(tt.more, "key_value") {
			text = strings.Replace(text, `"num_attention_heads":4`, `"num_attention_heads":8`, 1) // 8 K/V heads are mistral's default
		}
		c, err := ParseConfig("config.json", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if got := tt.got(c); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, field, want string }{
		{"no JSON", "{", "", "does not read"},
		{"empty", "", "", "does not read"},
		{"Git LFS pointer", "version https://git-lfs.github.com/spec/v1\n", "", "Git LFS"},
		{"no type", `{}`, "model_type", "unknown architecture"},
		{"another architecture", `{"model_type":"gpt2","architectures":["GPT2LMHeadModel"]}`, "model_type", "gpt2"},
		{"another head", with(`,"architectures":["LlamaForSequenceClassification"]`), "architectures", "LlamaForCausalLM"},
		{"hidden size missing", strings.Replace(with(""), `"hidden_size":64,`, "", 1), "hidden_size", "missing"},
		{"layers missing", strings.Replace(with(""), `"num_hidden_layers":2,`, "", 1), "num_hidden_layers", "missing"},
		{"vocabulary null", strings.Replace(with(""), `"vocab_size":256`, `"vocab_size":null`, 1), "vocab_size", "missing"},
		{"size a string", strings.Replace(with(""), `"hidden_size":64`, `"hidden_size":"64"`, 1), "", "does not read"},
		{"size zero", strings.Replace(with(""), `"vocab_size":256`, `"vocab_size":0`, 1), "vocab_size", "found 0"},
		{"size negative", strings.Replace(with(""), `"intermediate_size":96`, `"intermediate_size":-96`, 1), "intermediate_size", "-96"},
		{"size huge", strings.Replace(with(""), `"intermediate_size":96`, `"intermediate_size":4611686018427387904`, 1), "intermediate_size", "wanted 1 to"},
		{"layers huge", strings.Replace(with(""), `"num_hidden_layers":2`, `"num_hidden_layers":100000000`, 1), "num_hidden_layers", "at most"},
		{"no heads", strings.Replace(with(""), `"num_attention_heads":4`, `"num_attention_heads":0`, 1), "num_attention_heads", "found 0"},
		{"heads do not divide", strings.Replace(with(""), `"num_attention_heads":4`, `"num_attention_heads":5`, 1), "hidden_size", "do not divide"},
		{"groups do not divide", with(`,"num_key_value_heads":3`), "num_key_value_heads", "does not divide"},
		{"more groups than heads", with(`,"num_key_value_heads":8`), "num_key_value_heads", "does not divide"},
		{"odd head", with(`,"head_dim":15`), "head_dim", "even"},
		{"activation", with(`,"hidden_act":"gelu"`), "hidden_act", "gelu"},
		{"epsilon", with(`,"rms_norm_eps":0`), "rms_norm_eps", "positive"},
		{"theta", with(`,"rope_theta":0`), "rope_theta", "positive"},
		{"unknown scaling", with(`,"rope_scaling":{"type":"yarn","factor":2}`), "rope_scaling", "yarn"},
		{"scaling without factor", with(`,"rope_scaling":{"type":"linear"}`), "rope_scaling", "factor"},
		{"factor below 1", with(`,"rope_scaling":{"type":"linear","factor":0.5}`), "rope_scaling", "factor"},
		{"llama3 without factors", with(`,"rope_parameters":{"rope_type":"llama3","factor":8}`), "rope_parameters", "low_freq_factor"},
		{"llama3 equal factors", with(`,"rope_parameters":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":1}`), "rope_parameters", "low_freq_factor"},
		{"part of a head turned", with(`,"rope_parameters":{"rope_type":"default","partial_rotary_factor":0.5}`), "rope_parameters", "partial"},
		{"token outside", with(`,"eos_token_id":256`), "bos_token_id, eos_token_id, pad_token_id", "256"},
		{"token a string", with(`,"eos_token_id":"</s>"`), "", "does not read"},
		{"window negative", strings.Replace(with(`,"sliding_window":-1,"num_key_value_heads":4`), "llama", "mistral", 1), "sliding_window", "-1"},
		{"type of weights", with(`,"dtype":"int8"`), "dtype", "int8"},
		{"GPTQ", with(`,"quantization_config":{"quant_method":"gptq","bits":4}`), "quantization_config", "gptq"},
		{"8 bit", with(`,"quantization_config":{"quant_method":"bitsandbytes","load_in_8bit":true}`), "quantization_config", "4-bit"},
		{"unknown 4 bit", with(`,"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf5"}`), "quantization_config", "nf5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseConfig("dir/config.json", []byte(tt.text))
			var ce *ConfigError
			if !errors.As(err, &ce) || ce.Field != tt.field || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "dir/config.json") {
				t.Errorf("ParseConfig: %v; want field %q and %q", err, tt.field, tt.want)
			}
		})
	}
	if _, err := ReadConfig(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "holds no config.json") {
		t.Errorf("ReadConfig of an empty folder: %v", err)
	}
}

// FuzzParseConfig: a downloaded config.json never panics, and what is accepted
// has sizes that can be computed with.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(with("")))
	f.Add([]byte(with(`,"rope_parameters":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":32}`)))
	f.Add([]byte(with(`,"model_type":"mistral","eos_token_id":[1,2],"quantization_config":{"load_in_4bit":true}`)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig("config.json", raw)
		if err != nil {
			return
		}
		for _, v := range c.InvFreq() {
			if v != v {
				t.Fatal("an inverse frequency is no number")
			}
		}
		if c.NumLayers < 64 && c.Parameters() <= 0 {
			t.Fatalf("%d parameters", c.Parameters())
		}
		if _, err := c.Rewrite("float16"); err != nil {
			t.Fatal(err)
		}
	})
}

// transformers' inverse frequencies for published models, to one unit in the last
// place (its vectorized power function is not exactly rounded). testdata/inv_freq.py
// makes the numbers.
func TestInvFreqEqualsTransformers(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "inv_freq.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases map[string]struct {
			Config json.RawMessage
			Bits   []string
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	for name, tt := range file.Cases {
		c, err := ParseConfig(name, tt.Config)
		if err != nil {
			t.Fatal(err)
		}
		got := c.InvFreq()
		if len(got) != len(tt.Bits) {
			t.Fatalf("%s: %d frequencies, want %d", name, len(got), len(tt.Bits))
		}
		for i, bits := range tt.Bits {
			want, err := strconv.ParseUint(bits, 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			if d := int64(math.Float32bits(got[i])) - int64(want); d < -1 || d > 1 {
				t.Errorf("%s: frequency %d is %g (%08x), want %s: %d units off", name, i, got[i], math.Float32bits(got[i]), bits, d)
			}
		}
	}
}

func TestRewrite(t *testing.T) {
	for _, tt := range []struct{ more, want, not string }{
		{`,"dtype":"bfloat16"`, `"dtype": "float16"`, "torch_dtype"},
		{`,"torch_dtype":"bfloat16"`, `"torch_dtype": "float16"`, `"dtype"`},
		{``, `"dtype": "float16"`, "torch_dtype"},
		{`,"quantization_config":{"quant_method":"bitsandbytes","load_in_4bit":true}`, `"dtype": "float16"`, "quantization_config"},
		{`,"x":"<a&b>","rms_norm_eps":1e-05`, `"rms_norm_eps": 1e-05`, "u003c"},
	} {
		c, err := ParseConfig("config.json", []byte(with(tt.more)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := c.Rewrite("float16")
		if err != nil || !strings.Contains(string(text), tt.want) || strings.Contains(string(text), tt.not) {
			t.Errorf("Rewrite of %q: %s, %v; want %q and not %q", tt.more, text, err, tt.want, tt.not)
		}
		again, err := ParseConfig("config.json", text)
		if err != nil || again.DType != "float16" || again.Quantization != nil || !slices.Equal(again.EOS, c.EOS) {
			t.Errorf("reading what Rewrite wrote: %+v, %v", again, err)
		}
	}
}
