package layerwise

import (
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/optim"
	"github.com/gotune/gotune/gotune/internal/train"
)

// TrainOptions are the numbers of a training run. Zero means off for Dropout,
// MaxGradNorm and WeightDecay.
type TrainOptions struct {
	// Dropout is the share of the inputs of A set to zero while training, in [0, 1).
	Dropout float64
	// Seed of the dropout masks.
	Seed int64
	// MaxGradNorm clips the norm of all gradients together; 0 means no clipping.
	MaxGradNorm float64
	// WeightDecay is AdamW's decoupled decay.
	WeightDecay float64
	// Beta1, Beta2 and Eps are AdamW's; 0 means 0.9, 0.999 and 1e-8.
	Beta1, Beta2, Eps float64
	// Optim is a name that optim.Check accepts; "" means adamw_torch.
	Optim string
	// Memory is MemoryAuto, MemorySave, MemoryRecompute or MemoryOffload; "" means
	// MemoryAuto.
	Memory string
	// Kept is for MemoryRecompute and MemoryOffload the number of layers, counted from the
	// last, that keep their residuals all the same, as memory allows; more than there are
	// means all.
	Kept int
	// KeepAttention has layers that are computed again keep their attention's output and
	// the residual stream behind it, too, where they keep their input: neither attention nor
	// the output projection is then computed again.
	KeepAttention bool
	// Chunk is the number of tokens that a layer which is computed again takes at a time
	// where it can; 0 takes all at once, in one program. A number that is not less than
	// the batch's takes them at once in the programs of chunks, each of which has a part
	// of the layer's weights unpacked.
	Chunk int
	// FP8 is FP8Off, FP8Forward or FP8Both: which products with the base take 8-bit floats
	// in a step (float8.go). That changes the step's numbers. Under MemorySave, and where
	// there is room, the base is kept in 8-bit floats, a byte a weight; else each call rounds it.
	FP8 string
	// LossScale is the first loss scale of float16 training; 0 means 65536. Other
	// compute dtypes use none.
	LossScale float64
}

func (o *TrainOptions) validate() error {
	if o.Dropout < 0 || o.Dropout >= 1 {
		return fmt.Errorf("layerwise: dropout %v, want 0 ≤ dropout < 1", o.Dropout)
	}
	if o.MaxGradNorm < 0 || o.WeightDecay < 0 || o.Beta1 < 0 || o.Beta1 >= 1 || o.Beta2 < 0 || o.Beta2 >= 1 || o.Eps < 0 || o.LossScale < 0 {
		return fmt.Errorf("layerwise: gradient norm limit %v, weight decay %v, betas %v and %v, epsilon %v, loss scale %v: want none negative and betas below 1",
			o.MaxGradNorm, o.WeightDecay, o.Beta1, o.Beta2, o.Eps, o.LossScale)
	}
	if o.Kept < 0 || o.Chunk < 0 {
		return fmt.Errorf("layerwise: %d kept layers and chunks of %d tokens, want 0 or more of both", o.Kept, o.Chunk)
	}
	if o.Beta1 == 0 {
		o.Beta1 = 0.9
	}
	if o.Beta2 == 0 {
		o.Beta2 = 0.999
	}
	if o.Eps == 0 {
		o.Eps = 1e-8
	}
	if o.LossScale == 0 {
		o.LossScale = 65536
	}
	switch o.Memory {
	case "", MemoryAuto:
		o.Memory = MemorySave
	case MemorySave, MemoryRecompute, MemoryOffload:
	default:
		return fmt.Errorf("layerwise: memory policy %q is unknown; want %s, %s, %s or %s", o.Memory, MemoryAuto, MemorySave, MemoryRecompute, MemoryOffload)
	}
	switch o.FP8 {
	case FP8Off, FP8Forward, FP8Both:
	default:
		return fmt.Errorf("layerwise: FP8 %q is unknown; want %q, %q or %q", o.FP8, FP8Off, FP8Forward, FP8Both)
	}
	return optim.Check(o.Optim)
}

