package gotune

import "math"

// Sampling says how to choose the tokens of a generation. The zero value is
// greedy, to a total length of 200 tokens.
type Sampling struct {
	_ struct{}

	// MaxLength is the number of tokens to stop at, the prompt included. Default
	// 200; not used when MaxNewTokens is set.
	MaxLength int

	// MaxNewTokens is the number of tokens to generate at most. Default 0:
	// MaxLength decides.
	MaxNewTokens int

	// Temperature divides the logits before the softmax. 0, the default, is
	// greedy: always the likeliest token.
	Temperature float64

	// TopK keeps only the k likeliest tokens. 0: all.
	TopK int

	// TopP keeps only the likeliest tokens that together have this probability
	// (Holtzman et al., arXiv:1904.09751). Default 1: all.
	TopP float64

	// RepetitionPenalty divides the logits of tokens that were there already
	// (multiplies them if negative; Keskar et al., arXiv:1909.05858, section
	// 4.1). Default 1: none.
	RepetitionPenalty float64

	// Seed starts the random choices. Default 42.
	Seed int64

	// Raw takes the prompt as it is, with one BOS in front. Otherwise it is put
	// into the model's prompt form, <s>[INST] prompt [/INST].
	Raw bool

	// Base switches the adapter off: the model as it was before training.
	Base bool
}

// Resolved returns s with its defaults filled in, or what is wrong with it.
func (s Sampling) Resolved() (Sampling, error) {
	c := checker{where: "Sampling"}
	c.atLeast("MaxNewTokens", s.MaxNewTokens, 0)
	if s.MaxNewTokens == 0 {
		defaulted(&s.MaxLength, 200)
		c.atLeast("MaxLength", s.MaxLength, 1)
	} else if s.MaxLength != 0 {
		c.fail("MaxLength", s.MaxLength, "0, since MaxNewTokens is set", "remove one of the two")
	}
	defaulted(&s.TopP, 1)
	defaulted(&s.RepetitionPenalty, 1)
	defaulted(&s.Seed, 42)
	if !(s.Temperature >= 0) || math.IsInf(s.Temperature, 0) {
		c.fail("Temperature", s.Temperature, "0 for greedy, or a positive number", "")
	}
	c.atLeast("TopK", s.TopK, 0)
	if !(s.TopP > 0 && s.TopP <= 1) {
		c.fail("TopP", s.TopP, "a number above 0, up to 1", "")
	}
	if !(s.RepetitionPenalty > 0) || math.IsInf(s.RepetitionPenalty, 0) {
		c.fail("RepetitionPenalty", s.RepetitionPenalty, "a positive number", "")
	}
	if s.Temperature == 0 && (s.TopK != 0 || s.TopP != 1) {
		c.fail("Temperature", s.Temperature, "a positive number with TopK or TopP, which do nothing in a greedy choice", "set Temperature, e.g. 0.7, or remove TopK and TopP")
	}
	return s, c.result()
}
