package layerwise

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/batch"
)

// Kinds of attention for [LoadOptions.Attention].
const (
	AttentionAuto  = "auto"  // fused where the device has it and it holds against plain
	AttentionPlain = "plain" // products and softmax

	attentionSlots = "slots" // of EnvAttention alone: packed rows without a bias
)

// EnvAttention names the environment variable that AttentionAuto follows: "plain"
// turns fused attention off.
const EnvAttention = "GOTUNE_ATTENTION"

// fusedAttention is attention as one operation of the device, causal over whole rows,
// with a bias [B, 1, S, S] that is added to the scores of all heads, nil for none. q, o
// and do are [B, S, H, d], k and v [B, S, K, d], lse f32 [B, H, S].
type fusedAttention interface {
	forward(q, k, v, bias *Node) (o, lse *Node)
	backward(q, k, v, bias, o, lse, do *Node) (dq, dk, dv *Node)
}

// Limits of fused attention: its largest head, rows so short that plain attention costs
// nothing, and what the length of a row with a bias must be a multiple of.
const (
	fusedMaxHead   = 128
	fusedMinLength = 64
	biasMultiple   = 8
)

// attentionChoice is what a model's attention runs on.
type attentionChoice struct {
	fused  fusedAttention // nil for plain attention
	why    string         // not fused
	noBias string         // why fused attention takes no bias, "" where it does
}

// Attention says what training and prompts run on: "fused" and what packed rows take, or
// "plain: " and why.
func (b *Base) Attention() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch c := b.attention(); {
	case c.fused == nil:
		return "plain: " + c.why
	case c.noBias != "":
		return "fused, packed rows by slots: " + c.noBias
	}
	return "fused, packed rows with a bias"
}

// attention decides once whether fused attention is to be used.
func (b *Base) attention() *attentionChoice {
	if b.choice == nil {
		b.choice = &attentionChoice{}
		if err := b.fusedRefused(); err != nil {
			b.choice.why = err.Error()
			return b.choice
		}
		b.choice.fused = cudnnAttention{}
		if os.Getenv(EnvAttention) == attentionSlots {
			b.choice.noBias = EnvAttention + " asks for it"
		} else if err := b.proveFused(cudnnAttention{}, packedProof); err != nil {
			b.choice.noBias = err.Error()
		}
	}
	return b.choice
}

// graphs is the backend for graphs of this model: with fused attention, one that makes
// its calls.
func (b *Base) graphs() compute.Backend {
	if b.choice != nil && b.choice.fused != nil {
		return kernelBackend{b.dev.be}
	}
	return b.dev.be
}

// fusedRefused returns why fused attention can't be used, or nil. Where everything
// speaks for it, it is held against plain attention on the device first.
func (b *Base) fusedRefused() error {
	has := b.dev.be.Capabilities().Operations
	switch {
	case b.opt.Attention == AttentionPlain:
		return fmt.Errorf("the load options ask for it")
	case os.Getenv(EnvAttention) == AttentionPlain:
		return fmt.Errorf("%s asks for it", EnvAttention)
	case !has[compute.OpTypeFusedScaledDotProductAttention] || !has[compute.OpTypeFusedScaledDotProductAttentionVJP]:
		return fmt.Errorf("the backend %s has no fused attention with a gradient", b.dev.be.Name())
	case b.dt != dtypes.BFloat16 && b.dt != dtypes.Float16:
		return fmt.Errorf("fused attention takes bfloat16 and float16, not %s", b.dt)
	case b.cfg.HeadDim > fusedMaxHead || b.cfg.HeadDim%8 != 0:
		return fmt.Errorf("fused attention takes heads of a multiple of 8 up to %d, not %d", fusedMaxHead, b.cfg.HeadDim)
	}
	if d, err := cuda.Devices(); err == nil && len(d) > 0 && !d[0].FlashAttention() {
		return fmt.Errorf("%s has no fused attention: compute capability 8.0 or newer is needed", d[0])
	}
	return b.proveFused(cudnnAttention{}, nil)
}

// fusedTolerance is the largest relative error of [Base.proveFused]: some
// roundings of bfloat16 (2⁻⁹ each).
const fusedTolerance = 2e-2

// packedProof are the lengths of documents in the rows of [Base.proveFused], each of
// proofLength tokens: documents within and across cuDNN's blocks of 128, whole blocks that
// a query must not see, padding.
var packedProof = [][]int{{37, 91, 1, 127, 70, 58}, {5, 200, 130}}

// proofLength is the length of a row of [Base.proveFused].
const proofLength = 6 * fusedMinLength

