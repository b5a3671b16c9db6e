package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Config is a model's architecture, read from config.json. The files of
// transformers 4 (rope_theta, rope_scaling, torch_dtype) and of transformers 5
// (rope_parameters, dtype) give equal Configs, but for Raw.
type Config struct {
	ModelType    string // "llama" or "mistral"
	Architecture string // "LlamaForCausalLM" or "MistralForCausalLM"

	HiddenSize       int // H
	IntermediateSize int // I, of the gated MLP
	NumLayers        int
	NumHeads         int // N; a multiple of NumKVHeads
	NumKVHeads       int // K; equal to NumHeads unless the heads are grouped
	HeadDim          int // D; even. Default HiddenSize/NumHeads
	VocabSize        int // V
	MaxPositions     int // longest sequence that the model was made for; default 2048 (llama), 131072 (mistral)

	RMSNormEps  float64      // added to the mean square; default 1e-6
	RopeTheta   float64      // base of the rotary wavelengths; default 10000
	RopeScaling *RopeScaling // nil for none

	TieWordEmbeddings bool // lm_head is embed_tokens
	AttentionBias     bool // q, k, v and o have biases (llama only)
	MLPBias           bool // gate, up and down have biases (llama only)

	// SlidingWindow is the number of keys that a query sees, itself included:
	// key j is visible to query i if i-SlidingWindow < j <= i. 0 means all.
	SlidingWindow int

	BOS int   // begin-of-sequence token, -1 for none
	EOS []int // end-of-sequence tokens, empty for none
	Pad int   // padding token, -1 for none

	// DType is the type that the weights were saved in: "float32", "float16",
	// "bfloat16", or empty if the file does not say.
	DType string

	Quantization *Quantization // nil if the weights are not quantized

	Raw []byte `json:"-"` // config.json as it was read
}

// RopeScaling changes the rotary frequencies to reach longer sequences; see
// [Config.InvFreq] for the formulas.
type RopeScaling struct {
	Type   string  // "linear" or "llama3"
	Factor float64 // ≥ 1

	// For "llama3" only.
	LowFreqFactor, HighFreqFactor float64
	OriginalMaxPositions          int
}

// Quantization is the bitsandbytes part of config.json.
type Quantization struct {
	Type         string   // "nf4" or "fp4"
	DoubleQuant  bool     // the scales are quantized too
	ComputeDType string   // "float32", "float16" or "bfloat16"
	SkipModules  []string // modules left as they were
}

// A ConfigError reports a config.json that cannot be used.
type ConfigError struct {
	Path  string
	Field string // as written in the file; empty if the whole file is meant
	What  string // found, wanted, next step
}

func (e *ConfigError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("model: read %s: %s", e.Path, e.What)
	}
	return fmt.Sprintf("model: read %s: %s: %s", e.Path, e.Field, e.What)
}

// architectures lists what the executor computes, by model_type.
var architectures = map[string]struct {
	name          string
	maxPositions  int // where the file does not say
	slidingWindow int
	numKVHeads    int // 0: NumHeads
}{
	"llama":   {"LlamaForCausalLM", 2048, 0, 0},
	"mistral": {"MistralForCausalLM", 4096 * 32, 4096, 8},
}

