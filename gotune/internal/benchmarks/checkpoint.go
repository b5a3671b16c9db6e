package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/quant"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// layersOf7B is the config of a Llama-2-7B with few layers. The vocabulary is cut
// by as much as the depth, so that the table of tokens keeps its share (4 %).
func layersOf7B(layers int) ([]byte, error) {
	return json.Marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
		"num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 1000 * layers, "max_position_embeddings": 4096,
		"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
	})
}

// writeSynthetic writes a bfloat16 checkpoint of normal weights into dir.
func writeSynthetic(dir string, layers int) error {
	raw, err := layersOf7B(layers)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o644); err != nil {
		return err
	}
	cfg, err := model.ReadConfig(dir)
	if err != nil {
		return err
	}
	specs := cfg.Weights()
	largest := 0
	for i := range specs {
		specs[i].DType = safetensors.BF16
		largest = max(largest, specs[i].Shape[0]*specs[i].Shape[len(specs[i].Shape)-1])
	}
	safetensors.SortSpecs(specs)
	// One pool of numbers serves all tensors, each from another place on.
	r := rand.New(rand.NewPCG(1, 2))
	pool := make([]float32, 1<<20)
	for i := range pool {
		pool[i] = float32(r.NormFloat64()) * 0.02
	}
	data := make([]byte, 2*(largest+len(pool)))
	for at := 0; at < len(data); at += 2 * len(pool) {
		part := pool[:min(len(pool), (len(data)-at)/2)]
		if err := safetensors.PutFloat32(data[at:at+2*len(part)], safetensors.BF16, part); err != nil {
			return err
		}
	}
	w, err := safetensors.Create(filepath.Join(dir, "model.safetensors"), specs, nil)
	if err != nil {
		return err
	}
	defer w.Abort()
	for i, s := range specs {
		n, err := s.Bytes()
		if err != nil {
			return err
		}
		from := int64(2 * (i * 7919 % len(pool)))
		if err := w.WriteTensor(safetensors.Tensor{Name: s.Name, DType: s.DType, Shape: s.Shape, Data: data[from : from+n]}); err != nil {
			return err
		}
	}
	return w.Commit()
}

// writeDequantized writes the model in src to dst in float32, its projections as
// NF4 makes them: the weights that gotune computes with, for those who read no NF4.
func writeDequantized(src, dst string) error {
	ck, err := model.Open(src)
	if err != nil {
		return err
	}
	defer ck.Close()
	packed := map[string]bool{}
	for l := range ck.Config.NumLayers {
		for _, p := range model.Projections {
			packed[ck.Config.Weight(l, p)] = true
		}
	}
	var out []safetensors.Tensor
	for _, name := range ck.Names() {
		values, shape, err := ck.Float32(name)
		if err != nil {
			return err
		}
		if packed[name] {
			q, err := quant.Quantize(quant.NF4, shape, values, quant.DefaultBlockSize, false)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			q.Dequantize(values)
		}
		t, err := safetensors.FromFloat32(name, shape, values, safetensors.F32)
		if err != nil {
			return err
		}
		out = append(out, t)
	}
	config, err := ck.Config.Rewrite("float32")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dst, "config.json"), config, 0o644); err != nil {
		return err
	}
	return safetensors.Write(filepath.Join(dst, "model.safetensors"), out, map[string]string{"format": "pt"})
}
