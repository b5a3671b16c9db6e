package sample

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A Processor changes logits [V] in place, given the tokens so far (prompt
// included). A dropped token's logit becomes -Inf.
type Processor interface {
	Process(ids []int32, logits []float32)
}

// A Chain applies processors one after another.
type Chain []Processor

// Process applies each processor in order.
func (c Chain) Process(ids []int32, logits []float32) {
	for _, p := range c {
		p.Process(ids, logits)
	}
}

// Processors builds the chain of cfg in transformers' order: repetition
// penalty, temperature, top-k, top-p, min-p, typical-p. Greedy decoding takes
// the penalty alone. It fails for values outside their ranges.
func Processors(cfg Config) (Chain, error) {
	bad := func(field string, got any, want string) (Chain, error) {
		return nil, fmt.Errorf("sample: %s is %v, wanted %s", field, got, want)
	}
	inUnit := func(x float64) bool { return x >= 0 && x <= 1 }
	positive := func(x float64) bool { return x >= 0 && !math.IsInf(x, 1) }
	switch {
	case !positive(cfg.Temperature):
		return bad("Temperature", cfg.Temperature, "0 (greedy) or a positive number")
	case cfg.TopK < 0:
		return bad("TopK", cfg.TopK, "0 (all) or a positive number")
	case !inUnit(cfg.TopP):
		return bad("TopP", cfg.TopP, "a number from 0 to 1 (0 and 1 keep all)")
	case !inUnit(cfg.MinP):
		return bad("MinP", cfg.MinP, "a number from 0 to 1")
	case !inUnit(cfg.TypicalP):
		return bad("TypicalP", cfg.TypicalP, "a number from 0 to 1 (0 and 1 keep all)")
	case !positive(cfg.RepetitionPenalty):
		return bad("RepetitionPenalty", cfg.RepetitionPenalty, "0 or 1 (none) or a positive number, usually 1.0 to 1.3")
	case cfg.MaxLength < 0 || cfg.MaxNewTokens < 0:
		return bad("MaxLength or MaxNewTokens", min(cfg.MaxLength, cfg.MaxNewTokens), "0 (default) or a positive number")
	}
	var c Chain
	if p := cfg.RepetitionPenalty; p != 0 && p != 1 {
		c = append(c, RepetitionPenalty(p))
	}
	if cfg.Temperature == 0 {
		return c, nil
	}
	if cfg.Temperature != 1 {
		c = append(c, Temperature(cfg.Temperature))
	}
	if cfg.TopK > 0 {
		c = append(c, TopK(cfg.TopK))
	}
	if cfg.TopP > 0 && cfg.TopP < 1 {
		c = append(c, TopP(cfg.TopP))
	}
	if cfg.MinP > 0 {
		c = append(c, MinP(cfg.MinP))
	}
	if cfg.TypicalP > 0 && cfg.TypicalP < 1 {
		c = append(c, TypicalP(cfg.TypicalP))
	}
	return c, nil
}

var dropped = float32(math.Inf(-1))

// RepetitionPenalty p divides the positive and multiplies the negative logits of
// tokens already present by p, each once however often the token occurred.
type RepetitionPenalty float64

// Process implements [Processor].
func (p RepetitionPenalty) Process(ids []int32, logits []float32) {
	seen := make(map[int32]bool, len(ids))
	for _, id := range ids {
		if id < 0 || int(id) >= len(logits) || seen[id] {
			continue
		}
		seen[id] = true
		if logits[id] < 0 {
			logits[id] *= float32(p)
		} else {
			logits[id] /= float32(p)
		}
	}
}

// Temperature T divides all logits by T > 0.
type Temperature float64

// Process implements [Processor].
func (t Temperature) Process(_ []int32, logits []float32) {
	for i := range logits {
		logits[i] /= float32(t)
	}
}

// TopK k drops logits smaller than the k-th largest; ties with it all stay.
type TopK int

// Process implements [Processor].
func (k TopK) Process(_ []int32, logits []float32) {
	if k <= 0 || int(k) >= len(logits) {
		return
	}
	least := kthLargest(logits, int(k))
	for i, x := range logits {
		if x < least {
			logits[i] = dropped
		}
	}
}

// kthLargest keeps the k largest values in a heap whose root is their least.
func kthLargest(x []float32, k int) float32 {
	heap := slices.Clone(x[:k])
	down := func(i int) {
		for {
			c := 2*i + 1
			if c >= k {
				return
			}
			if c+1 < k && heap[c+1] < heap[c] {
				c++
			}
			if heap[i] <= heap[c] {
				return
			}
			heap[i], heap[c] = heap[c], heap[i]
			i = c
		}
	}
	for i := k/2 - 1; i >= 0; i-- {
		down(i)
	}
	for _, v := range x[k:] {
		if v > heap[0] {
			heap[0] = v
			down(0)
		}
	}
	return heap[0]
}

// TopP p drops the least likely tokens as long as their probabilities sum to at
// most 1-p. The likeliest always stays.
type TopP float64

// Process implements [Processor]. Of equally likely tokens at the border those
// with smaller ids go first.
func (p TopP) Process(_ []int32, logits []float32) {
	probs := Softmax(nil, logits)
	order := finite(logits)
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(logits[a], logits[b]) })
	limit := float32(1 - float64(p))
	sum := 0.0
	for _, i := range order[:max(len(order)-1, 0)] {
		if sum += float64(probs[i]); float32(sum) > limit {
			return
		}
		logits[i] = dropped
	}
}

