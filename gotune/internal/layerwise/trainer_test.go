package layerwise

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// A run that was saved and restored goes on as the unbroken one, bit for bit,
// dropout masks included.
func TestRestoredRunEqualsUnbroken(t *testing.T) {
	const name = "t4_gqa_all_cosine_nf4_nested"
	var want trajectory
	oracle.JSON(t, &want, "lora", name, "trajectory.json")
	b := loadDir(t, oracle.Dir(t, want.Model), LoadOptions{Quant: QuantNF4, DoubleQuant: true})
	steps := goldenSteps(t, "lora", name, "batches.safetensors")[:6]
	start := loadAdapter(t, "lora", name, "init")
	o := TrainOptions{Dropout: 0.1, Seed: 7, MaxGradNorm: 0.3, WeightDecay: 0.001}
	whole := newTrainer(t, b, start, o)
	takeSteps(t, whole, steps)
	first := newTrainer(t, b, start, o)
	takeSteps(t, first, steps[:3])
	saved, err := first.State()
	if err != nil {
		t.Fatal(err)
	}
	second := newTrainer(t, b, start, o)
	if err := second.Restore(saved); err != nil {
		t.Fatal(err)
	}
	takeSteps(t, second, steps[3:])
	a, err := whole.State()
	if err != nil {
		t.Fatal(err)
	}
	z, err := second.State()
	if err != nil {
		t.Fatal(err)
	}
	for i := range a {
		if a[i].Name != z[i].Name || !bytes.Equal(a[i].Data, z[i].Data) {
			t.Errorf("%s differs from %s after the resumed run", z[i].Name, a[i].Name)
		}
	}
	if err := second.Restore(saved[1:]); err == nil {
		t.Error("a state without its first tensor was restored")
	}
}

func takeSteps(t *testing.T, tr *Trainer, steps [][]*batch.Batch) {
	t.Helper()
	for _, micro := range steps {
		if r, err := tr.Step(micro, 1e-3); err != nil || r.Skipped {
			t.Fatalf("%+v, %v", r, err)
		}
	}
}

// A mask keeps a share 1−p, scales by 1/(1−p), differs between keys, layers and
// projections, and is the same when remade.
func TestDropoutMask(t *testing.T) {
	const n, p = 1 << 18, 0.1
	mask := func(k0, k1, layer uint32, proj int) []float32 {
		out := MustExecOnce(openCPU(t), func(k0, k1, layer *Node) *Node {
			r := &dropoutRNG{p: p, k0: k0, k1: k1, layer: layer}
			return r.apply(Ones(k0.Graph(), shapeOf(dtypes.Float32, n/64, 64)), proj)
		}, k0, k1, layer)
		return tensors.MustCopyFlatData[float32](out)
	}
	k0, k1 := dropoutKeys(1, 2, 0)
	a := mask(k0, k1, 3, 0)
	kept := 0
	for _, v := range a {
		if v != 0 {
			kept++
			if math.Abs(float64(v)-1/(1-p)) > 1e-6 {
				t.Fatalf("a kept value is scaled by %g", v)
			}
		}
	}
	sigma := math.Sqrt(n * p * (1 - p))
	if d := float64(kept) - n*(1-p); math.Abs(d) > 5*sigma {
		t.Errorf("%d of %d kept: %.1f standard deviations from the mean", kept, n, d/sigma)
	}
	// Variance of block sums: a generator with runs or stripes has too much or too little.
	var sum2 float64
	for at := 0; at < n; at += 256 {
		s := -256 * (1 - p)
		for _, v := range a[at : at+256] {
			if v != 0 {
				s++
			}
		}
		sum2 += s * s
	}
	if v := sum2 / (n / 256) / (256 * p * (1 - p)); v < 0.8 || v > 1.25 {
		t.Errorf("variance of block sums is %.2f of a binomial's", v)
	}
	if !slices.Equal(a, mask(k0, k1, 3, 0)) {
		t.Error("the mask remade is another")
	}
	j0, j1 := dropoutKeys(1, 3, 0)
	m0, m1 := dropoutKeys(1, 2, 1)
	for i, other := range [][]float32{mask(k0, k1, 3, 1), mask(k0, k1, 3, 2), mask(k0, k1, 4, 0), mask(j0, j1, 3, 0), mask(m0, m1, 3, 0)} {
		both := 0
		for k := range a {
			if a[k] == 0 && other[k] == 0 {
				both++
			}
		}
		s := math.Sqrt(n * p * p * (1 - p*p))
		if d := float64(both) - n*p*p; math.Abs(d) > 5*s {
			t.Errorf("mask %d drops %d of the same elements: %.1f standard deviations from independent", i, both, d/s)
		}
	}
}

