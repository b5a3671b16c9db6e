package main

import (
	"fmt"
	"strings"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// shape is an architecture of the Llama family. Letters as in package layerwise.
type shape struct {
	name                   string
	hidden, inner, layers  int // D, F, L
	heads, kv, vocab       int // H, K, V
	positions              int
	theta                  float64
	dtype                  safetensors.DType
	bosID, eosID           int
	bos, eos, unk          string // unk is the first special token, or empty
	specialsAt, specialsTo int    // the special tokens' ids
}

// shapes are the published configurations, and a small one for tests.
var shapes = []shape{
	{"llama2-7b", 4096, 11008, 32, 32, 32, 32000, 4096, 10000, safetensors.F16, 1, 2, "<s>", "</s>", "<unk>", 0, 3},
	{"llama3-8b", 4096, 14336, 32, 32, 8, 128256, 8192, 500000, safetensors.BF16, 128000, 128001, "<|begin_of_text|>", "<|end_of_text|>", "", 128000, 128256},
	{"tinyllama-1.1b", 2048, 5632, 22, 32, 4, 32000, 2048, 10000, safetensors.BF16, 1, 2, "<s>", "</s>", "<unk>", 0, 3},
	{"mini", 256, 688, 2, 4, 2, 1024, 512, 10000, safetensors.F16, 1, 2, "<s>", "</s>", "<unk>", 0, 3},
}

func shapeNames() (names []string) {
	for _, s := range shapes {
		names = append(names, s.name)
	}
	return names
}

func findShape(name string) (shape, error) {
	for _, s := range shapes {
		if s.name == name {
			return s, nil
		}
	}
	return shape{}, fmt.Errorf("shape %q is unknown, want one of %s", name, strings.Join(shapeNames(), ", "))
}

// config is config.json.
func (s shape) config() map[string]any {
	torch := map[safetensors.DType]string{safetensors.F16: "float16", safetensors.BF16: "bfloat16"}[s.dtype]
	return map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_act": "silu",
		"hidden_size": s.hidden, "intermediate_size": s.inner, "num_hidden_layers": s.layers,
		"num_attention_heads": s.heads, "num_key_value_heads": s.kv, "head_dim": s.hidden / s.heads,
		"vocab_size": s.vocab, "max_position_embeddings": s.positions, "rms_norm_eps": 1e-5,
		"rope_theta": s.theta, "rope_scaling": nil, "tie_word_embeddings": false,
		"attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0, "initializer_range": std,
		"bos_token_id": s.bosID, "eos_token_id": s.eosID, "torch_dtype": torch, "use_cache": true, "pretraining_tp": 1,
	}
}

// generationConfig is generation_config.json.
func (s shape) generationConfig() map[string]any {
	return map[string]any{"_from_model_config": true, "bos_token_id": s.bosID, "eos_token_id": s.eosID}
}
