package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// Projections names the linear layers of a decoder layer, in the order in which
// the forward pass uses them.
var Projections = []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

// Names of the weights outside of the layers.
const (
	EmbedName = "model.embed_tokens.weight" // [V, H]
	NormName  = "model.norm.weight"         // [H]
	HeadName  = "lm_head.weight"            // [V, H]
)

// Module returns the name of a projection's module, such as
// "model.layers.3.self_attn.q_proj". LoRA adapters use it as a key.
func (c *Config) Module(layer int, proj string) string {
	part := "mlp"
	if slices.Contains(Projections[:4], proj) {
		part = "self_attn"
	}
	return fmt.Sprintf("model.layers.%d.%s.%s", layer, part, proj)
}

// Weight returns the name of a projection's weight, such as
// "model.layers.3.self_attn.q_proj.weight".
func (c *Config) Weight(layer int, proj string) string { return c.Module(layer, proj) + ".weight" }

// Bias returns the name of a projection's bias, and whether the model has it.
func (c *Config) Bias(layer int, proj string) (string, bool) {
	has := c.MLPBias
	if slices.Contains(Projections[:4], proj) {
		has = c.AttentionBias
	}
	return c.Module(layer, proj) + ".bias", has
}

// ProjShape returns the shape [out, in] of a projection's weight; 0, 0 for a name
// that is not in [Projections].
func (c *Config) ProjShape(proj string) (out, in int) {
	switch proj {
	case "q_proj":
		return c.NumHeads * c.HeadDim, c.HiddenSize
	case "k_proj", "v_proj":
		return c.NumKVHeads * c.HeadDim, c.HiddenSize
	case "o_proj":
		return c.HiddenSize, c.NumHeads * c.HeadDim
	case "gate_proj", "up_proj":
		return c.IntermediateSize, c.HiddenSize
	case "down_proj":
		return c.HiddenSize, c.IntermediateSize
	}
	return 0, 0
}

// InputNorm and PostNorm name a layer's two norms, [H] each: before attention and
// before the MLP.
func (c *Config) InputNorm(layer int) string {
	return fmt.Sprintf("model.layers.%d.input_layernorm.weight", layer)
}

// PostNorm names the norm before a layer's MLP; see InputNorm.
func (c *Config) PostNorm(layer int) string {
	return fmt.Sprintf("model.layers.%d.post_attention_layernorm.weight", layer)
}

// Head names the weight that the output layer uses: embed_tokens if tied.
func (c *Config) Head() string {
	if c.TieWordEmbeddings {
		return EmbedName
	}
	return HeadName
}

// Weights lists every weight of the model with its shape, layer by layer. The
// types are left open.
func (c *Config) Weights() []safetensors.Spec {
	list := []safetensors.Spec{{Name: EmbedName, Shape: []int{c.VocabSize, c.HiddenSize}}}
	for l := range c.NumLayers {
		list = append(list, safetensors.Spec{Name: c.InputNorm(l), Shape: []int{c.HiddenSize}})
		for i, proj := range Projections {
			if i == 4 {
				list = append(list, safetensors.Spec{Name: c.PostNorm(l), Shape: []int{c.HiddenSize}})
			}
			out, in := c.ProjShape(proj)
			list = append(list, safetensors.Spec{Name: c.Weight(l, proj), Shape: []int{out, in}})
			if bias, ok := c.Bias(l, proj); ok {
				list = append(list, safetensors.Spec{Name: bias, Shape: []int{out}})
			}
		}
	}
	list = append(list, safetensors.Spec{Name: NormName, Shape: []int{c.HiddenSize}})
	if !c.TieWordEmbeddings {
		list = append(list, safetensors.Spec{Name: HeadName, Shape: []int{c.VocabSize, c.HiddenSize}})
	}
	return list
}

// Parameters counts the model's weights; tied embeddings count once.
func (c *Config) Parameters() int64 {
	n := int64(0)
	for _, w := range c.Weights() {
		size := int64(1)
		for _, d := range w.Shape {
			size *= int64(d)
		}
		n += size
	}
	return n
}

// ignorable reports whether a checkpoint may hold this tensor although the model
// has no such weight: the frequency buffers that old versions of transformers
// saved, and an output layer that is tied.
func (c *Config) ignorable(name string) bool {
	return strings.HasSuffix(name, ".rotary_emb.inv_freq") || name == HeadName && c.TieWordEmbeddings
}
