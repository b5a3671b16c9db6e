package layerwise

import (
	"fmt"
	"os"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/cuda"
)

// Kinds of attention for [LoadOptions.Attention].
const (
	AttentionAuto  = "auto"  // fused where the device has it and it holds against plain
	AttentionPlain = "plain" // products and softmax
)

// EnvAttention names the environment variable that AttentionAuto follows: "plain" turns
// fused attention off, "bias" its way with the documents of packed rows where they lie.
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
// nothing, what the length of a row with a bias must be a multiple of, and the least major
// compute capability for documents where they lie, JAX's limit too.
const (
	fusedMaxHead   = 128
	fusedMinLength = 64
	biasMultiple   = 8
	raggedMajor    = 9
)

// Ways of fused attention with packed rows.
const (
	packedRagged = "ragged" // the documents where they lie
	packedBias   = "bias"   // whole rows with a bias
)

// packedWays are those, the fastest first.
var packedWays = []string{packedRagged, packedBias}

// attentionChoice is what a model's attention runs on.
type attentionChoice struct {
	fused fusedAttention    // nil for plain attention
	why   string            // not fused
	no    map[string]string // why fused attention lacks a way with packed rows, of those it lacks
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
	var without []string
	for _, way := range packedWays {
		if c.has(way) {
			return strings.Join(append([]string{"fused, packed rows by " + way}, without...), ", ")
		}
		without = append(without, "not "+way+": "+c.no[way])
	}
	return strings.Join(append([]string{"fused, packed rows plain"}, without...), ", ")
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
	for _, way := range packedWays {
		if err := b.wayRefused(c, way); err != nil {
			c.no[way] = err.Error()
		}
	}
	return c
}

// wayRefused returns why fused attention can't have a way with packed rows, or nil.
// Where it may, it is held against plain attention on the device first.
func (b *Base) wayRefused(c *attentionChoice, way string) error {
	switch {
	case way == packedRagged && os.Getenv(EnvAttention) == packedBias:
		return fmt.Errorf("%s asks for a bias", EnvAttention)
	case way == packedBias && c.has(packedRagged) && b.cfg.SlidingWindow <= 0:
		return fmt.Errorf("no documents of package batch need it beside %s", packedRagged) // and a proof takes time
	}
	if d, err := cuda.Devices(); way == packedRagged && err == nil && len(d) > 0 && d[0].Major < raggedMajor {
		return fmt.Errorf("%s lacks it: compute capability %d.0 or newer is needed", d[0], raggedMajor)
	}
	return b.proveFused(c.fused, way)
}

// graphs is the backend for graphs of this model: with fused attention or kernels, one
// that makes their calls.
func (b *Base) graphs() compute.Backend {
	if b.train != nil || b.choice != nil && b.choice.fused != nil {
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
