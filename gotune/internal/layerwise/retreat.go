package layerwise

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gotune/gotune/gotune/internal/batch"
)

// A plan counts bytes, and a pool can be so cut up that they are there and no block is
// large enough. So a trainer whose policy was chosen for it ([Trainer.Choose]) retreats: a
// pass that finds no memory is dropped, and the step is made again by the next leaner
// policy, with the same dropout masks. Nothing is lost, for weights and optimizer states
// change after the gradients alone. Calls are queued, and the failure of one shows where a
// result is read: therefore the first pass of each kind is waited for before its update.

// gather runs the micro-batches forwards and backwards into a new gradient, and retreats
// as long as that finds no memory. note says what was changed, "" for nothing.
func (t *Trainer) gather(micro []*batch.Batch, gradScale float64) (g *gradients, note string, err error) {
	for {
		if g, err = t.pass(micro, gradScale); err == nil {
			return g, note, nil
		}
		was := err
		if !errors.Is(err, ErrOutOfMemory) || !t.retreat(tokensOf(micro)) {
			return nil, note, err
		}
		note = fmt.Sprintf("the device had no memory for a step (%s); from here on %s", firstLineOf(was), t.policy(tokensOf(micro)))
	}
}

// pass is one try of gather.
func (t *Trainer) pass(micro []*batch.Batch, gradScale float64) (_ *gradients, err error) {
	g := &gradients{sums: slices.Clone(t.zeros), shared: true}
	defer func() {
		if err != nil {
			g.free()
		}
	}()
	if err := t.pageOut(); err != nil {
		return nil, err
	}
	var first []string // kinds that have not been seen to pass
	for i, bt := range micro {
		if bt.Supervised() == 0 {
			continue
		}
		if err := t.accumulate(g, bt, i, gradScale); err != nil {
			return nil, err
		}
		if k := fmt.Sprintf("%dx%d %v %+v", bt.B, bt.S, oneDocumentARow(bt), t.opt); !t.passed[k] {
			first = append(first, k)
		}
	}
	if len(first) == 0 || t.base.dev.plan != nil {
		return g, nil
	}
	// The lowest layer's gradient has all calls before it.
	for i, s := range g.sums {
		if s == nil || t.zeros[i] == nil {
			continue
		}
		if _, err := download[float32](s, t.ad.layout.layers[i].size()); err != nil {
			return nil, err
		}
		break
	}
	for _, k := range first {
		t.passed[k] = true
	}
	return g, nil
}

// retreat takes the next leaner policy; false if there is none or the policy is not the
// trainer's to change.
func (t *Trainer) retreat(tokens int) bool {
	if !t.chosen {
		return false
	}
	layers := len(t.base.layers)
	o, list := t.opt, leaner(t.opt, tokens)
	kept := 0
	for _, k := range t.keep {
		if k == keepResiduals {
			kept++
		}
	}
	switch {
	case t.unpacked || t.eightKept:
		t.pack()
	case kept == layers:
		o = list[0]
		o.Kept = layers / 2
	case kept > 0:
		o.Kept = kept / 2
	default:
		at := slices.IndexFunc(list, func(p TrainOptions) bool {
			return p.Memory == o.Memory && p.KeepAttention == o.KeepAttention && p.Chunk == o.Chunk
		})
		if at < 0 || at+1 == len(list) {
			return false
		}
		o = list[at+1]
	}
	t.opt, t.keep = o, o.keeps(layers)
	return true
}

// policy is the policy in words.
func (t *Trainer) policy(tokens int) string {
	f := Fit{Memory: t.opt.Memory, KeepAttention: t.opt.KeepAttention, Chunk: t.opt.Chunk, Tokens: tokens, Layers: len(t.keep)}
	for _, k := range t.keep {
		if k == keepResiduals {
			f.Kept++
		}
	}
	if t.base.extra == 0 && f.Kept == f.Layers {
		return f.Policy() + ", 4-bit layers unpacked in each call"
	}
	return f.Policy()
}

func tokensOf(micro []*batch.Batch) (n int) {
	for _, m := range micro {
		n = max(n, m.B*m.S)
	}
	return n
}

// firstLineOf is what ran out, without the advice.
func firstLineOf(err error) string {
	var m *memoryError
	if errors.As(err, &m) {
		return m.doing + ": " + m.text
	}
	return clip(err.Error())
}
