package layerwise

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
)

// ErrDoesNotFit is wrapped by errors about steps for which the device is too small.
var ErrDoesNotFit = errors.New("does not fit into the device's memory")

// Fit is what a training step takes, in bytes, found before it runs: its programs are
// compiled and its calls planned one by one (plan.go).
type Fit struct {
	Batch, Length int // rows and tokens of a row
	Tokens        int
	Memory        string // policy
	Kept, Layers  int    // layers that keep their residuals, and all
	Chunk         int    // tokens of a chunk of the others, 0 for all
	KeepAttention bool   // the others keep their attention's output

	Weights   int64 // frozen, unpacked copies included
	Unpacked  int64 // of Weights, 4-bit matrices kept unpacked
	Float8    int64 // of Weights, matrices in 8-bit floats
	Adapter   int64 // trained values, their gradient's first summand
	Optimizer int64 // AdamW's states
	Other     int64 // in use beside those by the device's account: other models, adapters
	Saved     int64 // live at the peak beside the above: residuals, layers' inputs, gradients
	Working   int64 // what the program at the peak takes: results and scratch
	Program   string
	Peak      int64 // sum of the above
	Host      int64 // pinned host memory
	Limit     int64 // the device's memory, 0 where it has no account

	Block    int64 // the largest tensor or scratch of the step
	Programs int   // compiled for this plan
	Calls    int   // of programs in the step

	fixed   int64   // of Peak, what does not grow with the batch
	squares float64 // bytes for each row and square of its length
}

// FitShare is the share of a device that a step may take: a pool can be so cut up that
// the last of it is of no use.
const FitShare = 0.98

// Roomy says whether the step fits with as much to spare as its largest block takes. A
// pool gets cut up: what is kept fills the room that scratch was in, and the next
// scratch must find its place behind. Seen on an H200 with 14.2 of 14.5 GiB planned (7B
// shapes, float16, plain attention, B=4, S=1,024): no place for 0.9. XLA's allocator (best
// fit; a rest under 128 MiB stays with its block), played through with that step's blocks,
// fails from 95 to 98 % of a pool on, also of one that grew in two regions; this bound is
// at 92 % there.
func (f *Fit) Roomy() bool {
	return f.Limit <= 0 || float64(f.Peak+f.Block) <= FitShare*float64(f.Limit)
}

// OK says whether the step fits.
func (f *Fit) OK() bool { return f.Limit <= 0 || float64(f.Peak) <= FitShare*float64(f.Limit) }

// Missing is how many bytes are missing, 0 if the step fits.
func (f *Fit) Missing() int64 {
	if f.OK() {
		return 0
	}
	return f.Peak - int64(FitShare*float64(f.Limit))
}

// LargestBatch is about how many rows of this length fit, from the peak's part that
// grows with the tokens. It is 0 where the device has no account of its memory.
func (f *Fit) LargestBatch() int {
	if f.Limit <= 0 || f.Peak <= f.fixed {
		return 0
	}
	each := float64(f.Peak-f.fixed) / float64(f.Batch)
	return max(0, int((FitShare*float64(f.Limit)-float64(f.fixed))/each))
}

// LargestLength is about how long the rows of this batch can be, in steps of 64:
// the peak's part that grows is taken as linear in the length, but for the scores of
// plain attention, which grow with its square. It is 0 where the device has no account
// of its memory.
func (f *Fit) LargestLength() int {
	if f.Limit <= 0 || f.Peak <= f.fixed {
		return 0
	}
	grown, s := float64(f.Peak-f.fixed), float64(f.Length)
	square := min(f.squares*float64(f.Batch), 0.9*grown/(s*s))
	linear := grown/s - square*s
	room := FitShare*float64(f.Limit) - float64(f.fixed)
	if room <= 0 {
		return 0
	}
	n := room / linear
	if square > 0 {
		n = (math.Sqrt(linear*linear+4*square*room) - linear) / (2 * square)
	}
	return int(n) / 64 * 64
}

