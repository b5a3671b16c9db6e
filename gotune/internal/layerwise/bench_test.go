package layerwise

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// The embedded model's shapes; random weights cost the same time.
const embeddedConfig = `{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"silu","hidden_size":256,
"intermediate_size":688,"num_hidden_layers":5,"num_attention_heads":8,"num_key_value_heads":8,"vocab_size":4096,
"max_position_embeddings":512,"rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":false,"torch_dtype":"float32",
"bos_token_id":1,"eos_token_id":2}`

// randomModel writes a checkpoint with the given config and small random weights.
func randomModel(tb testing.TB, config string) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		tb.Fatal(err)
	}
	cfg, err := model.ReadConfig(dir)
	if err != nil {
		tb.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var all []safetensors.Tensor
	for _, s := range cfg.Weights() {
		v := make([]float32, product(s.Shape))
		for i := range v {
			v[i] = float32(rng.NormFloat64()) * 0.03
			if len(s.Shape) == 1 {
				v[i]++
			}
		}
		t, err := safetensors.FromFloat32(s.Name, s.Shape, v, safetensors.F32)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, t)
	}
	if err := safetensors.Write(filepath.Join(dir, "model.safetensors"), all, nil); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// randomBatch has full rows of random tokens, all of them supervised.
func randomBatch(b, s, vocab int) *batch.Batch {
	rng := rand.New(rand.NewPCG(2, uint64(s)))
	bt := &batch.Batch{B: b, S: s}
	for i := range b * s {
		id := int32(rng.IntN(vocab))
		label := id
		if i%s == 0 {
			label = batch.Ignore
		}
		bt.IDs, bt.Labels = append(bt.IDs, id), append(bt.Labels, label)
		bt.Positions, bt.Segments = append(bt.Positions, int32(i%s)), append(bt.Segments, 1)
	}
	return bt
}

// BenchmarkStep is the walkthrough's training step on the embedded model: NF4,
// LoRA r=64 on q and v, dropout 0.1, batch 4, float32. Compare with transformers
// and PEFT at the same shapes (scripts/bench).
func BenchmarkStep(b *testing.B) {
	dir := randomModel(b, embeddedConfig)
	for _, memory := range []string{MemorySave, MemoryRecompute} {
		for _, resident := range []int64{0, -1} {
			base := loadDir(b, dir, LoadOptions{Quant: QuantNF4, ResidentBytes: resident})
			a, err := lora.New(lora.Config{R: 64, Alpha: 16, TargetModules: []string{"q_proj", "v_proj"}}, base.Config(), 1)
			if err != nil {
				b.Fatal(err)
			}
			for _, s := range []int{64, 128, 256} {
				b.Run(fmt.Sprintf("S=%d/%s/resident=%t", s, memory, resident == 0), func(b *testing.B) {
					tr := newTrainer(b, base, a, TrainOptions{Dropout: 0.1, MaxGradNorm: 0.3, WeightDecay: 0.001, Memory: memory})
					micro := []*batch.Batch{randomBatch(4, s, base.Config().VocabSize)}
					step := func() {
						if _, err := tr.Step(micro, 2e-4); err != nil {
							b.Fatal(err)
						}
					}
					step() // compiles
					for b.Loop() {
						step()
					}
					b.ReportMetric(float64(4*s*b.N)/b.Elapsed().Seconds(), "tokens/s")
				})
			}
		}
	}
}

// BenchmarkDecode is one token of the embedded model with its adapter on.
func BenchmarkDecode(b *testing.B) {
	base := loadDir(b, randomModel(b, embeddedConfig), LoadOptions{Quant: QuantNF4})
	a, err := lora.New(lora.Config{R: 64, Alpha: 16, TargetModules: []string{"q_proj", "v_proj"}}, base.Config(), 1)
	if err != nil {
		b.Fatal(err)
	}
	ad, err := base.Upload(a)
	if err != nil {
		b.Fatal(err)
	}
	d, err := base.NewDecoder(ad, 256)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	token := func(i int) {
		var err error
		if i%200 == 0 {
			_, err = d.Prefill([]int32{1, 5, 9})
		} else {
			_, err = d.Step(int32(i % 100))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	token(0) // compiles
	token(1)
	for i := 0; b.Loop(); i++ {
		token(i)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}