// With dropout the gradients are those of the loss that the same masks give, in
// all memory policies: directional finite differences of the forward pass.
func TestDropoutGradient(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{})
	bt := goldenBatch(openGolden(t, "lora", "gqa_all", "expect.safetensors"))
	a := loadAdapter(t, "lora", "gqa_all")
	var first map[string][]float32
	for _, o := range []TrainOptions{{Memory: MemorySave}, {Memory: MemoryRecompute}, {Memory: MemoryRecompute, Kept: 1}, {Memory: MemoryRecompute, Kept: 99},
		{Memory: MemoryOffload}, {Memory: MemoryOffload, Kept: 1}, {Memory: MemoryRecompute, Chunk: 7}, {Memory: MemoryOffload, Chunk: 16},
		{Memory: MemoryRecompute, KeepAttention: true}, {Memory: MemoryOffload, KeepAttention: true, Chunk: 7}} {
		o.Dropout, o.Seed = 0.3, 5
		memory := fmt.Sprint(o.Memory, " kept ", o.Kept, " chunk ", o.Chunk, " attention ", o.KeepAttention)
		tr := newTrainer(t, b, a, o)
		grad := gradientOf(t, tr, bt)
		if first == nil {
			first = grad
			checkDirections(t, b, a, tr, bt, grad)
			continue
		}
		for n, g := range grad {
			near(t, memory+" "+n, g, first[n], 1e-6, 1e-4)
		}
	}
}

// The layers that keep their residuals are the last.
func TestKeeps(t *testing.T) {
	for _, tt := range []struct {
		o    TrainOptions
		want []keep
	}{
		{TrainOptions{Memory: MemorySave}, []keep{keepResiduals, keepResiduals, keepResiduals}},
		{TrainOptions{Memory: MemoryRecompute}, []keep{keepNothing, keepNothing, keepNothing}},
		{TrainOptions{Memory: MemoryRecompute, Kept: 2}, []keep{keepNothing, keepResiduals, keepResiduals}},
		{TrainOptions{Memory: MemoryRecompute, Kept: 9}, []keep{keepResiduals, keepResiduals, keepResiduals}},
	} {
		if got := tt.o.keeps(3); !slices.Equal(got, tt.want) {
			t.Errorf("%s, %d kept: %v, want %v", tt.o.Memory, tt.o.Kept, got, tt.want)
		}
	}
	for _, o := range []TrainOptions{{Kept: -1}, {Chunk: -1}, {Memory: "swap"}} {
		if err := o.validate(); err == nil {
			t.Errorf("%+v passes", o)
		}
	}
}

// checkDirections compares grad·u with (loss(a+εu) − loss(a−εu))/2ε.
func checkDirections(t *testing.T, b *Base, a *lora.Adapter, tr *Trainer, bt *batch.Batch, grad map[string][]float32) {
	t.Helper()
	lay := tr.ad.layout
	flat := lay.flatten(b.cfg, a)
	g := make([]float32, lay.size)
	lay.each(b.cfg, func(name string, shape []int, at int) { copy(g[at:], grad[name]) })
	rng := rand.New(rand.NewPCG(3, 4))
	for range 4 {
		const eps = 3e-3
		up, down, want := slices.Clone(flat), slices.Clone(flat), 0.0
		for i := range flat {
			u := rng.NormFloat64()
			want += u * float64(g[i])
			up[i], down[i] = up[i]+float32(eps*u), down[i]-float32(eps*u)
		}
		got := (dropoutLoss(t, tr, bt, up) - dropoutLoss(t, tr, bt, down)) / (2 * eps)
		if math.Abs(got-want) > 0.02*math.Abs(want)+0.02 {
			t.Errorf("slope %g by differences, %g by the gradient", got, want)
		}
	}
}

// dropoutLoss is the mean loss at other trained values with the trainer's masks.
func dropoutLoss(t *testing.T, tr *Trainer, bt *batch.Batch, flat []float32) float64 {
	t.Helper()
	b, keepFlat := tr.base, tr.ad.flat
	buf, err := b.dev.upload(flat, dtypes.Float32, len(flat))
	if err != nil {
		t.Fatal(err)
	}
	tr.ad.flat = buf
	defer func() { drop(buf); tr.ad.flat = keepFlat }()
	g := &gradients{sums: append([]compute.Buffer(nil), tr.zeros...), shared: true}
	defer g.free()
	if err := tr.accumulate(g, bt, 0, 1); err != nil {
		t.Fatal(err)
	}
	v, err := download[float32](g.losses[0], 1)
	if err != nil {
		t.Fatal(err)
	}
	return float64(v[0]) / float64(bt.Supervised())
}