// proveFused runs f and plain attention on the same random values of this model's heads
// and returns an error when o, dq, dk or dv differ. Rows hold documents of the given
// lengths, whose bias f takes; without lengths they are whole.
func (b *Base) proveFused(f fusedAttention, documents [][]int) error {
	a := attention{geometry: geometry{b: 2, s: proofLength, biased: documents != nil}, heads: b.cfg.NumHeads, kv: b.cfg.NumKVHeads, dim: b.cfg.HeadDim}
	rng := rand.New(rand.NewPCG(1, 1))
	var in []compute.Buffer
	defer func() { drop(in...) }()
	for _, heads := range []int{a.heads, a.kv, a.kv, a.heads} {
		flat := make([]float32, a.tokens()*heads*a.dim)
		for i := range flat {
			flat[i] = float32(rng.NormFloat64())
		}
		buf, err := b.dev.upload(flat, dtypes.Float32, a.tokens(), heads, a.dim)
		if err != nil {
			return err
		}
		in = append(in, buf)
	}
	segments, err := b.dev.upload(segmentsOf(a.s, a.b, documents), dtypes.Int32, a.b, a.s)
	if err != nil {
		return err
	}
	in = append(in, segments)
	sh, err := shapesOf(in)
	if err != nil {
		return err
	}
	what := "fused attention"
	if a.biased {
		what += " with a bias"
	}
	p, err := b.dev.programOn(kernelBackend{b.dev.be}, b.prefix+"prove "+what, sh, func(_ *Graph, n []*Node) []*Node {
		plain, fused := a, a
		plain.bias, fused.fused = biasOf(n[4], 0), f
		if a.biased {
			fused.bias = fusedBiasOf(n[4], 0, b.dt)
		}
		var each [2][]*Node
		for i, a := range []*attention{&plain, &fused} {
			cast := func(x *Node) *Node { return ConvertDType(x, b.dt) }
			o, saved := a.forward(cast(n[0]), cast(n[1]), cast(n[2]))
			dq, dk, dv := a.backward(saved, o, cast(n[3]))
			each[i] = []*Node{o, dq, dk, dv}
		}
		var off []*Node
		for i, want := range each[0] {
			off = append(off, relativeError(each[1][i], want))
		}
		return []*Node{Stack(off, 0)}
	})
	if err != nil {
		return err
	}
	out, err := p.run(in)
	if err != nil {
		return err
	}
	defer drop(out...)
	off, err := download[float32](out[0], 4)
	if err != nil {
		return err
	}
	for i, e := range off {
		if !(e <= fusedTolerance) || math.IsNaN(float64(e)) {
			return fmt.Errorf("%s: %s differs from plain attention's by %.3g (relative), want at most %g", what, []string{"o", "dq", "dk", "dv"}[i], e, fusedTolerance)
		}
	}
	return nil
}

// segmentsOf numbers the documents of rows of s tokens; without documents each row is one.
func segmentsOf(s, rows int, documents [][]int) (segments []int32) {
	for r := range rows {
		if documents == nil {
			segments = append(segments, slices.Repeat([]int32{1}, s)...)
			continue
		}
		for i, n := range documents[r] {
			segments = append(segments, slices.Repeat([]int32{int32(i + 1)}, n)...)
		}
		segments = append(segments, make([]int32, (r+1)*s-len(segments))...)
	}
	return segments
}

// relativeError is ‖got − want‖ / ‖want‖, f32.
func relativeError(got, want *Node) *Node {
	g, w := ConvertDType(got, dtypes.Float32), ConvertDType(want, dtypes.Float32)
	d := Sub(g, w)
	return Sqrt(Div(ReduceAllSum(Mul(d, d)), ReduceAllSum(Mul(w, w))))
}

// geometryOf says how a batch is laid out and which attention it takes. Causal attention
// over whole rows is that of the documents when each row is one document with padding
// behind: no token sees the padding, and what the padding sees reaches neither loss nor
// gradient, for its own gradient is zero. Other rows, and those longer than a sliding
// window, have a bias; where fused attention takes none, packed rows take [slots].
func (b *Base) geometryOf(bt *batch.Batch) geometry {
	m := geometry{b: bt.B, s: bt.S}
	if bt.S < fusedMinLength {
		return m
	}
	c := b.attention()
	windowed := b.cfg.SlidingWindow > 0 && b.cfg.SlidingWindow < bt.S
	switch {
	case c.fused == nil:
	case !windowed && oneDocumentARow(bt):
		m.fused = true
	case c.noBias == "" && bt.S%biasMultiple == 0:
		m.fused, m.biased = true, true
	case !windowed && documentsAreWhole(bt):
		m.fused, m.slots = true, slotsOf(bt)
	}
	return m
}

// oneDocumentARow says whether every row is at most one document, at its begin.
func oneDocumentARow(bt *batch.Batch) bool {
	for i, s := range bt.Segments {
		if i%bt.S > 0 && s != 0 && s != bt.Segments[i-1] {
			return false
		}
	}
	return true
}
