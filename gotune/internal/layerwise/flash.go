package layerwise

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

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
)

// EnvAttention names the environment variable that AttentionAuto follows: "plain"
// turns fused attention off.
const EnvAttention = "GOTUNE_ATTENTION"

// fusedAttention is causal attention as one operation of the device. q, o and do are
// [B, S, H, d], k and v [B, S, K, d]; lse, f32, is the operation's own. Rows are attended
// whole where mask is nil; it may be a bias [B, 1, S, S] that is added to the scores of
// all heads, or the places of a [ragged] batch's documents, int32, which are attended each
// for itself.
type fusedAttention interface {
	forward(q, k, v, mask *Node) (o, lse *Node)
	backward(q, k, v, mask, o, lse, do *Node) (dq, dk, dv *Node)
}

// Limits of fused attention: its largest head, rows so short that plain attention costs
// nothing, and what the length of a row with a bias must be a multiple of.
const (
	fusedMaxHead   = 128
	fusedMinLength = 64
	biasMultiple   = 8
)

// Ways of fused attention with packed rows, and values of EnvAttention that allow none
// better than they are.
const (
	packedRagged = "ragged" // the documents where they lie
	packedBias   = "bias"   // whole rows with a bias
	packedSlots  = "slots"  // copies of the documents
)

// attentionChoice is what a model's attention runs on.
type attentionChoice struct {
	fused fusedAttention    // nil for plain attention
	why   string            // not fused
	no    map[string]string // why fused attention has not a way, of those it hasn't
}

// has says whether fused attention has a way with packed rows.
func (c *attentionChoice) has(way string) bool { return c.no[way] == "" }

// Attention says what training and prompts run on: "fused" and what packed rows take, or
// "plain: " and why.
func (b *Base) Attention() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.attention()
	if c.fused == nil {
		return "plain: " + c.why
	}
	what := "fused, packed rows by "
	for _, way := range []string{packedRagged, packedBias} {
		if c.has(way) {
			return what + way
		}
		what += "no " + way + " (" + c.no[way] + "), "
	}
	return what + packedSlots
}

// attention decides once whether fused attention is to be used.
func (b *Base) attention() *attentionChoice {
	if b.choice != nil {
		return b.choice
	}
	c := &attentionChoice{no: map[string]string{}}
	b.choice = c
	if err := b.fusedRefused(); err != nil {
		c.why = err.Error()
		return c
	}
	c.fused = cudnnAttention{}
	for _, way := range []string{packedRagged, packedBias} {
		if want := os.Getenv(EnvAttention); want != way && (want == packedBias || want == packedSlots) {
			c.no[way] = EnvAttention + " is " + want
		} else if way == packedBias && c.has(packedRagged) && b.cfg.SlidingWindow <= 0 {
			c.no[way] = "not needed"
		} else if err := b.proveFused(c.fused, way); err != nil {
			c.no[way] = err.Error()
		}
	}
	return c
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
	return b.proveFused(cudnnAttention{}, "")
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
// and returns an error when o, dq, dk or dv differ: for a way with packed rows, and for
// whole rows where way is "".
func (b *Base) proveFused(f fusedAttention, way string) error {
	bt := &batch.Batch{B: len(packedProof), S: proofLength, Segments: segmentsOf(proofLength, packedProof)}
	if way == "" {
		fill(bt.Segments, 1)
	}
	a := attention{geometry: geometry{b: bt.B, s: bt.S}, heads: b.cfg.NumHeads, kv: b.cfg.NumKVHeads, dim: b.cfg.HeadDim}
	fused := a
	fused.fused, fused.biased = f, way == packedBias
	places := []int32{0}
	if way == packedRagged {
		r := raggedOf(bt, a.heads*a.dim, a.kv*a.dim)
		fused.b, fused.s, places = r.rows, r.length, r.places
	}
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
	for _, u := range []struct {
		flat []int32
		dims []int
	}{{bt.Segments, []int{bt.B, bt.S}}, {places, []int{len(places)}}} {
		buf, err := b.dev.upload(u.flat, dtypes.Int32, u.dims...)
		if err != nil {
			return err
		}
		in = append(in, buf)
	}
	sh, err := shapesOf(in)
	if err != nil {
		return err
	}
	what := strings.TrimSpace("fused attention " + way)
	p, err := b.dev.programOn(kernelBackend{b.dev.be}, b.prefix+"prove "+what, sh, func(_ *Graph, n []*Node) []*Node {
		plain := a
		plain.bias = biasOf(n[4], 0)
		switch way {
		case packedBias:
			fused.bias = fusedBiasOf(n[4], 0, b.dt)
		case packedRagged:
			fused.bias = n[5]
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

// segmentsOf numbers the documents of rows of s tokens.
func segmentsOf(s int, rows [][]int) (segments []int32) {
	for r, lengths := range rows {
		for i, n := range lengths {
			segments = append(segments, slices.Repeat([]int32{int32(i + 1)}, n)...)
		}
		segments = append(segments, make([]int32, (r+1)*s-len(segments))...)
	}
	return segments
}

func fill(v []int32, x int32) {
	for i := range v {
		v[i] = x
	}
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
// gradient, for its own gradient is zero. Other rows take the best way that fused
// attention has; rows longer than a sliding window a bias.
func (b *Base) geometryOf(bt *batch.Batch) geometry {
	m := geometry{b: bt.B, s: bt.S}
	if bt.S < fusedMinLength {
		return m
	}
	c, q := b.attention(), b.cfg.NumHeads*b.cfg.HeadDim
	windowed := b.cfg.SlidingWindow > 0 && b.cfg.SlidingWindow < bt.S
	switch {
	case c.fused == nil:
	case !windowed && oneDocumentARow(bt):
		m.fused = true
	case !windowed && c.has(packedRagged) && documentsAreWhole(bt) && bt.B*bt.S*q <= math.MaxInt32:
		m.fused, m.ragged = true, raggedOf(bt, q, b.cfg.NumKVHeads*b.cfg.HeadDim)
	case c.has(packedBias) && bt.S%biasMultiple == 0:
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
