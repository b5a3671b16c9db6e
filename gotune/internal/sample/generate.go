// Package sample turns a model's logits into text: the logits processors of
// transformers, in its order, and the loop that draws one token after another
// from a [Decoder].
//
// V is the size of the vocabulary; logits are float32 [V]. The package is plain
// Go and knows nothing of devices or tokenizers.
package sample

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// A Decoder is a model with a key-value cache that holds one sequence. The
// logits it returns are those after its last token, float32 [V]; they may be
// overwritten by its next call.
type Decoder interface {
	// Prefill reads the prompt, once, before any Step.
	Prefill(ids []int32) ([]float32, error)

	// Step reads one more token.
	Step(id int32) ([]float32, error)

	// Close frees the cache. Generate leaves that to whoever made the Decoder.
	Close()
}

// Greedy is a Decoder that can pick the likeliest tokens on its device, without
// the logits coming to the host. Generate uses it for greedy decoding without a
// repetition penalty.
type Greedy interface {
	Decoder

	// Greedy draws up to n tokens, each the one with the largest logit, the first
	// of equals, from where the last call left, and passes each on until each
	// says that there shall be no more. It fails where a logit is NaN or +Inf.
	Greedy(n int, each func(id int32) (more bool, err error)) error
}

// DefaultMaxLength is the limit on prompt and answer together that the
// walkthrough uses.
const DefaultMaxLength = 200

// Config says how tokens are chosen and when to stop. The zero value is greedy
// decoding up to DefaultMaxLength tokens.
type Config struct {
	// MaxLength limits prompt and answer together, in tokens. Default
	// DefaultMaxLength.
	MaxLength int

	// MaxNewTokens limits the answer alone. If positive, MaxLength is not
	// looked at, as in transformers.
	MaxNewTokens int

	// Temperature divides the logits. 0 is greedy: the largest logit, the first
	// of equals; TopK, TopP, MinP and TypicalP then have no effect.
	Temperature float64

	// TopK keeps the k largest logits (and all that equal the smallest of
	// them). 0 keeps all.
	TopK int

	// TopP keeps the fewest tokens whose probabilities sum to at least p, in (0, 1]. 0
	// and 1 keep all. Holtzman et al., arXiv:1904.09751.
	TopP float64

	// MinP drops tokens less likely than MinP times the likeliest, in [0, 1].
	// Nguyen et al., arXiv:2407.01082.
	MinP float64

	// TypicalP keeps the mass p of tokens whose surprise is nearest to the
	// entropy, in (0, 1]. 0 and 1 keep all. Meister et al., arXiv:2202.00666.
	TypicalP float64

	// RepetitionPenalty divides positive and multiplies negative logits of
	// tokens already present, prompt included. 0 and 1 mean none. Keskar et al.,
	// arXiv:1909.05858.
	RepetitionPenalty float64

	// Seed picks the random numbers: the same seed, config and logits give the
	// same tokens on every machine.
	Seed int64

	// EOS are the ids that end an answer. None means it runs to its limit.
	EOS []int32
}

// A StopReason says why an answer ended.
type StopReason string

// The reasons.
const (
	StopEOS         StopReason = "eos"         // the model ended it
	StopLength      StopReason = "length"      // MaxLength or MaxNewTokens reached
	StopInterrupted StopReason = "interrupted" // ctx was cancelled
	StopFailed      StopReason = "failed"      // the decoder or onToken failed
)

// limit is the number of tokens that may be drawn after a prompt of n.
func (c *Config) limit(n int) (int, error) {
	if c.MaxNewTokens > 0 {
		return c.MaxNewTokens, nil
	}
	most := c.MaxLength
	if most == 0 {
		most = DefaultMaxLength
	}
	if n >= most {
		return 0, fmt.Errorf("sample: the prompt has %d tokens, MaxLength %d (prompt included) leaves no room for an answer: raise MaxLength or set MaxNewTokens", n, most)
	}
	return most - n, nil
}

