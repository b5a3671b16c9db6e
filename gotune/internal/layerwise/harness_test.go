package layerwise

import (
	"context"
	"math"
	"testing"

	"github.com/gomlx/compute"

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

func openCPU(t testing.TB) compute.Backend {
	t.Helper()
	be, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	return be
}

// loadDir loads the model in dir for the length of the test.
func loadDir(t testing.TB, dir string, o LoadOptions) *Base {
	t.Helper()
	ck, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	b, err := Load(context.Background(), openCPU(t), ck, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Free)
	return b
}

// goldenBatch is the batch of a golden file: one document a row, padded on the right.
func goldenBatch(g golden) *batch.Batch {
	ids, shape := g.int32s("input_ids")
	mask, _ := g.int32s("attention_mask")
	labels, _ := g.int32s("labels")
	return batchOf(ids, mask, labels, shape[0], shape[1])
}

func batchOf(ids, mask, labels []int32, rows, length int) *batch.Batch {
	positions := make([]int32, len(ids))
	for i := range positions {
		if mask[i] == 1 {
			positions[i] = int32(i % length)
		}
	}
	return &batch.Batch{B: rows, S: length, IDs: ids, Labels: labels, Positions: positions, Segments: mask}
}

func loadAdapter(t testing.TB, elem ...string) *lora.Adapter {
	t.Helper()
	a, err := lora.Load(oracle.Dir(t, elem...))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newTrainer(t testing.TB, b *Base, a *lora.Adapter, o TrainOptions) *Trainer {
	t.Helper()
	tr, err := b.NewTrainer(a, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Free)
	return tr
}

// gradientOf returns the gradient of the batch's mean loss for each adapter
// tensor, by PEFT name.
func gradientOf(t testing.TB, tr *Trainer, bt *batch.Batch) map[string][]float32 {
	t.Helper()
	g := &gradients{sums: append([]compute.Buffer(nil), tr.zeros...), shared: true}
	defer g.free()
	if err := tr.accumulate(g, bt, 0, 1/float64(bt.Supervised())); err != nil {
		t.Fatal(err)
	}
	lay := tr.ad.layout
	all := make([]float32, lay.size)
	for i, s := range lay.layers {
		if s.size() == 0 {
			continue
		}
		v, err := download[float32](g.sums[i], s.size())
		if err != nil {
			t.Fatal(err)
		}
		copy(all[lay.offsets[i]:], v)
	}
	out := map[string][]float32{}
	lay.each(tr.base.cfg, func(name string, shape []int, at int) { out[name] = all[at : at+product(shape)] })
	return out
}

// near fails when got and want differ by more than abs + rel·|want| anywhere.
func near(t testing.TB, what string, got, want []float32, abs, rel float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d values, want %d", what, len(got), len(want))
		return
	}
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= abs+rel*math.Abs(float64(want[i]))) {
			t.Errorf("%s[%d] is %g, want %g", what, i, got[i], want[i])
			return
		}
	}
}
