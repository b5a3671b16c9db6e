package model

import "math"

// InvFreq returns the D/2 inverse frequencies of the rotary embedding (Su et al.,
// RoFormer, arXiv:2104.09864, section 3.2.2), in radians a position:
//
//	f[i] = theta^(-2i/D)
//
// "linear" scaling divides all of them by Factor. "llama3" (Llama 3.1) leaves
// wavelengths shorter than OriginalMaxPositions/HighFreqFactor, divides those
// longer than OriginalMaxPositions/LowFreqFactor by Factor, and goes smoothly
// from one to the other in between.
//
// Every step is rounded to float32, in the order in which transformers computes
// (modeling_rope_utils.py), so that long positions turn by the same angles.
func (c *Config) InvFreq() []float32 {
	inv := make([]float32, c.HeadDim/2)
	theta := float64(float32(c.RopeTheta))
	for i := range inv {
		exponent := float32(2*i) / float32(c.HeadDim)
		inv[i] = 1 / float32(math.Pow(theta, float64(exponent)))
	}
	s := c.RopeScaling
	if s == nil {
		return inv
	}
	factor := float32(s.Factor)
	if s.Type == "linear" {
		for i := range inv {
			inv[i] /= factor
		}
		return inv
	}
	original := float64(s.OriginalMaxPositions)
	longest, shortest := float32(original/s.LowFreqFactor), float32(original/s.HighFreqFactor)
	for i, f := range inv {
		// torch divides a number by a tensor as reciprocal times number.
		wave := float32(1/f) * float32(2*math.Pi)
		smooth := float32(float32(1/wave)*float32(original)) - float32(s.LowFreqFactor)
		smooth /= float32(s.HighFreqFactor - s.LowFreqFactor)
		switch {
		case wave > longest:
			inv[i] = f / factor
		case wave >= shortest:
			inv[i] = float32(float32(float32(1-smooth)*f)/factor) + float32(smooth*f)
		}
	}
	return inv
}
