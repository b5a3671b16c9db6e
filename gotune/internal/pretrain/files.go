package main

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// shape is the architecture's free numbers.
type shape struct{ hidden, inner, layers, heads, positions int }

// configJSON is config.json of the model, in the layout of transformers 4,
// which every version reads.
func configJSON(s shape, vocab int) ([]byte, error) {
	return marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama",
		"hidden_size": s.hidden, "intermediate_size": s.inner, "num_hidden_layers": s.layers,
		"num_attention_heads": s.heads, "num_key_value_heads": s.heads, "head_dim": s.hidden / s.heads,
		"vocab_size": vocab, "max_position_embeddings": s.positions, "rope_theta": 10000.0, "rope_scaling": nil,
		"rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false,
		"attention_dropout": 0.0, "initializer_range": initialScale, "pretraining_tp": 1, "use_cache": true,
		"bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
	})
}

const modelFile = "model.safetensors"

// initialScale is the standard deviation of fresh weights.
const initialScale = 0.03

func marshal(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), err
}

// freshWeights draws the weights: normal, the two that write to the residual
// stream scaled by 1/√(2·layers) (Radford et al. 2019, section 2.3); norms are 1.
func freshWeights(cfg *model.Config, seed int64) map[string][]float32 {
	r := rand.New(rand.NewPCG(uint64(seed), 7))
	out := map[string][]float32{}
	for _, spec := range cfg.Weights() {
		w := make([]float32, size(spec.Shape))
		scale := initialScale
		if strings.HasSuffix(spec.Name, "o_proj.weight") || strings.HasSuffix(spec.Name, "down_proj.weight") {
			scale /= math.Sqrt(2 * float64(cfg.NumLayers))
		}
		for i := range w {
			if len(spec.Shape) == 1 {
				w[i] = 1
			} else {
				w[i] = float32(r.NormFloat64() * scale)
			}
		}
		out[spec.Name] = w
	}
	return out
}

func size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// writeModel writes config.json, generation_config.json and model.safetensors
// with bfloat16 weights.
func writeModel(dir string, s shape, cfg *model.Config, weights map[string][]float32) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config, err := configJSON(s, cfg.VocabSize)
	if err != nil {
		return err
	}
	generation, err := marshal(map[string]any{"_from_model_config": true, "bos_token_id": 1, "eos_token_id": 2})
	if err != nil {
		return err
	}
	var ts []safetensors.Tensor
	for _, spec := range cfg.Weights() {
		t, err := safetensors.FromFloat32(spec.Name, spec.Shape, weights[spec.Name], safetensors.BF16)
		if err != nil {
			return err
		}
		ts = append(ts, t)
	}
	if err := safetensors.Write(filepath.Join(dir, modelFile), ts, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "generation_config.json"), generation, 0o644)
}

// Prefixes of AdamW's moments in a state file.
const firstMoment, secondMoment = "first_moment.", "second_moment."

// writeState saves weights and moments in float32, and the number of steps done.
func writeState(path string, step int, specs []safetensors.Spec, groups [3]map[string][]float32) error {
	var ts []safetensors.Tensor
	for g, prefix := range []string{"", firstMoment, secondMoment} {
		for _, spec := range specs {
			t, err := safetensors.FromFloat32(prefix+spec.Name, spec.Shape, groups[g][spec.Name], safetensors.F32)
			if err != nil {
				return err
			}
			ts = append(ts, t)
		}
	}
	return safetensors.Write(path, ts, map[string]string{"step": fmt.Sprint(step)})
}

// readState is writeState's inverse. Without a file it returns step 0 and no groups.
func readState(path string, specs []safetensors.Spec) (step int, groups [3]map[string][]float32, err error) {
	if _, err := os.Stat(path); path == "" || os.IsNotExist(err) {
		return 0, groups, nil
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return 0, groups, err
	}
	defer f.Close()
	if _, err := fmt.Sscan(f.Metadata()["step"], &step); err != nil {
		return 0, groups, fmt.Errorf("resume from %s: it does not say its step; delete it to start anew", path)
	}
	for g, prefix := range []string{"", firstMoment, secondMoment} {
		if groups[g], err = readWeights(path, prefix, specs); err != nil {
			return 0, groups, err
		}
	}
	return step, groups, nil
}

// readWeights reads the tensors of specs, each name behind prefix, from a file.
func readWeights(path, prefix string, specs []safetensors.Spec) (map[string][]float32, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string][]float32{}
	for _, spec := range specs {
		t, err := f.Tensor(prefix + spec.Name)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(t.Shape, spec.Shape) {
			return nil, fmt.Errorf("read %s: %s has shape %v, this run's is %v; name another file or set the shape flags", path, t.Name, t.Shape, spec.Shape)
		}
		if out[spec.Name], err = t.Float32(); err != nil {
			return nil, err
		}
	}
	return out, nil
}
