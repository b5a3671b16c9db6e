package layerwise

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// deeper is b with its layers several times over. Freeing b frees it.
func deeper(b *Base, times int) *Base {
	c := *b.cfg
	c.NumLayers *= times
	return &Base{dev: b.dev, cfg: &c, opt: b.opt, dt: b.dt, residual: b.residual, prefix: b.prefix, embed: b.embed, head: b.head, norm: b.norm,
		layers: slices.Repeat(b.layers, times), bytes: b.bytes, headBytes: b.headBytes, choice: b.choice}
}

// randomAdapter has values in B, too, so that every gradient is one.
func randomAdapter(t *testing.T, b *Base, targets ...string) *lora.Adapter {
	t.Helper()
	a, err := lora.New(lora.Config{R: 4, Alpha: 8, TargetModules: targets}, b.cfg, 3)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 5))
	for _, name := range a.Names() {
		m := a.Modules[name].B
		for i := range m {
			m[i] = float32(rng.NormFloat64()) * 0.05
		}
	}
	return a
}

// A plan compiles all that its step runs, runs nothing, gives back all that it took
// and leaves the trainer as it was.
func TestFitPlansTheStep(t *testing.T) {
	b := deeper(loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{Quant: QuantNF4}), 3)
	b.dev = &device{be: b.dev.be, cpu: b.dev.cpu, programs: map[string]*program{}, numbers: map[int32]compute.Buffer{}} // nothing compiled yet
	a := randomAdapter(t, b, model.Projections...)
	micro := []*batch.Batch{packedRows(t, b.cfg.VocabSize, 96, []int{50, 30, 16}, []int{5, 1, 20, 33}), packedRows(t, b.cfg.VocabSize, 96, []int{96}, []int{40})}
	var flats [][]float32
	for _, o := range []TrainOptions{{Memory: MemorySave}, {Memory: MemoryRecompute, Kept: 1}, {Memory: MemoryRecompute}, {Memory: MemoryOffload}, {Memory: MemoryOffload, Chunk: 64}, {Memory: MemoryOffload, KeepAttention: true}, {Memory: MemoryOffload, KeepAttention: true, Chunk: 64, Kept: 2}} {
		tr := newTrainer(t, b, a, o)
		flat, zeros := tr.ad.flat, tr.zeros[0]
		known := len(b.dev.programs)
		var told []string
		f, err := tr.Fit(micro, func(name string) { told = append(told, name) })
		if err != nil {
			t.Fatal(err)
		}
		if f.Programs != len(told) || f.Programs != len(b.dev.programs)-known || f.Calls < 3*len(b.layers) {
			t.Errorf("%s: %d programs, %d of them told of (%q), %d calls", o.Memory, f.Programs, len(told), told, f.Calls)
		}
		known = len(b.dev.programs)
		if r, err := tr.Step(micro, 1e-3); err != nil || r.Skipped {
			t.Fatalf("%+v, %v", r, err)
		}
		if n := len(b.dev.programs); n != known {
			t.Errorf("%s: the step compiled %d programs that were not planned", o.Memory, n-known)
		}
		if tr.zeros[0] != zeros || tr.ad.flat == flat {
			t.Errorf("%s: the plan took the trainer's tensors, or the step did not", o.Memory)
		}
		if sum := f.Weights + f.Adapter + f.Optimizer + f.Other + f.Saved + f.Working; sum != f.Peak || f.Limit != 0 || !f.OK() {
			t.Errorf("%s: parts add up to %d, the peak is %d: %s", o.Memory, sum, f.Peak, f)
		}
		values, err := download[float32](tr.ad.flat, tr.ad.layout.size)
		if err != nil {
			t.Fatal(err)
		}
		flats = append(flats, values)
		near(t, f.Policy(), values, flats[0], 1e-4, 1e-3)
		if (f.Host > 0) != (o.Memory == MemoryOffload) {
			t.Errorf("%s: %d bytes on the host", o.Memory, f.Host)
		}
		p := &plan{real: b.dev, numbers: map[int32]*plannedTensor{}}
		dry := tr.planned(p, tr.opt)
		if _, err := dry.Step(micro, 1e-3); err != nil {
			t.Fatal(err)
		}
		left := int64(0)
		for _, n := range p.numbers {
			left += bytesOf(n.shape)
		}
		// Adapter and states were donated and made again.
		if p.live != left || p.host != 0 {
			t.Errorf("%s: %d bytes and %d of the host are left behind a step", o.Memory, p.live-left, p.host)
		}
	}
}