// ReadConfig reads config.json in dir. Errors about its contents are
// [*ConfigError].
func ReadConfig(dir string) (*Config, error) {
	path := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("model: %s holds no config.json: is this a model's folder in the Hugging Face layout? (%w)", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	return ParseConfig(path, raw)
}

// fileConfig is config.json in both layouts. Pointers tell absent (or null) from
// zero.
type fileConfig struct {
	ModelType     string   `json:"model_type"`
	Architectures []string `json:"architectures"`

	HiddenSize       *int `json:"hidden_size"`
	IntermediateSize *int `json:"intermediate_size"`
	NumLayers        *int `json:"num_hidden_layers"`
	NumHeads         *int `json:"num_attention_heads"`
	NumKVHeads       *int `json:"num_key_value_heads"`
	HeadDim          *int `json:"head_dim"`
	VocabSize        *int `json:"vocab_size"`
	MaxPositions     *int `json:"max_position_embeddings"`

	RMSNormEps     *float64  `json:"rms_norm_eps"`
	HiddenAct      *string   `json:"hidden_act"`
	RopeTheta      *float64  `json:"rope_theta"`
	RopeScaling    *fileRope `json:"rope_scaling"`
	RopeParameters *fileRope `json:"rope_parameters"`

	Tie           bool            `json:"tie_word_embeddings"`
	AttentionBias bool            `json:"attention_bias"`
	MLPBias       bool            `json:"mlp_bias"`
	SlidingWindow json.RawMessage `json:"sliding_window"`

	BOS *tokenIDs `json:"bos_token_id"`
	EOS *tokenIDs `json:"eos_token_id"`
	Pad *tokenIDs `json:"pad_token_id"`

	DType        string          `json:"dtype"`
	TorchDType   string          `json:"torch_dtype"`
	Quantization *fileQuantizing `json:"quantization_config"`
}

type fileRope struct {
	Type           string   `json:"rope_type"`
	OldType        string   `json:"type"`
	Theta          *float64 `json:"rope_theta"`
	Factor         *float64 `json:"factor"`
	LowFreqFactor  *float64 `json:"low_freq_factor"`
	HighFreqFactor *float64 `json:"high_freq_factor"`
	OriginalMax    *int     `json:"original_max_position_embeddings"`
	Partial        *float64 `json:"partial_rotary_factor"`
}

type fileQuantizing struct {
	Method       string   `json:"quant_method"`
	In4Bit       bool     `json:"load_in_4bit"`
	Type         string   `json:"bnb_4bit_quant_type"`
	Double       bool     `json:"bnb_4bit_use_double_quant"`
	ComputeDType string   `json:"bnb_4bit_compute_dtype"`
	Storage      string   `json:"bnb_4bit_quant_storage"`
	Skip         []string `json:"llm_int8_skip_modules"`
}

// tokenIDs is one id or a list of ids.
type tokenIDs []int

func (t *tokenIDs) UnmarshalJSON(b []byte) error {
	var one int
	if err := json.Unmarshal(b, &one); err == nil {
		*t = tokenIDs{one}
		return nil
	}
	return json.Unmarshal(b, (*[]int)(t))
}

// ParseConfig reads the text of a config.json; path is used in errors only.
func ParseConfig(path string, raw []byte) (*Config, error) {
	bad := func(field, format string, args ...any) (*Config, error) {
		return nil, &ConfigError{path, field, fmt.Sprintf(format, args...)}
	}
	if bytes.HasPrefix(raw, []byte("version https://git-lfs")) {
		return bad("", "this is a Git LFS pointer: fetch the file with 'git lfs pull' or load the model again")
	}
	var f fileConfig
	if err := json.Unmarshal(raw, &f); err != nil {
		return bad("", "it does not read as a model's configuration: %v", err)
	}
	arch, ok := architectures[f.ModelType]
	if !ok {
		return bad("model_type", "unknown architecture %q (architectures %q): gotune computes llama and mistral models", f.ModelType, f.Architectures)
	}
	if len(f.Architectures) > 0 && !slices.Contains(f.Architectures, arch.name) {
		return bad("architectures", "unknown architecture %q for model_type %q, wanted %q", f.Architectures, f.ModelType, arch.name)
	}
	c := &Config{ModelType: f.ModelType, Architecture: arch.name, Raw: bytes.Clone(raw)}
	for _, need := range []struct {
		field string
		value *int
		into  *int
	}{
		{"hidden_size", f.HiddenSize, &c.HiddenSize},
		{"intermediate_size", f.IntermediateSize, &c.IntermediateSize},
		{"num_hidden_layers", f.NumLayers, &c.NumLayers},
		{"num_attention_heads", f.NumHeads, &c.NumHeads},
		{"vocab_size", f.VocabSize, &c.VocabSize},
	} {
		if need.value == nil {
			return bad(need.field, "the field is missing: the file is incomplete; delete it and load the model again")
		}
		*need.into = *need.value
	}
	c.NumKVHeads = or(f.NumKVHeads, c.NumHeads)
	if f.NumKVHeads == nil && arch.numKVHeads > 0 && !bytes.Contains(raw, []byte(`"num_key_value_heads"`)) {
		c.NumKVHeads = arch.numKVHeads
	}
	if f.HeadDim != nil {
		c.HeadDim = *f.HeadDim
	} else if c.NumHeads > 0 {
		c.HeadDim = c.HiddenSize / c.NumHeads
	}
	c.MaxPositions = or(f.MaxPositions, arch.maxPositions)
	c.RMSNormEps = or(f.RMSNormEps, 1e-6)
	c.TieWordEmbeddings = f.Tie
	if f.ModelType == "llama" {
		c.AttentionBias, c.MLPBias = f.AttentionBias, f.MLPBias
	} else {
		c.SlidingWindow = arch.slidingWindow
		if len(f.SlidingWindow) > 0 {
			c.SlidingWindow = 0
			if err := json.Unmarshal(f.SlidingWindow, &c.SlidingWindow); err != nil || c.SlidingWindow < 0 {
				return bad("sliding_window", "found %s, wanted a positive number or null", f.SlidingWindow)
			}
		}
	}
	if act := or(f.HiddenAct, "silu"); act != "silu" && act != "swish" {
		return bad("hidden_act", "found %q, wanted \"silu\": gotune computes SwiGLU only", act)
	}
	if err := c.setTokens(path, &f); err != nil {
		return nil, err
	}
	if err := c.setRope(path, &f); err != nil {
		return nil, err
	}
	if err := c.setTypes(path, &f); err != nil {
		return nil, err
	}
	return c, c.validate(path)
}

func or[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

// setTokens fills BOS, EOS and Pad; absent means transformers' defaults 1, 2 and
// none, null means none.
func (c *Config) setTokens(path string, f *fileConfig) error {
	var present map[string]json.RawMessage
	if err := json.Unmarshal(c.Raw, &present); err != nil {
		return &ConfigError{path, "", err.Error()}
	}
	get := func(field string, ids *tokenIDs, def []int) []int {
		if _, ok := present[field]; !ok {
			return def
		}
		if ids == nil {
			return nil
		}
		return *ids
	}
	single := func(ids []int) int {
		if len(ids) == 0 {
			return -1
		}
		return ids[0]
	}
	c.BOS = single(get("bos_token_id", f.BOS, []int{1}))
	c.EOS = get("eos_token_id", f.EOS, []int{2})
	c.Pad = max(-1, single(get("pad_token_id", f.Pad, nil)))
	return nil
}

func (c *Config) setRope(path string, f *fileConfig) error {
	bad := func(field, format string, args ...any) error {
		return &ConfigError{path, field, fmt.Sprintf(format, args...)}
	}
	field, r := "rope_parameters", f.RopeParameters
	if r == nil {
		field, r = "rope_scaling", f.RopeScaling
	}
	c.RopeTheta = or(f.RopeTheta, 10000)
	if r == nil {
		return nil
	}
	c.RopeTheta = or(r.Theta, c.RopeTheta)
	if p := or(r.Partial, 1); p != 1 {
		return bad(field, "found partial_rotary_factor %g: gotune rotates whole heads only", p)
	}
	kind := r.Type
	if kind == "" {
		kind = r.OldType
	}
	if kind == "default" || kind == "" {
		return nil
	}
	s := &RopeScaling{Type: kind}
	if kind != "linear" && kind != "llama3" {
		return bad(field, "unknown rotary scaling %q: gotune computes default, linear and llama3", kind)
	}
	if r.Factor == nil || !(*r.Factor >= 1) {
		return bad(field, "the %s scaling needs a factor of at least 1, found %v", kind, show(r.Factor))
	}
	s.Factor = *r.Factor
	if kind == "llama3" {
		if r.LowFreqFactor == nil || r.HighFreqFactor == nil || !(*r.LowFreqFactor > 0) || !(*r.HighFreqFactor > *r.LowFreqFactor) {
			return bad(field, "the llama3 scaling needs 0 < low_freq_factor < high_freq_factor, found %v and %v", show(r.LowFreqFactor), show(r.HighFreqFactor))
		}
		s.LowFreqFactor, s.HighFreqFactor = *r.LowFreqFactor, *r.HighFreqFactor
		s.OriginalMaxPositions = or(r.OriginalMax, c.MaxPositions)
		if s.OriginalMaxPositions <= 0 {
			return bad(field, "found original_max_position_embeddings %d, wanted a positive number", s.OriginalMaxPositions)
		}
	}
	c.RopeScaling = s
	return nil
}

func show(p *float64) any {
	if p == nil {
		return "none"
	}
	return *p
}

func (c *Config) setTypes(path string, f *fileConfig) error {
	c.DType = strings.TrimPrefix(f.DType, "torch.")
	if c.DType == "" {
		c.DType = strings.TrimPrefix(f.TorchDType, "torch.")
	}
	q := f.Quantization
	if q == nil {
		return nil
	}
	if (q.Method != "bitsandbytes" && q.Method != "") || !q.In4Bit {
		return &ConfigError{path, "quantization_config", fmt.Sprintf("found the method %q (4 bits: %v): gotune reads 4-bit bitsandbytes models; take the model's unquantized version", q.Method, q.In4Bit)}
	}
	c.Quantization = &Quantization{Type: q.Type, DoubleQuant: q.Double, ComputeDType: q.ComputeDType, SkipModules: q.Skip}
	if q.Type == "" {
		c.Quantization.Type = "fp4" // transformers' default
	}
	if t := c.Quantization.Type; t != "nf4" && t != "fp4" {
		return &ConfigError{path, "quantization_config", fmt.Sprintf("found bnb_4bit_quant_type %q, wanted nf4 or fp4", t)}
	}
	if q.Storage != "" && q.Storage != "uint8" {
		return &ConfigError{path, "quantization_config", fmt.Sprintf("found bnb_4bit_quant_storage %q, wanted uint8", q.Storage)}
	}
	return nil
}

// validate checks what must hold between the fields.
func (c *Config) validate(path string) error {
	bad := func(field, format string, args ...any) error {
		return &ConfigError{path, field, fmt.Sprintf(format, args...)}
	}
	const most = 1 << 28 // keeps every product of two sizes inside an int64
	for _, f := range []struct {
		field string
		n     int
	}{
		{"hidden_size", c.HiddenSize}, {"intermediate_size", c.IntermediateSize}, {"num_hidden_layers", c.NumLayers},
		{"num_attention_heads", c.NumHeads}, {"num_key_value_heads", c.NumKVHeads}, {"head_dim", c.HeadDim},
		{"vocab_size", c.VocabSize}, {"max_position_embeddings", c.MaxPositions},
	} {
		if f.n <= 0 || f.n > most {
			return bad(f.field, "found %d, wanted 1 to %d", f.n, most)
		}
	}
	switch {
	case c.NumLayers > 1<<14:
		return bad("num_hidden_layers", "found %d, wanted at most %d", c.NumLayers, 1<<14)
	case c.NumHeads > 1<<16 || c.HeadDim > 1<<12:
		return bad("num_attention_heads", "found %d heads of %d, wanted at most %d of %d", c.NumHeads, c.HeadDim, 1<<16, 1<<12)
	case c.HiddenSize%c.NumHeads != 0:
		return bad("hidden_size", "found %d, which the %d attention heads do not divide", c.HiddenSize, c.NumHeads)
	case c.NumHeads%c.NumKVHeads != 0:
		return bad("num_key_value_heads", "found %d, which does not divide the %d attention heads", c.NumKVHeads, c.NumHeads)
	case c.HeadDim%2 != 0:
		return bad("head_dim", "found %d, wanted an even number: rotary positions turn pairs", c.HeadDim)
	case !(c.RMSNormEps > 0) || c.RMSNormEps > 1:
		return bad("rms_norm_eps", "found %g, wanted a small positive number", c.RMSNormEps)
	case !(c.RopeTheta > 0):
		return bad("rope_theta", "found %g, wanted a positive number", c.RopeTheta)
	}
	for _, id := range append([]int{c.BOS, c.Pad}, c.EOS...) {
		if id < -1 || id >= c.VocabSize {
			return bad("bos_token_id, eos_token_id, pad_token_id", "found the token %d, but the vocabulary has %d", id, c.VocabSize)
		}
	}
	switch c.DType {
	case "", "float32", "float16", "bfloat16", "float64":
	default:
		return bad("dtype", "found %q, wanted float32, float16 or bfloat16", c.DType)
	}
	return nil
}
