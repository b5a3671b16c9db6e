package layerwise

import (
	"context"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// GoMLX's Go backend, which needs no plugin, trains and generates as XLA does: losses of
// steps with each memory policy, a loss in several chunks, and greedy answers.
func TestGoBackend(t *testing.T) {
	be, err := backend.Open(backend.Go)
	if err != nil {
		t.Fatal(err)
	}
	dir := oracle.Dir(t, "llama", "gqa")
	ck, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	load := LoadOptions{Quant: QuantNF4, DoubleQuant: true, ResidentBytes: -1}
	goBase, err := Load(context.Background(), be, ck, load, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer goBase.Free()
	xla := loadDir(t, dir, load)
	bt := packedRows(t, xla.cfg.VocabSize, 96, []int{96}, []int{40, 30})
	losses := func(b *Base, o TrainOptions) (out []float32) {
		b.headBytes = 8 * b.cfg.VocabSize * 48 // several chunks
		o.Dropout, o.Seed, o.MaxGradNorm = 0.1, 3, 0.3
		tr := newTrainer(t, b, randomAdapter(t, b, "q_proj", "v_proj", "down_proj"), o)
		for range 3 {
			res, err := tr.Step([]*batch.Batch{bt}, 1e-2)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, float32(res.Loss), float32(res.GradNorm))
		}
		return out
	}
	want := losses(xla, TrainOptions{})
	for _, o := range []TrainOptions{{}, {Memory: MemoryRecompute}, {Memory: MemoryOffload, Chunk: 64}} {
		near(t, "losses and norms of "+o.Memory, losses(goBase, o), want, 1e-4, 1e-4)
	}
	answer := func(b *Base) (ids []int32) {
		d, err := b.NewDecoder(nil, 64)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, err := d.Prefill(bt.IDs[:20]); err != nil {
			t.Fatal(err)
		}
		if err := d.Greedy(24, func(id int32) (bool, error) { ids = append(ids, id); return true, nil }); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if got, want := answer(goBase), answer(xla); !slices.Equal(got, want) {
		t.Errorf("answer %v, XLA's %v", got, want)
	}
}