// Trainer trains one adapter on a frozen base. It implements train.Stepper.
type Trainer struct {
	base   *Base
	opt    TrainOptions
	adam   optim.AdamW
	config lora.Config
	ad     *DeviceAdapter
	keep   []keep // of each layer

	first, second compute.Buffer   // AdamW's m and v, f32 [N]; nil while they are away
	away          []hosted         // their copies on the host, or nil
	zeros         []compute.Buffer // a zero gradient for each layer, f32 [n]; one for layers of a size
	calls         int              // steps taken, skipped ones included: the dropout masks' clock
	updates       int              // AdamW's t
	scale         lossScale
	unpacked      bool            // it asked for unpacked layers
	chosen        bool            // Choose took the memory policy
	passed        map[string]bool // kinds of passes that were seen to end
	eightKept     bool            // it asked for the base in 8-bit floats
	turned        bool            // and for its transpose
}

var _ train.Stepper = (*Trainer)(nil)

// NewTrainer puts an adapter and its optimizer states on the device.
func (b *Base) NewTrainer(a *lora.Adapter, o TrainOptions) (t *Trainer, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.training()
	t = &Trainer{base: b, opt: o, config: a.Config, keep: o.keeps(len(b.layers)), passed: map[string]bool{},
		adam:  optim.AdamW{Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, WeightDecay: o.WeightDecay},
		scale: newLossScale(b.dt, o.LossScale)}
	if err := hasFloat8(backend.Describe(b.norm.Backend()), o.FP8); err != nil {
		return nil, err
	}
	if t.ad, err = b.upload(a); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.free()
		}
	}()
	if o.FP8 != FP8Off {
		if err := t.holdFloat8(); err != nil {
			return nil, err
		}
	}
	zero := make([]float32, t.ad.layout.size)
	if err := t.setStates(zero, zero); err != nil {
		return nil, err
	}
	zeros := map[int]compute.Buffer{0: nil}
	for _, s := range t.ad.layout.layers {
		n := s.size()
		if _, ok := zeros[n]; !ok {
			if zeros[n], err = b.dev.upload(zero[:n], dtypes.Float32, n); err != nil {
				return nil, err
			}
		}
		t.zeros = append(t.zeros, zeros[n])
	}
	return t, nil
}

// setStates uploads AdamW's states.
func (t *Trainer) setStates(m, v []float32) (err error) {
	drop(t.first, t.second)
	t.first, t.second = nil, nil
	t.forgetAway()
	if t.first, err = t.base.dev.upload(m, dtypes.Float32, len(m)); err != nil {
		return err
	}
	t.second, err = t.base.dev.upload(v, dtypes.Float32, len(v))
	return err
}

// Free releases the trainer's device memory; the base model stays. Freeing twice
// does nothing.
func (t *Trainer) Free() {
	t.base.mu.Lock()
	defer t.base.mu.Unlock()
	t.free()
}

func (t *Trainer) free() {
	t.pack()
	t.ad.free()
	t.forgetAway()
	drop(t.first, t.second)
	for i, z := range t.zeros {
		if !slices.Contains(t.zeros[:i], z) {
			drop(z)
		}
	}
	t.first, t.second, t.zeros = nil, nil, nil
}

// Step makes one optimizer step from micro-batches whose gradients add up, with
// learning rate lr. The loss is the mean over the supervised tokens of all of
// them together. A step without any, or whose gradients overflow (float16),
// changes nothing and reports Skipped. One that finds no memory is made again by a leaner
// policy where [Trainer.Choose] took it (retreat.go), and Note says so.
func (t *Trainer) Step(micro []*batch.Batch, lr float64) (res train.StepResult, err error) {
	b := t.base
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := firstError(b.usable("train"), t.ad.check(b)); err != nil {
		return res, err
	}
	for _, bt := range micro {
		if err := bt.Check(b.cfg.VocabSize); err != nil {
			return res, err
		}
		res.Supervised += bt.Supervised()
		res.Tokens += bt.Tokens()
	}
	if t.scale.dynamic {
		res.LossScale = t.scale.value
	}
	t.calls++
	if res.Supervised == 0 {
		res.Skipped = true
		return res, nil
	}
	g, note, err := t.gather(micro, t.scale.value/float64(res.Supervised))
	res.Note = note
	if err != nil {
		return res, err
	}
	defer g.free()
	loss, norm, err := t.update(g, lr)
	if err != nil {
		return res, err
	}
	res.Loss, res.GradNorm = loss/float64(res.Supervised), norm
	res.Skipped = !t.scale.note(norm)
	if !res.Skipped {
		t.updates++
	}
	return res, nil
}

