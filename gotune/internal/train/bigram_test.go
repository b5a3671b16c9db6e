package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// bigram is a Stepper that computes: a language model whose logits after token
// a are row a of a table [V, V], trained by SGD with momentum on the mean
// cross-entropy. Its randomness (a dropped table entry per step) depends on its
// own counter, which is part of its state, like a dropout's.
type bigram struct {
	v        int
	w, m     []float32
	counter  int64
	seen     [][]int32 // ids of each micro-batch, in order
	rates    []float64
	badAt    int     // step (from 1) whose loss is NaN
	skipAt   [2]int  // steps [from, to) whose gradient is not finite
	scale    float64 // loss scale reported
	failEval bool
}

func newBigram(v int) *bigram { return &bigram{v: v, w: make([]float32, v*v), m: make([]float32, v*v)} }

// probs is the softmax of row a.
func (s *bigram) probs(a int32) []float64 {
	row := s.w[int(a)*s.v : int(a+1)*s.v]
	top := float64(slices.Max(row))
	out := make([]float64, s.v)
	sum := 0.0
	for i, x := range row {
		out[i] = math.Exp(float64(x) - top)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// each calls f with every supervised prediction.
func each(b *batch.Batch, f func(from, to int32)) {
	for i := range b.IDs {
		if i%b.S > 0 && b.Labels[i] != batch.Ignore && b.Segments[i] != 0 && b.Segments[i] == b.Segments[i-1] {
			f(b.IDs[i-1], b.Labels[i])
		}
	}
}

func (s *bigram) Step(micro []*batch.Batch, lr float64) (StepResult, error) {
	s.counter++
	s.rates = append(s.rates, lr)
	var r StepResult
	grad := make([]float64, len(s.w))
	for _, b := range micro {
		if err := b.Check(s.v); err != nil {
			return r, err
		}
		s.seen = append(s.seen, b.IDs)
		r.Tokens += b.Tokens()
		each(b, func(from, to int32) {
			p := s.probs(from)
			r.Loss -= math.Log(p[to])
			r.Supervised++
			for j := range p {
				grad[int(from)*s.v+j] += p[j]
			}
			grad[int(from)*s.v+int(to)]--
		})
	}
	r.Loss /= float64(r.Supervised)
	drop := rand.New(rand.NewPCG(7, uint64(s.counter))).IntN(len(grad))
	grad[drop] = 0
	for i := range grad {
		grad[i] /= float64(r.Supervised)
		r.GradNorm += grad[i] * grad[i]
	}
	r.GradNorm = math.Sqrt(r.GradNorm)
	r.LossScale = s.scale
	if int(s.counter) == s.badAt {
		r.Loss = math.NaN()
		return r, nil
	}
	if int(s.counter) >= s.skipAt[0] && int(s.counter) < s.skipAt[1] {
		r.Skipped, r.GradNorm = true, math.Inf(1)
		return r, nil
	}
	for i, g := range grad {
		s.m[i] = 0.9*s.m[i] + float32(g)
		s.w[i] -= float32(lr) * s.m[i]
	}
	return r, nil
}

func (s *bigram) Evaluate(b *batch.Batch) (float64, int, error) {
	if s.failEval {
		return 0, 0, fmt.Errorf("device lost")
	}
	sum, n := 0.0, 0
	each(b, func(from, to int32) { sum, n = sum-math.Log(s.probs(from)[to]), n+1 })
	return sum, n, nil
}

func (s *bigram) State() ([]safetensors.Tensor, error) {
	m, err := safetensors.FromFloat32("momentum", []int{s.v, s.v}, s.m, "F32")
	if err != nil {
		return nil, err
	}
	c, err := safetensors.FromInt64("counter", []int{1}, []int64{s.counter})
	return []safetensors.Tensor{m, c}, err
}

func (s *bigram) Restore(ts []safetensors.Tensor) error {
	if len(ts) != 2 {
		return fmt.Errorf("state has %d tensors, wanted 2", len(ts))
	}
	if ts[0].Name != "momentum" {
		ts = []safetensors.Tensor{ts[1], ts[0]}
	}
	m, err := ts[0].Float32()
	if err != nil {
		return err
	}
	c, err := ts[1].Int64s()
	if err != nil {
		return err
	}
	s.m, s.counter = m, c[0]
	return nil
}

// corpus makes n rows over 12 tokens in which token t is mostly followed by
// 2+(3t mod 9); rows begin with 1 and end with 2.
func corpus(n int, seed uint64) []batch.Example {
	rng := rand.New(rand.NewPCG(seed, 0))
	out := make([]batch.Example, n)
	for i := range out {
		ids := []int32{1}
		for range 3 + rng.IntN(20) {
			next := 3 + ids[len(ids)-1]*3%9
			if rng.IntN(5) == 0 {
				next = 3 + rng.Int32N(9)
			}
			ids = append(ids, next)
		}
		ids = append(ids, 2)
		out[i] = batch.Example{IDs: ids, Labels: slices.Clone(ids)}
	}
	return out
}