// Generate reads the prompt and draws tokens until one of cfg.EOS, a limit, or
// the end of ctx. It returns the new tokens, the ending one included, and passes
// each to onToken (if not nil) as it comes. When it fails or is interrupted the
// tokens so far are returned with the error (ctx's own, wrapped). The decoder
// stays open.
//
// Randomness: math/rand/v2's PCG with state (Seed, 0); each token takes one
// 53-bit uniform number and inverts the cumulative distribution in id order.
func Generate(ctx context.Context, d Decoder, prompt []int32, cfg Config, onToken func(id int32) error) ([]int32, StopReason, error) {
	if len(prompt) == 0 {
		return nil, StopFailed, fmt.Errorf("sample: the prompt is empty: give at least one token, for example the begin-of-sequence token")
	}
	chain, err := Processors(cfg)
	if err != nil {
		return nil, StopFailed, err
	}
	limit, err := cfg.limit(len(prompt))
	if err != nil {
		return nil, StopFailed, err
	}
	if err := ctx.Err(); err != nil {
		return nil, StopInterrupted, fmt.Errorf("sample: interrupted before the prompt was read: %w", err)
	}
	all := slices.Clone(prompt)
	logits, err := d.Prefill(all)
	if err != nil {
		return nil, StopFailed, fmt.Errorf("sample: reading a prompt of %d tokens: %w", len(prompt), err)
	}
	if g, ok := d.(Greedy); ok && cfg.Temperature == 0 && len(chain) == 0 {
		return generateGreedy(ctx, g, limit, cfg.EOS, onToken)
	}
	draw := newDrawer(cfg, chain)
	for {
		answer := all[len(prompt):]
		id, err := draw.next(all, logits)
		if err != nil {
			return answer, StopFailed, fmt.Errorf("sample: token %d of the answer: %w", len(answer)+1, err)
		}
		all = append(all, id)
		answer = all[len(prompt):]
		if onToken != nil {
			if err := onToken(id); err != nil {
				return answer, StopFailed, fmt.Errorf("sample: handing on token %d of the answer: %w", len(answer), err)
			}
		}
		switch {
		case slices.Contains(cfg.EOS, id):
			return answer, StopEOS, nil
		case len(answer) == limit:
			return answer, StopLength, nil
		}
		if err := ctx.Err(); err != nil {
			return answer, StopInterrupted, fmt.Errorf("sample: interrupted after %d tokens: %w", len(answer), err)
		}
		if logits, err = d.Step(id); err != nil {
			return answer, StopFailed, fmt.Errorf("sample: decoding after %d tokens: %w", len(all), err)
		}
	}
}

// generateGreedy is the loop of [Generate] with the tokens picked by g.
func generateGreedy(ctx context.Context, g Greedy, limit int, eos []int32, onToken func(id int32) error) (answer []int32, stop StopReason, err error) {
	stop = StopLength
	err = g.Greedy(limit, func(id int32) (bool, error) {
		answer = append(answer, id)
		if onToken != nil {
			if err := onToken(id); err != nil {
				return false, fmt.Errorf("handing on token %d: %w", len(answer), err)
			}
		}
		switch {
		case slices.Contains(eos, id):
			stop = StopEOS
			return false, nil
		case ctx.Err() != nil && len(answer) < limit:
			stop = StopInterrupted
			return false, nil
		}
		return true, nil
	})
	switch {
	case err != nil:
		return answer, StopFailed, fmt.Errorf("sample: decoding after %d tokens of the answer: %w", len(answer), err)
	case stop == StopInterrupted:
		return answer, stop, fmt.Errorf("sample: interrupted after %d tokens: %w", len(answer), ctx.Err())
	}
	return answer, stop, nil
}

// drawer picks tokens; it owns the working copy of the logits and the randomness.
type drawer struct {
	chain  Chain
	greedy bool
	rng    *rand.PCG
	work   []float32
	probs  []float32
}

func newDrawer(cfg Config, chain Chain) *drawer {
	return &drawer{chain: chain, greedy: cfg.Temperature == 0, rng: rand.NewPCG(uint64(cfg.Seed), 0)}
}

func (d *drawer) next(ids []int32, logits []float32) (int32, error) {
	for i, x := range logits {
		if x != x || math.IsInf(float64(x), 1) {
			return 0, fmt.Errorf("logit %d of %d is %g: the weights hold NaN or Inf, or the compute precision overflowed", i, len(logits), x)
		}
	}
	d.work = append(d.work[:0], logits...)
	d.chain.Process(ids, d.work)
	best := Argmax(d.work)
	if best < 0 || math.IsInf(float64(d.work[best]), -1) {
		return 0, fmt.Errorf("no token has a finite logit among %d", len(logits))
	}
	if d.greedy {
		return best, nil
	}
	d.probs = Softmax(d.probs[:0], d.work)
	return d.pick(best), nil
}

// pick inverts the cumulative distribution at a uniform number in [0, 1).
func (d *drawer) pick(best int32) int32 {
	total := 0.0
	for _, p := range d.probs {
		total += float64(p)
	}
	u := float64(d.rng.Uint64()>>11) / (1 << 53) * total
	sum := 0.0
	for i, p := range d.probs {
		if sum += float64(p); u < sum {
			return int32(i)
		}
	}
	return best
}

// Argmax returns the index of the largest value, the first of equals; -1 for
// none.
func Argmax(x []float32) int32 {
	best := int32(-1)
	for i, v := range x {
		if best < 0 || v > x[best] {
			best = int32(i)
		}
	}
	return best
}
