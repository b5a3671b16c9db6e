package layerwise

import (
	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
)

// With memory to spare a run keeps the layers' 4-bit matrices unpacked beside their
// codes while it trains: the same values, which each call would make again. For 7B
// shapes on an H200 that is 12.1 GiB for 13 to 16 of a step's 210 ms (B=4, S=1,024). The
// memory goes back with the last trainer that took it.

// unpackedSpare is the share of a device's memory that unpacked layers leave free
// beside the step, for other models and longer batches.
const unpackedSpare = 0.15

// unpack keeps all layers unpacked for this trainer's life if the device has room for
// that beside a step that keeps all residuals. It is done before programs are compiled, so the
// step is estimated. base.mu is held.
func (t *Trainer) unpack(micro []*batch.Batch) error {
	b := t.base
	need := b.residentBytes()
	switch {
	case t.opt.FP8 != FP8Off && !t.eightKept: // calls round the packed ones
		return nil
	case t.opt.FP8 == FP8Both: // reads no unpacked matrix but DoRA's
		return t.turn(micro)
	case t.unpacked || need == 0 || b.opt.ResidentBytes < 0:
		return nil
	case b.extra > 0 && b.unpackers == 0: // by the load options
		return nil
	case b.extra == 0:
		if !t.spare(need, micro) {
			return nil // also on a CPU, which has no account: its load options decide
		}
		if err := b.unpackAll(); err != nil {
			b.repack()
			return err
		}
	}
	t.unpacked = true
	b.unpackers++
	return nil
}

// spare says whether the device has room for so many bytes beside a step that keeps all
// residuals, and some to spare.
func (t *Trainer) spare(need int64, micro []*batch.Batch) bool {
	inUse, limit := t.base.account()
	return float64(inUse+need+t.estimate(micro)) <= (1-unpackedSpare)*float64(limit)
}

// pack undoes unpack, and frees weights in 8-bit floats.
func (t *Trainer) pack() {
	t.unturn()
	t.dropFloat8()
	if !t.unpacked {
		return
	}
	t.unpacked = false
	if t.base.unpackers--; t.base.unpackers == 0 && !t.base.freed {
		t.base.repack()
	}
}

// account is what is in use of the device's memory and its size, 0 where the device
// has no account of it.
func (b *Base) account() (inUse, limit int64) {
	if m, err := backend.Memory(b.norm.Backend()); err == nil && m.Limit > 0 {
		return m.InUse, m.Limit
	}
	return b.bytes + b.extra + b.eightBytes + b.turnedBytes, b.dev.limit
}

// repack frees unpacked copies.
func (b *Base) repack() {
	for _, l := range b.layers {
		drop(l.owned...)
		l.owned, l.resident, l.residentSpecs, l.known = nil, nil, nil, nil
	}
	b.extra = 0
}

// estimate is about what a step takes that keeps all residuals: of every layer and
// token x, x2, q, o and k, v and gate|up; and three times the largest of a program's own.
func (t *Trainer) estimate(micro []*batch.Batch) (bytes int64) {
	c, tokens := t.base.cfg, 0
	for _, m := range micro {
		tokens = max(tokens, m.B*m.S)
	}
	perToken := 2*c.HiddenSize + 2*c.NumHeads*c.HeadDim + 2*c.NumKVHeads*c.HeadDim + 2*c.IntermediateSize
	saved := int64(tokens) * int64(perToken) * int64(t.base.dt.Size())
	logits := int64(min(tokens, 2048)) * int64(c.VocabSize) * 8
	return saved*int64(len(t.base.layers)) + 3*saved + logits
}
