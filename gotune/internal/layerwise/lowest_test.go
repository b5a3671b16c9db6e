package layerwise

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/model"
)

// The lowest trained layer, whose backward program leaves dx out, has the same gradients
// as the program with dx gives: that runs in the same layer as soon as one
// below is trained, here by a module with B = 0, which changes no value. It is one program
// more, the plan knows it, and it gives back what it took.
func TestLowestLayer(t *testing.T) {
	b := loadDir(t, randomModel(t, strings.Replace(float8Config, `"num_hidden_layers":2`, `"num_hidden_layers":3`, 1)), LoadOptions{Quant: QuantNF4})
	b.dev = &device{be: b.dev.be, cpu: b.dev.cpu, programs: map[string]*program{}, numbers: map[int32]compute.Buffer{}} // nothing compiled yet
	micro := []*batch.Batch{packedRows(t, b.cfg.VocabSize, 64, []int{64}, []int{30, 20}), packedRows(t, b.cfg.VocabSize, 64, []int{5, 40}, []int{64})}
	save, parts := TrainOptions{Memory: MemorySave}, TrainOptions{Memory: MemoryOffload, Chunk: 64}
	again, attention := TrainOptions{Memory: MemoryRecompute}, TrainOptions{Memory: MemoryRecompute, KeepAttention: true}
	with := func(o TrainOptions, f func(o *TrainOptions)) TrainOptions { f(&o); return o }
	eight := func(o *TrainOptions) { o.FP8 = FP8Both }
	kept := func(o *TrainOptions) { o.KeepAttention = true }
	for _, tt := range []struct {
		targets  []string
		dora     bool
		policies []TrainOptions
	}{
		{[]string{"q_proj", "v_proj"}, false, []TrainOptions{save, again, attention, parts, with(save, eight), with(parts, eight)}},
		{model.Projections, true, []TrainOptions{save, with(parts, kept)}},
		{[]string{"down_proj"}, false, []TrainOptions{save, again, parts, with(parts, kept)}},
	} {
		upper := randomAdapter(t, b, tt.targets...)
		for i := range b.layers {
			for _, proj := range tt.targets {
				name := b.cfg.Module(i, proj)
				if m := upper.Modules[name]; i == 0 {
					delete(upper.Modules, name)
				} else if tt.dora {
					m.Magnitude = slices.Repeat([]float32{0.4}, m.Out)
				}
			}
		}
		whole := &lora.Adapter{Config: upper.Config, Modules: maps.Clone(upper.Modules)}
		below := b.cfg.Module(0, "o_proj")
		whole.Modules[below] = randomAdapter(t, b, "o_proj").Modules[below]
		clear(whole.Modules[below].B)
		for _, o := range tt.policies {
			o.Dropout, o.Seed = 0.1, 3
			how := fmt.Sprintf("%v dora %t %s chunk %d attention %t fp8 %q", tt.targets, tt.dora, o.Memory, o.Chunk, o.KeepAttention, o.FP8)
			want, wantLoss := twoPasses(t, newTrainer(t, b, whole, o), micro)
			tr := newTrainer(t, b, upper, o)
			before := lowestPrograms(b)
			f, err := tr.Fit(micro, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n := lowestPrograms(b) - before; n != 1 {
				t.Errorf("%s: %d programs for the lowest layer, want 1 (of %d compiled)", how, n, f.Programs)
			}
			known := len(b.dev.programs)
			got, loss := twoPasses(t, tr, micro)
			if n := len(b.dev.programs) - known; n != 0 {
				t.Errorf("%s: %d programs were not planned", how, n)
			}
			if !slices.Equal(loss, wantLoss) || loss[0] <= 0 {
				t.Errorf("%s: losses %v, want %v", how, loss, wantLoss)
			}
			// They are the same bits; but where all of a layer is made again in one program, XLA
			// fuses attention's forward pass otherwise once there is no backward pass of it.
			exact := o.Memory != MemoryRecompute || slices.Contains(tt.targets, "q_proj")
			for i := 1; i < len(got); i++ {
				if !slices.ContainsFunc(got[i], func(x float32) bool { return x != 0 }) || exact && !slices.Equal(got[i], want[i]) {
					t.Errorf("%s: layer %d has another gradient than by the program with dx, or none", how, i)
				}
				near(t, how, got[i], want[i], 1e-5, 1e-5)
			}
			p := &plan{real: b.dev, numbers: map[int32]*plannedTensor{}}
			if _, err := tr.planned(p, tr.opt).Step(micro, 0); err != nil {
				t.Fatal(err)
			}
			left := int64(0)
			for _, n := range p.numbers {
				left += bytesOf(n.shape)
			}
			if p.live != left || p.host != 0 {
				t.Errorf("%s: %d bytes and %d of the host are left behind a step", how, p.live-left, p.host)
			}
		}
	}
}

// lowestPrograms counts the programs of lowest layers.
func lowestPrograms(b *Base) (n int) {
	for key := range b.dev.programs {
		if strings.Contains(key, " lowest") {
			n++
		}
	}
	return n
}

// twoPasses returns each layer's gradient after two micro-batches, and their losses.
func twoPasses(t *testing.T, tr *Trainer, micro []*batch.Batch) (sums [][]float32, losses []float32) {
	t.Helper()
	g := &gradients{sums: slices.Clone(tr.zeros), shared: true}
	defer g.free()
	for i, bt := range micro {
		if err := tr.accumulate(g, bt, i, 1); err != nil {
			t.Fatal(err)
		}
		v, err := download[float32](g.losses[i], 1)
		if err != nil {
			t.Fatal(err)
		}
		losses = append(losses, v...)
	}
	for i, s := range tr.ad.layout.layers {
		var v []float32
		if g.sums[i] != nil {
			var err error
			if v, err = download[float32](g.sums[i], s.size()); err != nil {
				t.Fatal(err)
			}
		}
		sums = append(sums, v)
	}
	return sums, losses
}
