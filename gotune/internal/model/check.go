package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gotune/gotune/gotune/internal/quant"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// Check compares the stored weights with the configuration: each weight present,
// in the right shape, as float values or as packed codes whose parts fit. It
// reads headers and small parts only. A weight that the architecture does not
// have is an error too, since leaving it out would change the results.
//
// The error is a [*CheckpointError] about the first weight at fault, with the
// number of others.
func (ck *Checkpoint) Check() error {
	wanted := map[string]bool{}
	var faults []*CheckpointError
	for _, w := range ck.Config.Weights() {
		wanted[w.Name] = true
		if what := ck.checkWeight(w); what != "" {
			faults = append(faults, &CheckpointError{ck.dir, w.Name, what})
		}
	}
	for _, name := range ck.names {
		owner, part := quant.Owner(name)
		if wanted[name] || part && wanted[owner] || ck.Config.ignorable(name) {
			continue
		}
		what := fmt.Sprintf("the configuration has no such weight (%s, %d layers, attention_bias %v, mlp_bias %v): config.json and weights are of different models", ck.Config.ModelType, ck.Config.NumLayers, ck.Config.AttentionBias, ck.Config.MLPBias)
		faults = append(faults, &CheckpointError{ck.dir, name, what})
	}
	if len(faults) == 0 {
		return nil
	}
	first := faults[0]
	if more := len(faults) - 1; more > 0 {
		first.What += fmt.Sprintf(" (and %d more faults of this kind or another)", more)
	}
	return first
}

// checkWeight returns what is wrong with a weight, or "".
func (ck *Checkpoint) checkWeight(want safetensors.Spec) string {
	have, ok := ck.Spec(want.Name)
	if !ok {
		if want.Name == HeadName {
			return "it is missing, and tie_word_embeddings is false: if the output layer is the embedding, set tie_word_embeddings in config.json; otherwise load the model again"
		}
		if strings.Contains(want.Name, ".") && len(ck.names) > 0 {
			return fmt.Sprintf("it is missing among %d stored tensors: the download is incomplete or config.json is of another model; load the model again", len(ck.names))
		}
		return "it is missing: load the model again"
	}
	if ck.packed[want.Name] {
		q, _, err := ck.Quantized(want.Name)
		if err != nil {
			return err.Error()
		}
		if !slices.Equal(q.Shape, want.Shape) {
			return shapeFault(q.Shape, want.Shape)
		}
		return ""
	}
	switch have.DType {
	case safetensors.F32, safetensors.F16, safetensors.BF16, safetensors.F64:
	case safetensors.U8:
		return fmt.Sprintf("it is %s%v without quant_state: wanted float values or a 4-bit bitsandbytes weight; load the model again", have.DType, have.Shape)
	default:
		return fmt.Sprintf("it has the type %s, wanted F32, F16, BF16 or 4-bit bitsandbytes: take an unquantized version of the model", have.DType)
	}
	if !slices.Equal(have.Shape, want.Shape) {
		return shapeFault(have.Shape, want.Shape)
	}
	return ""
}

func shapeFault(have, want []int) string {
	return fmt.Sprintf("it has the shape %v, config.json wants %v: configuration and weights are of different models; load the model again", have, want)
}
