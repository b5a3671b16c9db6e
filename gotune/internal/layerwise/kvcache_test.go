package layerwise

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/quant"
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
// (all variants), on 4-bit layers that are unpacked in every call, and on those that are
// multiplied as they are stored, several layers in a call, as on a GPU.
func TestDecoderEqualsLogits(t *testing.T) {
	var index struct {
		Adapters map[string]struct {
			Model string `json:"model"`
		} `json:"adapters"`
	}
	oracle.JSON(t, &index, "lora", "index.json")
	bases, variants := map[string]*Base{}, map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(index.Adapters)) {
		entry := index.Adapters[name]
		b := bases[entry.Model]
		if b == nil {
			b = loadDir(t, oracle.Dir(t, entry.Model), LoadOptions{Quant: QuantNF4, DoubleQuant: len(bases)%2 == 1, ResidentBytes: -1})
			bases[entry.Model] = b
		}
		ad, err := b.Upload(loadAdapter(t, "lora", name))
		if err != nil {
			t.Fatal(err)
		}
		bt := goldenBatch(openGolden(t, "lora", name, "expect.safetensors"))
		want, err := b.Logits(ad, bt)
		if err != nil {
			t.Fatal(err)
		}
		ways := []string{"unpacked", "direct", "kernel's function"}
		switch n := len(variants); {
		case variants[kindOf(ad)]:
			ways = ways[:1] // the other ways differ by the kind of adapter alone
		case n > 0:
			ways = ways[:2]
		}
		variants[kindOf(ad)] = true
		for _, how := range ways {
			d, err := b.NewDecoder(ad, bt.S)
			if err != nil {
				t.Fatal(err)
			}
			if how != "unpacked" {
				d.likeGPU()
			}
			if d.kernel = how == "kernel's function"; d.kernel { // a CPU calls the plain form by its name
				d.plan(1)
			}
			v, prompt := b.Config().VocabSize, 3
			got, err := d.Prefill(bt.IDs[:prompt])
			for i := prompt; err == nil && i < bt.S && bt.Segments[i] == 1; i++ {
				near(t, fmt.Sprintf("%s %s logits", name, how), got, want[(i-1)*v:i*v], logitTolerance, 0)
				got, err = d.Step(bt.IDs[i])
			}
			if err != nil {
				t.Fatal(err)
			}
			d.Close()
		}
		ad.Free()
	}
}

// kindOf names what decoding tells apart in an adapter.
func kindOf(ad *DeviceAdapter) string {
	kind := ""
	for _, s := range ad.layout.layers[0] {
		kind += fmt.Sprintf("%s dora %t;", s.proj, s.dora)
	}
	return kind
}

// likeGPU makes d run as on a GPU.
func (d *stream) likeGPU() {
	d.direct = true
	d.plan(2)
}

// The product of packed weights is that of the unpacked ones.
func TestPackedProduct(t *testing.T) {
	const out, in = 24, 192
	rng := rand.New(rand.NewPCG(1, 2))
	w, x := make([]float32, out*in), make([]float32, in)
	for i := range w {
		w[i] = float32(rng.NormFloat64())
	}
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	for _, typ := range []quant.Type{quant.NF4, quant.FP4} {
		for _, block := range []int{32, 64} {
			q, err := quant.Quantize(typ, []int{out, in}, w, block, false)
			if err != nil {
				t.Fatal(err)
			}
			s := groupSpec{parts: []part{{"q_proj", out}}, in: in, typ: typ, block: block}
			dev := deviceOf(openCPU(t))
			var bufs []compute.Buffer
			for _, u := range []struct {
				flat any
				dt   dtypes.DType
				dims []int
			}{{q.Codes, dtypes.Uint8, []int{out * in / 2}}, {q.Absmax, dtypes.Float32, []int{len(q.Absmax)}}, {x, dtypes.Float32, []int{1, in}}} {
				buf, err := dev.upload(u.flat, u.dt, u.dims...)
				if err != nil {
					t.Fatal(err)
				}
				bufs = append(bufs, buf)
			}
			sh, _ := shapesOf(bufs)
			p, err := dev.program("test product "+s.key(), sh, func(_ *Graph, n []*Node) []*Node {
				return []*Node{packedProduct(&s, n[0], n[1], n[2])}
			})
			if err != nil {
				t.Fatal(err)
			}
			res, err := p.run(bufs)
			if err != nil {
				t.Fatal(err)
			}
			got, err := download[float32](res[0], out)
			if err != nil {
				t.Fatal(err)
			}
			plain, want := make([]float32, out*in), make([]float32, out)
			q.Dequantize(plain)
			for o := range out {
				sum := 0.0
				for i := range in {
					sum += float64(plain[o*in+i]) * float64(x[i])
				}
				want[o] = float32(sum)
			}
			near(t, fmt.Sprintf("%s product, blocks of %d", typ, block), got, want, 1e-4, 1e-5)
			drop(append(bufs, res...)...)
		}
	}
}

// Sequences of a batch are those that each prompt gives alone, whatever the others'
// lengths, also beyond the sliding window; and each ends by itself.
func TestBatchEqualsAlone(t *testing.T) {
	ctx := context.Background()
	models, err := os.ReadDir(oracle.Dir(t, "llama"))
	if err != nil {
		t.Fatal(err)
	}
	held := 0
	for _, m := range models {
		if !m.IsDir() {
			continue
		}
		b := loadDir(t, oracle.Dir(t, "llama", m.Name()), LoadOptions{})
		v := int32(b.Config().VocabSize)
		rng := rand.New(rand.NewPCG(5, 5))
		prompts := make([][]int32, 3)
		for r, n := range []int{3, 11, 7} {
			for range n {
				prompts[r] = append(prompts[r], rng.Int32N(v))
			}
		}
		const answer = 12
		for _, cfg := range []sample.Config{{MaxNewTokens: answer}, {MaxNewTokens: answer, Temperature: 1, Seed: 4}} {
			var want [][]int32
			for r, p := range prompts {
				d, err := b.NewDecoder(nil, len(p)+answer)
				if err != nil {
					t.Fatal(err)
				}
				if r == 0 {
					d.likeGPU()
				}
				alone := cfg
				if r > 0 {
					alone.Temperature = 0 // only row 0 draws what Generate would
				}
				ids, _, err := sample.Generate(ctx, d, p, alone, nil)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, ids)
				d.Close()
			}
			if cfg.Temperature == 0 { // the first row ends early
				cfg.EOS = []int32{want[0][4]}
			}
			d, err := b.NewBatchDecoder(nil, len(prompts), 11+answer)
			if err != nil {
				t.Fatal(err)
			}
			got, err := sample.GenerateBatch(ctx, d, prompts, cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			d.Close()
			for r, a := range got {
				w := want[r]
				if i := slices.Index(w, append(cfg.EOS, -1)[0]); cfg.EOS != nil && i >= 0 {
					w = w[:i+1]
				}
				if r > 0 && cfg.Temperature > 0 {
					continue
				}
				held++
				if !slices.Equal(a.IDs, w) {
					t.Errorf("%s row %d: %v, alone %v", m.Name(), r, a.IDs, w)
				}
			}
		}
	}
	if held == 0 {
		t.Fatal("no model in the oracle's folder llama")
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
