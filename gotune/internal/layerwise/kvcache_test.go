package layerwise

import (
	"context"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/sample"
)

// Greedy generation gives the ids that transformers gives, wherever its best two
// logits are far enough apart.
func TestGreedyEqualsTransformers(t *testing.T) {
	var want struct {
		Cases []struct {
			Model   string
			Prompt  []int32
			Penalty float64 `json:"repetition_penalty"`
			Stop    bool    `json:"stop_at_eos"`
			Output  []int32
			Margin  float64 `json:"min_top1_top2_margin"`
		}
	}
	oracle.JSON(t, &want, "generate", "greedy.json")
	bases := map[string]*Base{}
	held := 0
	for i, c := range want.Cases {
		b := bases[c.Model]
		if b == nil {
			b = loadDir(t, oracle.Dir(t, "llama", c.Model), LoadOptions{})
			bases[c.Model] = b
		}
		if c.Margin <= 1e-4 {
			t.Logf("case %d: margin %g, two answers are right", i, c.Margin)
			continue
		}
		held++
		d, err := b.NewDecoder(nil, len(c.Prompt)+len(c.Output))
		if err != nil {
			t.Fatal(err)
		}
		cfg := sample.Config{RepetitionPenalty: c.Penalty, MaxNewTokens: len(c.Output)}
		if c.Stop {
			for _, e := range b.Config().EOS {
				cfg.EOS = append(cfg.EOS, int32(e))
			}
		}
		got, _, err := sample.Generate(context.Background(), d, c.Prompt, cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, c.Output) {
			t.Errorf("case %d (%s, prompt %v): %v, want %v", i, c.Model, c.Prompt, got, c.Output)
		}
		d.Close()
	}
	if held == 0 {
		t.Fatal("generate/greedy.json has no case with a clear margin")
	}
}

// Token by token gives the logits of the whole sequence at once, with an adapter
// (all variants), on 4-bit layers that are unpacked in every call.
func TestDecoderEqualsLogits(t *testing.T) {
	var index struct {
		Adapters map[string]struct {
			Model string `json:"model"`
		} `json:"adapters"`
	}
	oracle.JSON(t, &index, "lora", "index.json")
	for name, entry := range index.Adapters {
		b := loadDir(t, oracle.Dir(t, entry.Model), LoadOptions{Quant: QuantNF4, ResidentBytes: -1})
		ad, err := b.Upload(loadAdapter(t, "lora", name))
		if err != nil {
			t.Fatal(err)
		}
		bt := goldenBatch(openGolden(t, "lora", name, "expect.safetensors"))
		want, err := b.Logits(ad, bt)
		if err != nil {
			t.Fatal(err)
		}
		d, err := b.NewDecoder(ad, bt.S)
		if err != nil {
			t.Fatal(err)
		}
		v, prompt := b.Config().VocabSize, 3
		got, err := d.Prefill(bt.IDs[:prompt])
		for i := prompt; err == nil && i < bt.S && bt.Segments[i] == 1; i++ {
			near(t, name+" logits", got, want[(i-1)*v:i*v], logitTolerance, 0)
			got, err = d.Step(bt.IDs[i])
		}
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		ad.Free()
	}
}

// A decoder refuses what it can't hold, and says so.
func TestDecoderLimits(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{})
	if _, err := b.NewDecoder(nil, b.Config().MaxPositions+1); err == nil {
		t.Error("a decoder beyond the model's positions was made")
	}
	d, err := b.NewDecoder(nil, 4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Step(1); err == nil {
		t.Error("a step without a prompt went through")
	}
	if _, err := d.Prefill([]int32{1, 2, 3, 4, 5}); err == nil {
		t.Error("a prompt of 5 tokens fit into 4")
	}
	if _, err := d.Prefill([]int32{1, 2, 3, 4}); err != nil {
		t.Error(err)
	}
	if _, err := d.Step(1); err == nil {
		t.Error("a fifth token fit into 4")
	}
	d.Close()
	d.Close()
	if _, err := d.Prefill([]int32{1}); err == nil {
		t.Error("a closed decoder read a prompt")
	}
}