// bfloat16 and float16 compute give float32's loss and gradient direction within
// their precision, and train.
func TestHalfPrecision(t *testing.T) {
	const name = "gqa_qv"
	dir := oracle.Dir(t, "llama", "gqa")
	bt := goldenBatch(openGolden(t, "lora", name, "expect.safetensors"))
	a := loadAdapter(t, "lora", name)
	exact := newTrainer(t, loadDir(t, dir, LoadOptions{}), a, TrainOptions{})
	want := gradientOf(t, exact, bt)
	sum, n, err := exact.Evaluate(bt)
	if err != nil {
		t.Fatal(err)
	}
	for dt, tol := range map[string]float64{"bfloat16": 0.05, "float16": 0.006} {
		tr := newTrainer(t, loadDir(t, dir, LoadOptions{ComputeDType: dt}), a, TrainOptions{})
		got, _, err := tr.Evaluate(bt)
		if err != nil {
			t.Fatal(err)
		}
		if d := math.Abs(got-sum) / float64(n); d > tol {
			t.Errorf("%s: loss differs by %g", dt, d)
		}
		var diff, norm float64
		for n, g := range gradientOf(t, tr, bt) {
			for i := range g {
				diff += math.Pow(float64(g[i]-want[n][i]), 2)
				norm += math.Pow(float64(want[n][i]), 2)
			}
		}
		if d := math.Sqrt(diff / norm); !(d < 2*tol) {
			t.Errorf("%s: gradients differ by %g of their norm", dt, d)
		}
		r, err := tr.Step([]*batch.Batch{bt}, 1e-4)
		if err != nil {
			t.Fatal(err)
		}
		if r.Skipped || (r.LossScale > 0) != (dt == "float16") {
			t.Errorf("%s: step %+v", dt, r)
		}
		t.Logf("%s: loss %+.4f, gradients %.4f", dt, (got-sum)/float64(n), math.Sqrt(diff/norm))
	}
}

// A float16 step that overflows changes nothing, halves the scale and says so.
func TestOverflowIsSkipped(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{ComputeDType: "float16"})
	bt := goldenBatch(openGolden(t, "lora", "gqa_qv", "expect.safetensors"))
	a := loadAdapter(t, "lora", "gqa_qv")
	tr := newTrainer(t, b, a, TrainOptions{LossScale: 1e12})
	r, err := tr.Step([]*batch.Batch{bt}, 1e-3)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Skipped || r.LossScale != 1e12 || tr.scale.value != 5e11 || tr.updates != 0 {
		t.Errorf("step %+v, next scale %g, %d updates", r, tr.scale.value, tr.updates)
	}
	got, err := tr.Adapter()
	if err != nil {
		t.Fatal(err)
	}
	for n, m := range a.Modules {
		near(t, n, got.Modules[n].A, m.A, 0, 0)
		near(t, n, got.Modules[n].B, m.B, 0, 0)
	}
}

// A batch without labels is skipped, and wrong batches and options are refused.
func TestStepRefusals(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{})
	bt := goldenBatch(openGolden(t, "lora", "gqa_qv", "expect.safetensors"))
	a := loadAdapter(t, "lora", "gqa_qv")
	tr := newTrainer(t, b, a, TrainOptions{})
	none := *bt
	none.Labels = slices.Repeat([]int32{batch.Ignore}, len(bt.Labels))
	if r, err := tr.Step([]*batch.Batch{&none}, 1e-3); err != nil || !r.Skipped {
		t.Errorf("a batch without labels: %+v, %v", r, err)
	}
	wrong := *bt
	wrong.IDs = slices.Clone(bt.IDs)
	wrong.IDs[0] = int32(b.Config().VocabSize)
	if _, err := tr.Step([]*batch.Batch{&wrong}, 1e-3); err == nil {
		t.Error("a token outside of the vocabulary was accepted")
	}
	for _, o := range []TrainOptions{{Dropout: 1}, {Optim: "adamw_bnb_8bit"}, {Optim: "lion"}, {Memory: "some"}, {Beta1: 1}} {
		if _, err := b.NewTrainer(a, o); err == nil {
			t.Errorf("options %+v were accepted", o)
		}
	}
	other := loadAdapter(t, "lora", "mha_qv")
	if _, err := b.NewTrainer(other, TrainOptions{}); err == nil {
		t.Error("an adapter of another shape was accepted")
	}
	b.Free()
	if _, err := tr.Step([]*batch.Batch{bt}, 1e-3); err == nil {
		t.Error("a freed model trained")
	}
}

// projIndex must name every projection that adapters may have.
func TestProjectionsAreNumbered(t *testing.T) {
	for i, p := range model.Projections {
		if projIndex(p) != i || i > 7 {
			t.Errorf("%s has number %d", p, projIndex(p))
		}
	}
}
