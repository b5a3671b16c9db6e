package layerwise

import (
	"bytes"
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// With states that leave the device between updates a run is the same, bit for bit,
// saved and restored in the middle; they are on the host during a step's backward pass
// and the plan counts on that.
func TestPagedStates(t *testing.T) {
	b := deeper(loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{}), 2)
	a := randomAdapter(t, b, "q_proj", "v_proj")
	micro := []*batch.Batch{packedRows(t, b.cfg.VocabSize, 64, []int{50, 14}, []int{64})}
	steps := func(tr *Trainer, n int) {
		t.Helper()
		for range n {
			if r, err := tr.Step(micro, 1e-3); err != nil || r.Skipped {
				t.Fatalf("%+v, %v", r, err)
			}
		}
	}
	var want []byte
	peaks := map[string]int64{}
	for _, optim := range []string{"adamw_torch", "paged_adamw_32bit"} {
		o := TrainOptions{Memory: MemoryOffload, Optim: optim, Dropout: 0.1, Seed: 3}
		tr := newTrainer(t, b, a, o)
		for range 2 { // before the first step, and with the states on the host
			f, err := tr.Fit(micro, nil)
			if err != nil {
				t.Fatal(err)
			}
			if sum := f.Weights + f.Adapter + f.Optimizer + f.Other + f.Saved + f.Working; sum != f.Peak || f.Saved < 0 {
				t.Errorf("%s: parts add up to %d, the peak is %d: %s", optim, sum, f.Peak, f.Account())
			}
			if before, ok := peaks[optim]; ok && before != f.Peak {
				t.Errorf("%s: a step takes %d at first and %d later", optim, before, f.Peak)
			}
			peaks[optim] = f.Peak
			steps(tr, 1)
		}
		state, err := tr.State()
		if err != nil {
			t.Fatal(err)
		}
		second := newTrainer(t, b, a, o)
		steps(second, 1)
		if err := second.Restore(state); err != nil {
			t.Fatal(err)
		}
		steps(tr, 1)
		steps(second, 1)
		for _, tr := range []*Trainer{tr, second} {
			state, err := tr.State()
			if err != nil {
				t.Fatal(err)
			}
			var all []byte
			for _, ts := range state {
				all = append(all, ts.Data...)
			}
			if want == nil {
				want = all
			}
			if !bytes.Equal(all, want) {
				t.Errorf("%s: other values than without", optim)
			}
		}
	}
	if saved, states := peaks["adamw_torch"]-peaks["paged_adamw_32bit"], 2*int64(4*newTrainer(t, b, a, TrainOptions{}).ad.layout.size); saved < states/2 {
		t.Errorf("paging saves %d bytes of %d", saved, states)
	}
}
