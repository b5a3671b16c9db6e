package layerwise

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	_ "unsafe" // for go:linkname

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

// fusedAttention is attention as one operation of the device, causal over whole
// rows, without a window. q, o and do are [B, S, H, d], k and v [B, S, K, d], lse
// f32 [B, H, S].
type fusedAttention interface {
	forward(q, k, v *Node) (o, lse *Node)
	backward(q, k, v, o, lse, do *Node) (dq, dk, dv *Node)
}

// cudnnAttention is cuDNN's flash attention (Dao, arXiv:2307.08691), which never
// writes the scores. XLA's CUDA plugin has it for bfloat16 and float16.
type cudnnAttention struct{}

var causal = &compute.ScaledDotProductAttentionConfig{Causal: true}

func (cudnnAttention) forward(q, k, v *Node) (o, lse *Node) {
	o, states := BackendFusedScaledDotProductAttention(q, k, v, compute.AttentionAxesLayoutBSHD, causal)
	if len(states) != 1 {
		panic(fmt.Errorf("fused attention keeps %d tensors for its gradient, want the log-sum-exp alone", len(states)))
	}
	return o, states[0]
}

func (cudnnAttention) backward(q, k, v, o, lse, do *Node) (dq, dk, dv *Node) {
	return fusedVJP(q, k, v, compute.AttentionAxesLayoutBSHD, causal, o, []*Node{lse}, do)
}

// fusedVJP is GoMLX's node of the gradient. The package exports it only through
// Gradient, which would compute the forward pass again.
//
//go:linkname fusedVJP github.com/gomlx/gomlx/core/graph.backendFusedScaledDotProductAttentionVJP
func fusedVJP(q, k, v *Node, layout compute.AttentionAxesLayout, o *compute.ScaledDotProductAttentionConfig, out *Node, states []*Node, dOut *Node) (dq, dk, dv *Node)

// Limits of fused attention: its largest head, and rows so short that plain
// attention costs nothing.
const (
	fusedMaxHead   = 128
	fusedMinLength = 64
)

// attentionChoice is what a model's attention runs on.
type attentionChoice struct {
	fused fusedAttention // nil for plain attention
	why   string         // not fused
}

// Attention says what training and prompts run on: "fused", or "plain: " and why.
func (b *Base) Attention() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.attention(); c.fused == nil {
		return "plain: " + c.why
	}
	return "fused"
}

// attention decides once whether fused attention is to be used.
func (b *Base) attention() *attentionChoice {
	if b.choice == nil {
		b.choice = &attentionChoice{}
		if err := b.fusedRefused(); err != nil {
			b.choice.why = err.Error()
		} else {
			b.choice.fused = cudnnAttention{}
		}
	}
	return b.choice
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
	return b.proveFused(cudnnAttention{})
}

// fusedTolerance is the largest relative error of [Base.proveFused]: some
// roundings of bfloat16 (2⁻⁹ each).
const fusedTolerance = 2e-2

// proveFused runs f and plain attention on the same random values of this model's
// heads and returns an error when o, dq, dk or dv differ.
func (b *Base) proveFused(f fusedAttention) error {
	a := attention{geometry: geometry{b: 2, s: 2 * fusedMinLength}, heads: b.cfg.NumHeads, kv: b.cfg.NumKVHeads, dim: b.cfg.HeadDim}
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
	out, err := b.call("prove fused attention", in, nil, func(n []*Node) []*Node {
		one := Ones(n[0].Graph(), shapeOf(dtypes.Int32, a.b, a.s))
		plain, fused := a, a
		plain.bias, fused.fused = biasOf(one, 0), f
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
	defer drop(out...)
	off, err := download[float32](out[0], 4)
	if err != nil {
		return err
	}
	for i, e := range off {
		if !(e <= fusedTolerance) || math.IsNaN(float64(e)) {
			return fmt.Errorf("fused attention's %s differs from plain attention's by %.3g (relative), want at most %g", []string{"o", "dq", "dk", "dv"}[i], e, fusedTolerance)
		}
	}
	return nil
}

// relativeError is ‖got − want‖ / ‖want‖, f32.
func relativeError(got, want *Node) *Node {
	g, w := ConvertDType(got, dtypes.Float32), ConvertDType(want, dtypes.Float32)
	d := Sub(g, w)
	return Sqrt(Div(ReduceAllSum(Mul(d, d)), ReduceAllSum(Mul(w, w))))
}

// fuses says whether a batch takes fused attention. Causal attention over whole
// rows is that of the documents when each row is one document with padding behind:
// no token sees the padding, and what the padding sees reaches neither loss nor
// gradient, for its own gradient is zero. Packed rows
// take it by way of [slots].
func (b *Base) fuses(bt *batch.Batch) bool {
	w := b.cfg.SlidingWindow
	return bt.S >= fusedMinLength && (w <= 0 || w >= bt.S) && documentsAreWhole(bt) && b.attention().fused != nil
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
