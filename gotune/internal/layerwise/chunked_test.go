package layerwise

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

func TestChunksOf(t *testing.T) {
	for _, tt := range []struct {
		t, limit int
		want     []rowRange
	}{
		{8192, 4096, []rowRange{{0, 4096}, {4096, 4096}}},
		{8200, 4096, []rowRange{{0, 2752}, {2752, 2752}, {5504, 2696}}},
		{100, 4096, []rowRange{{0, 100}}},
		{20, 7, []rowRange{{0, 7}, {7, 7}, {14, 6}}},
	} {
		if got := chunksOf(tt.t, tt.limit); !slices.Equal(got, tt.want) {
			t.Errorf("chunksOf(%d, %d) = %v, want %v", tt.t, tt.limit, got, tt.want)
		}
	}
}

// Layers by chunks, and with inputs that went to the host, train as whole ones: all
// projections, DoRA, two micro-batches a step, 4-bit weights, packed rows on fused and plain
// attention.
func TestChunkedSteps(t *testing.T) {
	type setup struct {
		name, model, adapter, quant string
		fused                       bool
	}
	for _, tt := range []setup{
		{"all projections", "gqa", "gqa_all", QuantNone, false},
		{"dora", "mha", "mha_dora", QuantNF4, false},
		{"fused", "gqa", "gqa_qv", QuantNone, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := loadDir(t, oracle.Dir(t, "llama", tt.model), LoadOptions{Quant: tt.quant})
			if tt.fused {
				b.choice = &attentionChoice{fused: plainFused{}}
			}
			a := loadAdapter(t, "lora", tt.adapter)
			micro := []*batch.Batch{packedRows(t, b.cfg.VocabSize, 96, []int{50, 30, 16}, []int{5, 1, 20, 33}), packedRows(t, b.cfg.VocabSize, 64, []int{64})}
			var want []float32
			for _, o := range []TrainOptions{{Memory: MemorySave}, {Memory: MemoryRecompute, Chunk: 70}, {Memory: MemoryOffload, Chunk: 64}, {Memory: MemoryOffload, Chunk: 64, Kept: 1}, {Memory: MemoryOffload, Chunk: 999},
				{Memory: MemoryOffload, KeepAttention: true}, {Memory: MemoryRecompute, KeepAttention: true, Chunk: 70}} {
				o.Dropout, o.Seed, o.MaxGradNorm = 0.1, 3, 0.3
				how := fmt.Sprintf("%s chunk %d kept %d attention %t", o.Memory, o.Chunk, o.Kept, o.KeepAttention)
				tr := newTrainer(t, b, a, o)
				for range 2 {
					if r, err := tr.Step(micro, 1e-3); err != nil || r.Skipped {
						t.Fatalf("%s: %+v, %v", how, r, err)
					}
				}
				got, err := download[float32](tr.ad.flat, tr.ad.layout.size)
				if err != nil {
					t.Fatal(err)
				}
				if want == nil {
					want = got
				}
				near(t, how, got, want, 1e-4, 1e-3)
			}
		})
	}
}