// Fit plans a step of micro-batches and compiles its programs, so that the step
// itself compiles nothing. each is told of every program before it is compiled; it may
// be nil.
func (t *Trainer) Fit(micro []*batch.Batch, each func(program string)) (*Fit, error) {
	t.base.mu.Lock()
	defer t.base.mu.Unlock()
	if err := firstError(t.base.usable("plan a step"), t.ad.check(t.base)); err != nil {
		return nil, err
	}
	f, err := t.fit(t.opt, micro, each)
	if err == nil && !f.OK() && t.eightKept {
		t.pack()
		return t.fit(t.opt, micro, each)
	}
	return f, err
}

// fit is Fit for other memory options. base.mu is held.
func (t *Trainer) fit(o TrainOptions, micro []*batch.Batch, each func(program string)) (*Fit, error) {
	b := t.base
	b.attention() // proven on the device, before what is in use is asked for
	largest := micro[0]
	for _, m := range micro {
		if m.B*m.S > largest.B*largest.S {
			largest = m
		}
	}
	layers := len(b.layers)
	f := &Fit{Batch: largest.B, Length: largest.S, Tokens: largest.B * largest.S, Memory: o.Memory, Layers: layers, Chunk: o.Chunk, KeepAttention: o.KeepAttention,
		Weights: b.bytes + b.extra + b.eightBytes + b.turnedBytes, Unpacked: b.extra, Float8: b.eightBytes + b.turnedBytes, Adapter: t.ad.Bytes(), Optimizer: 2 * t.ad.Bytes()}
	for _, k := range o.keeps(layers) {
		if k == keepResiduals {
			f.Kept++
		}
	}
	for i, z := range t.zeros {
		if z != nil && !slices.Contains(t.zeros[:i], z) {
			f.Adapter += int64(4 * t.ad.layout.layers[i].size())
		}
	}
	held := f.Weights + f.Adapter
	if t.first != nil {
		held += f.Optimizer
	}
	p := &plan{real: b.dev, each: each, numbers: map[int32]*plannedTensor{}, start: held}
	f.Limit = b.dev.limit
	if m, err := backend.Memory(b.norm.Backend()); err == nil && m.Limit > 0 {
		p.start, f.Limit = m.InUse, m.Limit
		f.Other = max(0, m.InUse-held)
	}
	p.live = p.start
	d := t.planned(p, o)
	if _, err := d.Step(micro, 1e-4); err != nil {
		return nil, err
	}
	if d.paged() {
		f.Optimizer = 0 // away at the peak; saved counts it where it is not
	}
	f.Peak, f.Program, f.Working, f.Host, f.Programs, f.Calls = p.peak, p.at, p.working, p.peakHost, p.compiled, p.calls
	f.Block = p.block
	f.Saved = p.peak - p.working - (f.Weights + f.Adapter + f.Optimizer + f.Other)
	f.fixed = p.start + b.unpackedLayer()
	if m, _, _, _, err := t.planned(p, o).base.packBatch(largest, 0, 0, 0); err == nil && m.biased {
		f.squares = float64(b.dt.Size())
	} else if err == nil && !m.fused {
		// The mask, and the scores of an eighth of the queries, twice.
		f.squares = 4 + float64(b.cfg.NumHeads)
	}
	return f, nil
}

// unpackedLayer is what one layer's 4-bit matrices take unpacked.
func (b *Base) unpackedLayer() int64 {
	if b.extra > 0 || len(b.layers) == 0 {
		return 0
	}
	return b.residentBytes() / int64(len(b.layers))
}

