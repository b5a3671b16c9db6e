package sample

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
)

// A BatchDecoder is a model that holds several sequences, one token of each a step.
// The logits it returns are float32 [V] for each row; they may be overwritten by its
// next call.
type BatchDecoder interface {
	// Prefill reads a prompt for each row, once, before any Step.
	Prefill(prompts [][]int32) ([][]float32, error)

	// Step reads one more token of each row. Rows that have ended take any token.
	Step(ids []int32) ([][]float32, error)

	// Close frees the cache. GenerateBatch leaves that to whoever made it.
	Close()
}

// GreedyBatch is a BatchDecoder that picks the likeliest tokens on its device, as
// [Greedy] does.
type GreedyBatch interface {
	BatchDecoder

	// Greedy is [Greedy]'s method for all rows at once.
	Greedy(n int, each func(ids []int32) (more bool, err error)) error
}

// Answer is what one row of a batch became.
type Answer struct {
	IDs  []int32 // the new tokens, the ending one included
	Stop StopReason
}

// GenerateBatch is [Generate] for several prompts at once: each row ends by itself,
// at one of cfg.EOS or its limit, and the batch with its last row. onToken (if not nil)
// gets each token with its row. When it fails or is interrupted the answers so far are
// returned with the error; rows that had not ended say so.
//
// Row r draws from PCG with state (Seed, r): row 0 draws what Generate would.
func GenerateBatch(ctx context.Context, d BatchDecoder, prompts [][]int32, cfg Config, onToken func(row int, id int32) error) ([]Answer, error) {
	b, err := newBatchRun(prompts, cfg, onToken)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return b.end(StopInterrupted), fmt.Errorf("sample: interrupted before the prompts were read: %w", err)
	}
	logits, err := d.Prefill(prompts)
	if err != nil {
		return b.end(StopFailed), fmt.Errorf("sample: reading %d prompts: %w", len(prompts), err)
	}
	if g, ok := d.(GreedyBatch); ok && b.draws[0].greedy && len(b.draws[0].chain) == 0 {
		return b.greedy(ctx, g)
	}
	ids := make([]int32, len(prompts))
	for {
		for r, draw := range b.draws {
			if b.out[r].Stop != "" {
				continue // its last token once more
			}
			if ids[r], err = draw.next(b.all[r], logits[r]); err != nil {
				return b.end(StopFailed), fmt.Errorf("sample: row %d, token %d of the answer: %w", r, len(b.out[r].IDs)+1, err)
			}
		}
		if err := b.take(ids); err != nil {
			return b.end(StopFailed), err
		}
		switch {
		case b.open == 0:
			return b.out, nil
		case ctx.Err() != nil:
			return b.end(StopInterrupted), fmt.Errorf("sample: interrupted after %d tokens: %w", b.steps, ctx.Err())
		}
		if logits, err = d.Step(ids); err != nil {
			return b.end(StopFailed), fmt.Errorf("sample: decoding after %d tokens: %w", b.steps, err)
		}
	}
}

// batchRun is the state of one GenerateBatch.
type batchRun struct {
	cfg     Config
	onToken func(row int, id int32) error
	all     [][]int32 // prompts and answers
	limits  []int
	draws   []*drawer
	out     []Answer
	open    int // rows that have not ended
	steps   int
}

func newBatchRun(prompts [][]int32, cfg Config, onToken func(row int, id int32) error) (*batchRun, error) {
	if len(prompts) == 0 {
		return nil, fmt.Errorf("sample: no prompts: give at least one")
	}
	b := &batchRun{cfg: cfg, onToken: onToken, out: make([]Answer, len(prompts)), open: len(prompts)}
	for r, p := range prompts {
		if len(p) == 0 {
			return nil, fmt.Errorf("sample: prompt %d is empty: give at least one token, for example the begin-of-sequence token", r)
		}
		chain, err := Processors(cfg)
		if err != nil {
			return nil, err
		}
		limit, err := cfg.limit(len(p))
		if err != nil {
			return nil, fmt.Errorf("sample: prompt %d: %w", r, err)
		}
		draw := newDrawer(cfg, chain)
		draw.rng = rand.NewPCG(uint64(cfg.Seed), uint64(r))
		b.all, b.limits, b.draws = append(b.all, slices.Clone(p)), append(b.limits, limit), append(b.draws, draw)
	}
	return b, nil
}

// take adds one token to each row that has not ended.
func (b *batchRun) take(ids []int32) error {
	b.steps++
	for r, id := range ids {
		a := &b.out[r]
		if a.Stop != "" {
			continue
		}
		a.IDs, b.all[r] = append(a.IDs, id), append(b.all[r], id)
		switch {
		case slices.Contains(b.cfg.EOS, id):
			a.Stop = StopEOS
		case len(a.IDs) == b.limits[r]:
			a.Stop = StopLength
		}
		if a.Stop != "" {
			b.open--
		}
		if b.onToken != nil {
			if err := b.onToken(r, id); err != nil {
				return fmt.Errorf("sample: handing on token %d of row %d: %w", len(a.IDs), r, err)
			}
		}
	}
	return nil
}

// greedy runs the batch with the tokens picked by g.
func (b *batchRun) greedy(ctx context.Context, g GreedyBatch) ([]Answer, error) {
	var failed error
	interrupted := false
	err := g.Greedy(slices.Max(b.limits), func(ids []int32) (bool, error) {
		if failed = b.take(ids); failed != nil {
			return false, failed
		}
		interrupted = b.open > 0 && ctx.Err() != nil
		return b.open > 0 && !interrupted, nil
	})
	switch {
	case failed != nil:
		return b.end(StopFailed), failed
	case err != nil:
		return b.end(StopFailed), fmt.Errorf("sample: decoding after %d tokens: %w", b.steps, err)
	case interrupted:
		return b.end(StopInterrupted), fmt.Errorf("sample: interrupted after %d tokens: %w", b.steps, ctx.Err())
	}
	return b.out, nil
}

// end notes why the rows that had not ended ended.
func (b *batchRun) end(why StopReason) []Answer {
	for r := range b.out {
		if b.out[r].Stop == "" {
			b.out[r].Stop = why
		}
	}
	return b.out
}