// gradients is what a step has gathered so far.
type gradients struct {
	sums   []compute.Buffer // one for each layer, nil without adapter
	shared bool             // sums are the trainer's zeros
	losses []compute.Buffer // a scalar for each micro-batch
}

func (g *gradients) free() {
	if !g.shared {
		drop(g.sums...)
	}
	drop(g.losses...)
}

// accumulate runs one micro-batch forwards and backwards.
func (t *Trainer) accumulate(g *gradients, bt *batch.Batch, micro int, gradScale float64) (err error) {
	b := t.base
	k0, k1 := dropoutKeys(t.opt.Seed, t.calls, micro)
	m, md, packed, supervised, err := b.packBatch(bt, k0, k1, gradScale)
	if err != nil {
		return err
	}
	defer drop(packed)
	x, c, err := b.start(m, md, packed)
	if err != nil {
		return err
	}
	defer c.free()
	c.fp8, c.eightKept = t.opt.FP8, t.eightKept
	k := t.newKept(x)
	defer k.free()
	for i := range b.layers {
		if err := k.stow(i); err != nil {
			return err
		}
		y, r, err := t.forward(i, c, k.inputs[i])
		if err != nil {
			return err
		}
		k.inputs, k.saved[i] = append(k.inputs, y), r
		if err := k.stowSaved(i); err != nil {
			return err
		}
	}
	last := k.inputs[len(b.layers)]
	loss, dy, err := b.newHeadRun(m, md, packed, last, supervised).forwardBackward()
	if err != nil {
		return err
	}
	g.losses = append(g.losses, loss)
	drop(last)
	k.inputs = k.inputs[:len(b.layers)]
	if err := t.leave(); err != nil {
		drop(dy)
		return err
	}
	return t.backward(g, c, k, dy)
}

// forward runs layer i as its memory policy says.
func (t *Trainer) forward(i int, c *passContext, x compute.Buffer) (y compute.Buffer, saved []compute.Buffer, err error) {
	if n := t.opt.Chunk; n > 0 && t.keep[i] != keepResiduals {
		return t.base.chunked(i, c, t.ad, t.opt.Dropout, n).forward(x, t.keep[i])
	}
	return t.base.forwardLayer(i, c, t.ad, t.opt.Dropout, t.keep[i], x)
}

// backward runs the layers in reverse, down to the lowest that is trained. It
// consumes dy and what was kept.
func (t *Trainer) backward(g *gradients, c *passContext, k *kept, dy compute.Buffer) (err error) {
	b, lowest := t.base, t.ad.layout.lowest()
	if err := k.settle(); err != nil {
		drop(dy)
		return err
	}
	sums := make([]compute.Buffer, len(b.layers))
	for i := len(b.layers) - 1; i >= lowest; i-- {
		if err := k.fetch(i, lowest); err != nil {
			drop(sums...)
			drop(dy)
			return err
		}
		before := g.sums[i]
		var dx, sum compute.Buffer
		if n := t.opt.Chunk; n > 0 && t.keep[i] != keepResiduals {
			dx, sum, err = b.chunked(i, c, t.ad, t.opt.Dropout, n).backward(k.inputs[i], dy, before, g.shared, k.saved[i])
		} else {
			dx, sum, err = b.backwardLayer(i, c, t.ad, t.opt.Dropout, t.keep[i], k.inputs[i], dy, before, g.shared, k.saved[i])
		}
		k.saved[i] = nil
		k.release(i)
		if err != nil {
			drop(sums...)
			return err
		}
		if !g.shared {
			g.sums[i] = nil
		}
		dy, sums[i] = dx, sum // below the lowest there is no dx
	}
	g.sums, g.shared = sums, false
	return nil
}