// Choose finds the memory policy that computes the least again among those whose
// step fits, takes it for the trainer's further steps, and returns its plan: all
// residuals kept, and the 4-bit layers unpacked where there is room to spare; those of as
// many of the last layers as fit, and of the others inputs and attention's outputs, then
// inputs alone; that in the host's memory; and the last by chunks; each only with room for
// one more of its largest blocks ([Fit.Roomy]). Where nothing fits the plan is that of the leanest; where the device has no account of its memory, that
// of all residuals. each is as for [Trainer.Fit].
func (t *Trainer) Choose(micro []*batch.Batch, each func(program string)) (f *Fit, err error) {
	t.base.mu.Lock()
	defer t.base.mu.Unlock()
	if err := firstError(t.base.usable("choose a memory policy"), t.ad.check(t.base)); err != nil {
		return nil, err
	}
	t.chosen = true
	take := func(o TrainOptions) (*Fit, error) {
		f, err := t.fit(o, micro, each)
		if err == nil {
			t.opt, t.keep = o, o.keeps(len(t.base.layers))
		}
		return f, err
	}
	tokens, hostFree := 0, cuda.Host().AvailableBytes
	for _, m := range micro {
		tokens = max(tokens, m.B*m.S)
	}
	first := t.opt
	if first.Memory == MemorySave {
		if err := t.unpack(micro); err != nil {
			return nil, err
		}
	}
	if first.Memory == MemorySave || first.Memory == MemoryRecompute && first.Kept > 0 {
		if f, err = take(first); err != nil || f.Roomy() {
			return f, err
		}
	}
	eight := t.eightKept
	t.pack()
	if eight {
		if f, err = take(first); err != nil || f.Roomy() {
			return f, err
		}
	}
	for _, o := range leaner(first, tokens) {
		if f, err = take(o); err != nil {
			return f, err
		}
		// Pinned memory can't be swapped out: what is not needed leaves half to others.
		if !f.Roomy() || o.KeepAttention && f.Host > hostFree/2 {
			continue
		}
		// All programs are there: other numbers of kept layers are planned in no time.
		least, most := 0, len(t.base.layers)-1
		if first.Memory != MemorySave {
			most = min(most, first.Kept)
		}
		best := f
		for least < most {
			o.Kept = (least + most + 1) / 2
			g, err := t.fit(o, micro, each)
			if err != nil {
				return nil, err
			}
			if g.Roomy() {
				least, best = o.Kept, g
			} else {
				most = o.Kept - 1
			}
		}
		o.Kept = least
		t.opt, t.keep = o, o.keeps(len(t.base.layers))
		return best, nil
	}
	return f, nil
}

// chunkTokens is the chunk that Choose takes: products of that many rows are at their
// full rate.
const chunkTokens = 4096

// ChunkFor is TrainOptions.Chunk for batches of that many tokens: 0 where the
// tensors of all are no larger than those of two chunks.
func ChunkFor(tokens int) int {
	if tokens <= 2*chunkTokens {
		return 0
	}
	return chunkTokens
}

// PartsFor is the TrainOptions.Chunk that takes the least without making products
// slower: a layer by parts, each for all tokens or for chunks of [ChunkFor]. On an H200 a step
// by parts takes 2 to 4 % longer than whole layers and 120 to 200 MiB less (7B shapes, B=4).
func PartsFor(tokens int) int {
	if n := ChunkFor(tokens); n > 0 {
		return n
	}
	return tokens
}

// leaner lists policies by what they take, the largest first.
func leaner(o TrainOptions, tokens int) (out []TrainOptions) {
	o.Kept, o.Chunk = 0, ChunkFor(tokens)
	for _, memory := range []string{MemoryRecompute, MemoryOffload} {
		if memory == MemoryRecompute && o.Memory == MemoryOffload {
			continue
		}
		for _, o.KeepAttention = range []bool{true, false} {
			o.Memory = memory
			if memory == MemoryOffload {
				o.Chunk = PartsFor(tokens)
			}
			out = append(out, o)
		}
	}
	for o.Chunk = chunkTokens; o.Chunk >= 1024; o.Chunk /= 2 {
		if o.Chunk < 2*tokens && o.Chunk != out[len(out)-1].Chunk {
			out = append(out, o)
		}
	}
	return out
}

