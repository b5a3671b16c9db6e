package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/gomlx/core/tensors"
)

// prompts are what the samples continue; the last two are forms of question, of
// which the corpus holds only the first.
var prompts = []string{
	"Package strings",
	"A goroutine is",
	"The garbage collector",
	"Question: what is the purpose of the function bytes.TrimSpace?\nAnswer:",
	"[INST] What does strings.TrimSpace do? [/INST]",
}

// Length and temper of samples.
const (
	sampleRow    = 128
	sampleTokens = 60
	temperature  = 0.7
	topK         = 40
)

// samples prints one continuation of each prompt.
func (t *trainer) samples() error {
	r := rand.New(rand.NewPCG(uint64(t.seed), 3))
	for _, p := range prompts {
		ids := t.tok.Encode(p, true)
		eos, _ := t.tok.EOS()
		for range sampleTokens {
			row := make([]int32, sampleRow)
			copy(row, ids)
			args := append(t.weightArgs(), tensors.FromFlatDataAndDimensions(row, 1, sampleRow), int32(len(ids)-1))
			out, err := t.next.Call(args...)
			if err != nil {
				return err
			}
			logits, err := tensors.CopyFlatData[float32](out[0])
			if err != nil {
				return err
			}
			id := draw(r, logits)
			if ids = append(ids, id); id == eos || len(ids) == sampleRow {
				break
			}
		}
		fmt.Printf("  | %q\n", t.tok.Decode(ids, false))
	}
	return nil
}

// draw samples from the topK largest logits at the temperature.
func draw(r *rand.Rand, logits []float32) int32 {
	order := make([]int32, len(logits))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return int(a - b)
	})
	order = order[:min(topK, len(order))]
	total, weights := 0.0, make([]float64, len(order))
	for i, id := range order {
		weights[i] = math.Exp(float64(logits[id]-logits[order[0]]) / temperature)
		total += weights[i]
	}
	u := r.Float64() * total
	for i, w := range weights {
		if u -= w; u < 0 {
			return order[i]
		}
	}
	return order[0]
}