// MinP p drops tokens less likely than p times the likeliest.
type MinP float64

// Process implements [Processor].
func (p MinP) Process(_ []int32, logits []float32) {
	probs := Softmax(nil, logits)
	best := Argmax(probs)
	if best < 0 {
		return
	}
	least := float32(p) * probs[best]
	for i := range logits {
		if probs[i] < least {
			logits[i] = dropped
		}
	}
}

// TypicalP p keeps the tokens whose surprise -ln p is nearest to the
// distribution's entropy, the fewest whose probabilities reach p; all that are
// as near as the last of them stay too.
type TypicalP float64

// Process implements [Processor].
func (p TypicalP) Process(_ []int32, logits []float32) {
	order := finite(logits)
	if len(order) == 0 {
		return
	}
	probs := Softmax(nil, logits)
	logZ := logSumExp(logits)
	entropy := 0.0
	for _, i := range order {
		entropy -= float64(logits[i]-logZ) * math.Exp(float64(logits[i]-logZ))
	}
	far := make([]float32, len(logits))
	for _, i := range order {
		far[i] = float32(math.Abs(float64(-(logits[i] - logZ) - float32(entropy))))
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(far[a], far[b]) })
	sum, last := 0.0, 0
	for last < len(order)-1 {
		if sum += float64(probs[order[last]]); float32(sum) >= float32(p) {
			break
		}
		last++
	}
	limit := far[order[last]]
	for _, i := range order[1:] {
		if far[i] > limit {
			logits[i] = dropped
		}
	}
}

// finite returns the indices of logits that are not -Inf.
func finite(logits []float32) []int {
	out := make([]int, 0, len(logits))
	for i, x := range logits {
		if x != dropped {
			out = append(out, i)
		}
	}
	return out
}

// Softmax appends exp(x_i - max x) / Σ exp(x_j - max x) to dst: float32 values
// from float64 sums. A logit of -Inf has probability 0.
func Softmax(dst, x []float32) []float32 {
	if len(x) == 0 {
		return dst
	}
	top := float64(slices.Max(x))
	from := len(dst)
	sum := 0.0
	for _, v := range x {
		e := math.Exp(float64(v) - top)
		sum += e
		dst = append(dst, float32(e))
	}
	for i := range dst[from:] {
		dst[from+i] = float32(float64(dst[from+i]) / sum)
	}
	return dst
}

// logSumExp is ln Σ exp(x_i), in float64 inside.
func logSumExp(x []float32) float32 {
	top := float64(slices.Max(x))
	sum := 0.0
	for _, v := range x {
		sum += math.Exp(float64(v) - top)
	}
	return float32(top + math.Log(sum))
}