// Refusal is the error of a step that does not fit: what is missing and what to
// change. It is nil for one that fits.
func (f *Fit) Refusal() error {
	if f.OK() {
		return nil
	}
	return fmt.Errorf("a step of B=%d×S=%d %w: %s of %s (%s) are missing; %s", f.Batch, f.Length, ErrDoesNotFit, gib(f.Missing()), gib(f.Limit), f.Account(), f.Advice())
}

// Advice says what to change so that a step fits.
func (f *Fit) Advice() (change string) {
	if n := f.LargestBatch(); n > 0 && n < f.Batch {
		change = fmt.Sprintf("set BatchSize to about %d", n)
	} else if n := f.LargestLength(); n > 0 && n < f.Length {
		change = fmt.Sprintf("set MaxSeqLength to about %d", n)
	} else {
		change = "free other models, load the model in 4 bits, or take a larger device"
	}
	switch {
	case f.Memory == MemorySave:
		change += `, or GradientCheckpointing to "auto" or "offload"`
	case f.Memory == MemoryRecompute:
		change += `, or GradientCheckpointing to "offload", which keeps layers' inputs in the host's memory`
	}
	return change
}

// Account lists what is held at the peak.
func (f *Fit) Account() string {
	weights := gib(f.Weights)
	if f.Unpacked > 0 {
		weights += " (" + gib(f.Unpacked) + " of them unpacked 4-bit layers)"
	}
	if f.Float8 > 0 {
		weights += " (" + gib(f.Float8) + " of them in 8-bit floats)"
	}
	text := fmt.Sprintf("weights %s, adapter %s, optimizer %s, saved for the backward pass %s, at work in %s %s",
		weights, gib(f.Adapter), gib(f.Optimizer), gib(f.Saved), f.Program, gib(f.Working))
	if f.Other > 1<<20 {
		text += ", other " + gib(f.Other)
	}
	if f.Host > 0 {
		text += ", in pinned host memory " + gib(f.Host)
	}
	return text
}

// Policy says what the layers keep.
func (f *Fit) Policy() string {
	switch {
	case f.Kept == f.Layers:
		return "all layers keep their residuals"
	case f.Memory == MemoryOffload:
		what := "their inputs"
		if f.KeepAttention {
			what = "their inputs and attention's outputs"
		}
		return fmt.Sprintf("%d of %d layers are computed again, %s in the host's memory%s", f.Layers-f.Kept, f.Layers, what, f.chunks())
	case f.KeepAttention:
		return fmt.Sprintf("%d of %d layers are computed again but for attention%s", f.Layers-f.Kept, f.Layers, f.chunks())
	}
	return fmt.Sprintf("%d of %d layers are computed again%s", f.Layers-f.Kept, f.Layers, f.chunks())
}

func (f *Fit) chunks() string {
	if f.Chunk == 0 || f.Chunk >= f.Tokens {
		return ""
	}
	return fmt.Sprintf(", %d tokens at a time", f.Chunk)
}

// String is the proof in a line: what a step takes and what would fit.
func (f *Fit) String() string {
	verb := "fits"
	if !f.OK() {
		verb = "does not fit"
	}
	where := fmt.Sprintf("at B=%d×S=%d, %s", f.Batch, f.Length, f.Policy())
	if f.Limit <= 0 {
		return fmt.Sprintf("takes %s %s", gib(f.Peak), where)
	}
	return fmt.Sprintf("%s: %s of %s %s; the largest that fits, extrapolated: B=%d×S=%d or B=%d×S=%d",
		verb, gib(f.Peak), gib(f.Limit), where, f.LargestBatch(), f.Length, f.Batch, f.LargestLength())
}

// gib is a number of bytes as people read it.
func gib(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
}
