package gotune

import (
	"math"
	"slices"
)

// LoRA says which weights get an adapter and how large it is. The update to a
// frozen weight W [out, in] is (Alpha/Rank) · B·A with A [Rank, in] and
// B [out, Rank]; only A and B are trained. See Hu et al., arXiv:2106.09685,
// section 4.1.
type LoRA struct {
	_ struct{}

	// Rank is the inner size of A and B. An adapter on W costs Rank·(in+out)
	// float32 weights. Default 16. Must not exceed min(in, out).
	Rank int

	// Alpha scales the update by Alpha/Rank, so that Rank can change without a
	// new learning rate. Default 2·Rank.
	Alpha float64

	// Dropout is the share of inputs to A set to zero while training, in [0, 1).
	// Zero means none.
	Dropout float64

	// Targets names the projections to adapt: q_proj, k_proj, v_proj, o_proj,
	// gate_proj, up_proj, down_proj. Default: all of them, as QLoRA section 4
	// advises.
	Targets []string

	// RSLoRA scales by Alpha/√Rank instead (Kalajdzievski, arXiv:2312.03732).
	RSLoRA bool

	// DoRA trains the length of each weight row besides its direction
	// (Liu et al., arXiv:2402.09353).
	DoRA bool
}

// projections are the linear layers of a decoder layer, in their order.
var projections = []string{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

// Resolved returns l with its defaults filled in, or what is wrong with it.
// Targets come back in the model's order, each once.
func (l LoRA) Resolved() (LoRA, error) {
	c := checker{where: "LoRA"}
	defaulted(&l.Rank, 16)
	defaulted(&l.Alpha, 2*float64(l.Rank))
	c.atLeast("Rank", l.Rank, 1)
	if !(l.Alpha > 0) || math.IsInf(l.Alpha, 0) {
		c.fail("Alpha", l.Alpha, "a positive number", "")
	}
	if !(l.Dropout >= 0 && l.Dropout < 1) {
		c.fail("Dropout", l.Dropout, "a number from 0 to below 1", "")
	}
	for _, t := range l.Targets {
		c.oneOf("Targets", t, projections...)
	}
	if c.err != nil {
		return l, c.result()
	}
	targets := slices.Clone(projections)
	if len(l.Targets) > 0 {
		targets = slices.DeleteFunc(targets, func(p string) bool { return !slices.Contains(l.Targets, p) })
	}
	l.Targets = targets
	return l, nil
}

// Scale is the factor of B·A: Alpha/Rank, or Alpha/√Rank with RSLoRA.
func (l LoRA) Scale() float64 {
	if l.RSLoRA {
		return l.Alpha / math.Sqrt(float64(l.Rank))
	}
	return l.Alpha / float64(l.Rank)
}
