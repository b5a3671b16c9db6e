package sample

import (
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// TestProcessorsOracle holds each processor and their chains against
// transformers' probabilities (tolerance 1e-6), and the set of tokens kept.
// Where equal logits straddle a border the choice among them is the sorting
// routine's; there values are compared as a multiset, as the golden note asks.
func TestProcessorsOracle(t *testing.T) {
	var golden struct {
		Vectors map[string][]float32 `json:"vectors"`
		Cases   []struct {
			Vector     string              `json:"vector"`
			Processors [][]json.RawMessage `json:"processors"`
			Kept       []int               `json:"kept"`
			Probs      []float32           `json:"probs"`
		} `json:"cases"`
	}
	oracle.JSON(t, &golden, "generate", "processors.json")
	if len(golden.Cases) == 0 {
		t.Fatal("processors.json holds no cases")
	}
	for _, c := range golden.Cases {
		cfg := Config{Temperature: 1}
		var ids []int32
		name := c.Vector
		for _, p := range c.Processors {
			var kind string
			var value float64
			for i, into := range []any{&kind, &value, &ids} {
				if i < len(p) {
					if err := json.Unmarshal(p[i], into); err != nil {
						t.Fatal(err)
					}
				}
			}
			name += " " + kind
			switch kind {
			case "temperature":
				cfg.Temperature = value
			case "top_k":
				cfg.TopK = int(value)
			case "top_p":
				cfg.TopP = value
			case "min_p":
				cfg.MinP = value
			case "typical_p":
				cfg.TypicalP = value
			case "repetition_penalty":
				cfg.RepetitionPenalty = value
			default:
				t.Fatalf("processors.json names %q, which this package lacks", kind)
			}
		}
		vector := golden.Vectors[c.Vector]
		if len(vector) == 0 {
			t.Fatalf("processors.json lacks vector %q", c.Vector)
		}
		chain, err := Processors(cfg)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		logits := slices.Clone(vector)
		chain.Process(ids, logits)
		probs, want, kept := Softmax(nil, logits), slices.Clone(c.Probs), finite(logits)
		if tied(logits, vector) {
			slices.Sort(probs)
			slices.Sort(want)
			if len(kept) != len(c.Kept) {
				t.Errorf("%s: kept %d tokens %v, want %d: %v", name, len(kept), kept, len(c.Kept), c.Kept)
			}
		} else if !slices.Equal(kept, c.Kept) {
			t.Errorf("%s: kept %v, want %v", name, kept, c.Kept)
		}
		for i := range want {
			if math.Abs(float64(probs[i]-want[i])) > 1e-6 {
				t.Errorf("%s: probs[%d] = %g, want %g", name, i, probs[i], want[i])
			}
		}
	}
}

// tied tells whether of two equal values in before one was dropped, one kept.
func tied(after, before []float32) bool {
	for i := range before {
		for j := range before {
			if before[i] == before[j] && (after[i] == dropped) != (after[j] == dropped) {
				return true
			}
		}
	}
	return false
}