// What a layer keeps, counted by hand: q and o [T, H·d], k and v [T, K·d], x2 [T, D], gate
// and up [T, F], float32, and the log-sum-exp [T, H]; and its input.
func TestFitCountsResiduals(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{})
	tr := newTrainer(t, b, loadAdapter(t, "lora", "gqa_qv"), TrainOptions{Memory: MemorySave})
	micro := []*batch.Batch{packedRows(t, b.cfg.VocabSize, 512, []int{512}, []int{512})}
	f, err := tr.Fit(micro, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, tokens := b.cfg, 1024
	perToken := 4 * (2*c.NumHeads*c.HeadDim + 2*c.NumKVHeads*c.HeadDim + 2*c.HiddenSize + 2*c.IntermediateSize + c.NumHeads + 2*4 /* t of two adapters of rank 4 */)
	want := int64(c.NumLayers * tokens * perToken)
	// Beside it the mask, tables and the batch: those grow with other things.
	context := int64(2*512*512*4 + tokens*c.HeadDim*4 + 6*4*tokens)
	if got := f.Saved - context; float64(got) < 0.9*float64(want) || float64(got) > 1.15*float64(want) {
		t.Errorf("%d bytes saved, want about %d and %d around them: %s", f.Saved, want, context, f)
	}
}

// Choose goes to leaner policies as the device gets smaller and keeps what it can;
// the trainer then trains by it. What fits in no way is refused with what to do.
func TestChoose(t *testing.T) {
	b := deeper(loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{}), 16)
	defer func() { b.dev.limit = 0 }()
	a := randomAdapter(t, b, "q_proj", "v_proj")
	micro := []*batch.Batch{packedRows(t, b.cfg.VocabSize, 512, []int{512}, []int{512})}
	least := int64(math.MaxInt64)
	for _, want := range []TrainOptions{{Memory: MemorySave}, {Memory: MemoryRecompute, KeepAttention: true, Kept: 5}, {Memory: MemoryRecompute, KeepAttention: true, Kept: 1},
		{Memory: MemoryRecompute, KeepAttention: true}, {Memory: MemoryRecompute}, {Memory: MemoryOffload, KeepAttention: true, Chunk: 1024}, {Memory: MemoryOffload, Chunk: 1024}} {
		f, err := newTrainer(t, b, a, want).Fit(micro, nil)
		if err != nil {
			t.Fatal(err)
		}
		if f.Peak+f.Block >= least || f.Block <= 0 {
			t.Errorf("%s takes %d and its largest block %d, the policy before %d", f.Policy(), f.Peak, f.Block, least)
		}
		least = f.Peak + f.Block
		b.dev.limit = int64(float64(least)/FitShare) + 1
		tr := newTrainer(t, b, a, TrainOptions{})
		got, err := tr.Choose(micro, nil)
		if err != nil {
			t.Fatal(err)
		}
		// More kept layers than asked for are fine where they are gone by the time of the peak.
		if got.Memory != f.Memory || got.KeepAttention != f.KeepAttention || got.Kept < f.Kept || got.Kept > f.Kept+1 || !got.OK() || got.Refusal() != nil {
			t.Errorf("%s, want %s", got, f.Policy())
		}
		// In a device that it fills, what would still fit is about what was tried.
		got.Limit = int64(float64(got.Peak)/FitShare) + 1
		if n := got.LargestBatch(); n != 2 {
			t.Errorf("%s: %d rows, want 2", got, n)
		}
		if n := got.LargestLength(); n < 448 || n > 512 {
			t.Errorf("%s: %d tokens, want 512 or a little less", got, n)
		}
		b.dev.limit = 0
		if want.Memory != MemoryOffload || want.KeepAttention {
			continue
		}
		if _, err := tr.Step(micro, 1e-3); err != nil {
			t.Fatal(err)
		}
	}
	b.dev.limit = least / 2
	f, err := newTrainer(t, b, a, TrainOptions{}).Choose(micro, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err = f.Refusal(); !errors.Is(err, ErrDoesNotFit) {
		t.Fatalf("%v, want a refusal", err)
	}
	for _, want := range []string{"B=2×S=512", "missing", "weights", "set "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	t.Log(err)
}
