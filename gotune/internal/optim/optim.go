// Package optim is the optimizer of adapter training: AdamW with decoupled weight
// decay (Loshchilov & Hutter, arXiv:1711.05101) and clipping by the global
// gradient norm (Pascanu et al., arXiv:1211.5063), as PyTorch computes them. Each
// is here twice: in plain Go, which is the reference, and as a graph over flat
// float32 vectors, which is what runs.
package optim

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Names lists the optimizers that [Check] accepts, under transformers' names. On
// one device they are the same mathematics: "fused" and "paged" only say how
// PyTorch and bitsandbytes run it.
var Names = []string{"adamw_torch", "adamw_torch_fused", "adamw_hf", "paged_adamw_32bit", "paged_adamw", "adamw"}

// Check reports whether the optimizer of that name can be used. The empty name
// stands for adamw_torch.
func Check(name string) error {
	if name == "" || slices.Contains(Names, name) {
		return nil
	}
	if strings.Contains(name, "8bit") {
		return fmt.Errorf("optimizer %q: 8-bit states are not supported; use paged_adamw_32bit (adapter states are small: 8 bytes a trained weight)", name)
	}
	return fmt.Errorf("optimizer %q is unknown; want one of %s", name, strings.Join(Names, ", "))
}

// AdamW holds the constants of the update
//
//	p ← p·(1 − lr·λ)
//	m ← m + (1 − β₁)(g − m)
//	v ← β₂·v + (1 − β₂)·g²
//	p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//
// with t counted from 1. Hyper-parameters are rounded to float32 where PyTorch
// rounds them.
type AdamW struct {
	Beta1, Beta2, Eps float64
	WeightDecay       float64 // λ
}

// Hyper are the scalars of step t, in the order that [AdamW.Graph] reads them.
type Hyper [6]float32

// Places in Hyper.
const (
	hyperDecay   = iota // 1 − lr·λ
	hyperMix            // 1 − β₁
	hyperBeta2          // β₂
	hyperSquare         // 1 − β₂
	hyperRoot           // √(1 − β₂ᵗ)
	hyperStep           // lr/(1 − β₁ᵗ)
	hyperScalars        // their number
)

// Hyper computes the scalars of step t ≥ 1 with learning rate lr.
func (o AdamW) Hyper(lr float64, t int) (h Hyper) {
	h[hyperDecay] = float32(1 - lr*o.WeightDecay)
	h[hyperMix] = float32(1 - o.Beta1)
	h[hyperBeta2] = float32(o.Beta2)
	h[hyperSquare] = float32(1 - o.Beta2)
	h[hyperRoot] = float32(math.Sqrt(1 - math.Pow(o.Beta2, float64(t))))
	h[hyperStep] = float32(lr / (1 - math.Pow(o.Beta1, float64(t))))
	return h
}

// Step updates p in place with gradient g and states m and v, all of one length.
func (o AdamW) Step(p, g, m, v []float32, lr float64, t int) {
	h, eps := o.Hyper(lr, t), float32(o.Eps)
	for i := range p {
		m[i] += h[hyperMix] * (g[i] - m[i])
		v[i] = h[hyperBeta2]*v[i] + h[hyperSquare]*g[i]*g[i]
		root := float32(math.Sqrt(float64(v[i])))
		p[i] = p[i]*h[hyperDecay] - h[hyperStep]*(m[i]/(root/h[hyperRoot]+eps))
	}
}

// Norm is the Euclidean norm of all gradients together.
func Norm(grads ...[]float32) float64 {
	var sum float64
	for _, g := range grads {
		for _, v := range g {
			sum += float64(v) * float64(v)
		}
	}
	return math.Sqrt(sum)
}

// ClipFactor is what gradients are multiplied by, so that their norm is at most
// limit: min(1, limit/(norm + 1e-6)). A limit of 0 turns clipping off, as
// transformers' max_grad_norm does.
func ClipFactor(norm, limit float64) float64 {
	if limit == 0 {
		return 1
	}
	return min(1, limit/(norm+1e-6))
}