// update clips, applies AdamW and returns the summed loss and the norm before
// clipping. Not finite gradients leave everything as it was.
func (t *Trainer) update(g *gradients, lr float64) (loss, norm float64, err error) {
	b := t.base
	if err := t.pageIn(); err != nil {
		return 0, 0, err
	}
	h := t.adam.Hyper(lr, t.updates+1)
	hyper, err := b.dev.upload(append(h[:], float32(1/t.scale.value)), dtypes.Float32, len(h)+1)
	if err != nil {
		return 0, 0, err
	}
	defer drop(hyper)
	in := []compute.Buffer{t.ad.flat, t.first, t.second, hyper}
	for _, s := range g.sums {
		if s != nil {
			in = append(in, s)
		}
	}
	layers := len(in)
	in = append(in, g.losses...)
	donate := []int{0, 1, 2}
	key := fmt.Sprintf("update %+v clip %v layers %d", t.adam, t.opt.MaxGradNorm, layers)
	out, err := b.call(key, in, donate, func(n []*Node) []*Node {
		p, m, v, hyper := n[0], n[1], n[2], n[3]
		grad := Mul(Concatenate(n[4:layers], 0), Reshape(Slice(hyper, AxisRange(len(h), len(h)+1))))
		norm := optim.NormGraph(grad)
		p1, m1, v1 := t.adam.Graph(p, Mul(grad, optim.ClipGraph(norm, t.opt.MaxGradNorm)), m, v, Slice(hyper, AxisRange(0, len(h))))
		ok := BroadcastToDims(IsFinite(norm), p.Shape().Dimensions...)
		total := n[layers]
		for _, l := range n[layers+1:] {
			total = Add(total, l)
		}
		return []*Node{Where(ok, p1, p), Where(ok, m1, m), Where(ok, v1, v), Stack([]*Node{total, norm}, 0)}
	})
	if err != nil {
		return 0, 0, err
	}
	t.ad.flat, t.first, t.second = out[0], out[1], out[2]
	defer drop(out[3])
	if err := t.pageOut(); err != nil {
		return 0, 0, err
	}
	stats, err := download[float32](out[3], 2)
	if err != nil {
		return 0, 0, err
	}
	return float64(stats[0]), float64(stats[1]), nil
}

// Evaluate returns the sum of the cross-entropies of a batch's supervised tokens,
// without dropout, and their number.
func (t *Trainer) Evaluate(bt *batch.Batch) (lossSum float64, supervised int, err error) {
	b := t.base
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := firstError(b.usable("evaluate"), t.ad.check(b), bt.Check(b.cfg.VocabSize)); err != nil {
		return 0, 0, err
	}
	lossSum, err = b.lossOf(t.ad, bt)
	return lossSum, bt.Supervised(), err
}

// Base is the model that is trained.
func (t *Trainer) Base() *Base { return t.base }

// Device is the adapter as it is being trained, for sampling between steps. It
// belongs to the trainer: do not free it.
func (t *Trainer) Device() *DeviceAdapter { return t.ad }

// Adapter copies the trained values to the host.
func (t *Trainer) Adapter() (*lora.Adapter, error) {
	t.base.mu.Lock()
	defer t.base.mu.Unlock()
	if err := firstError(t.base.usable("read adapter"), t.ad.check(t.base)); err != nil {
		return nil, err
	}
	flat, err := download[float32](t.ad.flat, t.ad.layout.size)
	if err != nil {
		return nil, err
	}
	return t.ad.layout.adapter(t.base.cfg, t.config, flat), nil
}

// lossScale is the dynamic loss scale of float16 training, as torch.amp.GradScaler:
// halved by a step that overflows, doubled after 2,000 that don't.
type lossScale struct {
	dynamic bool
	value   float64
	good    int
}

const lossScaleInterval = 2000

func newLossScale(dt dtypes.DType, first float64) lossScale {
	if dt != dtypes.Float16 {
		return lossScale{value: 1}
	}
	return lossScale{dynamic: true, value: first}
}

// note records a step with that gradient norm and reports whether it counts.
func (s *lossScale) note(norm float64) (ok bool) {
	ok = !math.IsNaN(norm) && !math.IsInf(norm, 0)
	switch {
	case !s.dynamic:
	case !ok:
		s.value, s.good = max(s.value/2, 1), 0
	case s.good+1 == lossScaleInterval:
		s.value, s.good = min(s.value*2, 1<<24), 0
	default:
		s.good++
	}
	return ok
}
