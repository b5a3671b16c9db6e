package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"time"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/layerwise"
)

// plan proves a step's fit; the policy "auto" is chosen by it.
func plan(tr *layerwise.Trainer, memory string, micro []*batch.Batch) (*layerwise.Fit, error) {
	find := tr.Fit
	if memory == layerwise.MemoryAuto {
		find = tr.Choose
	}
	fit, err := find(micro, nil)
	if err != nil {
		return nil, err
	}
	return fit, fit.Refusal()
}

// predicted adds a plan's peak to the values of a measurement and, unless the peak
// measured is one from before, how many per cent it is over the measured one.
func predicted(value map[string]float64, fit *layerwise.Fit, before, measured float64) map[string]float64 {
	value["predicted GiB"], value["peak GiB"] = float64(fit.Peak)/(1<<30), measured
	if fit.Host > 0 {
		value["host GiB"] = float64(fit.Host) / (1 << 30)
	}
	if measured > before {
		value["prediction off %"] = (float64(fit.Peak)/(1<<30)/measured - 1) * 100
	}
	return value
}

// longest finds the longest row that fits into a pool, and trains on it.
//
// What 14.5 GiB hold at 7B, NF4 with double quantization, r=64 on q and v, bfloat16: weights
// 3.6 GiB, adapter and gradient 0.25; AdamW's states are in the host's memory but for the
// update, the inputs of 31 of 32 layers as well. A tensor [T, D] takes 8 KiB a token. At the
// peak, in attention's backward, about thirteen such tensors are on the device: the layer's
// input, the next one on its way, dx2, q, k, v, o, do, dq, dk, dv and cuDNN's float32
// dq, twice as large. So about 10 GiB hold about 100,000 tokens; a chunk's MLP (0.5 GiB
// at 4,096 tokens) and a part's unpacked weights (0.3 GiB) are less than what attention
// has by then.
func longest(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("longest", flag.ContinueOnError)
	s.flags(fs)
	from := fs.Int("from", 16384, "length of the first plan")
	length := fs.Int("length", 0, "train at this length, without looking for the longest")
	most := fs.Int("most", 1<<17, "length not to go beyond")
	grain := fs.Int("grain", 1024, "lengths are multiples of this")
	chunk := fs.Int("chunk", 4096, "tokens of a chunk")
	attends := fs.Bool("keep-attention", false, "layers keep their attention's output in the host's memory, too")
	plans := fs.Int("plans", 5, "plans at most: each compiles the programs of one length")
	steps := fs.Int("steps", 2, "steps to train at the longest")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ses, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer ses.base.Free()
	tr, err := ses.base.NewTrainer(ses.adapter, layerwise.TrainOptions{Dropout: 0.1, MaxGradNorm: 0.3, WeightDecay: 0.001, Optim: "paged_adamw_32bit", Memory: layerwise.MemoryOffload, Chunk: *chunk, KeepAttention: *attends})
	if err != nil {
		return err
	}
	defer tr.Free()
	find := func(n int) (*layerwise.Fit, error) {
		start := time.Now()
		fit, err := tr.Fit([]*batch.Batch{full(1, n, ses.ck.Config.VocabSize)}, nil)
		if err != nil {
			return nil, err
		}
		emit("longest", fmt.Sprintf("plan S=%d", n), fit.String()+"; "+fit.Account(), map[string]float64{"predicted GiB": float64(fit.Peak) / (1 << 30), "limit GiB": float64(fit.Limit) / (1 << 30),
			"host GiB": float64(fit.Host) / (1 << 30), "s": time.Since(start).Seconds(), "programs": float64(fit.Programs)})
		return fit, nil
	}
	n := *length
	if n == 0 {
		if n, err = search(*from, *most, *grain, *plans, find); err != nil {
			return err
		}
	}
	for {
		err := longestSteps(ses, tr, n, *steps, find)
		if !errors.Is(err, layerwise.ErrOutOfMemory) {
			return err
		}
		emit("longest", fmt.Sprintf("out of memory S=%d", n), err.Error(), nil)
		if n = n * 24 / 25 / *grain * *grain; n < *grain {
			return err
		}
	}
}

// longestSteps trains at one length.
func longestSteps(ses *session, tr *layerwise.Trainer, n, steps int, find func(n int) (*layerwise.Fit, error)) error {
	micro := []*batch.Batch{full(1, n, ses.ck.Config.VocabSize)}
	fit, err := find(n)
	if err == nil {
		err = fit.Refusal()
	}
	if err != nil {
		return err
	}
	for i := range steps {
		before, start := ses.peak(), time.Now()
		res, err := tr.Step(micro, 2e-4)
		if err != nil {
			return err
		}
		took := time.Since(start).Seconds()
		if res.Skipped || math.IsNaN(res.Loss) {
			return fmt.Errorf("step %d at S=%d: loss %v, skipped %v", i+1, n, res.Loss, res.Skipped)
		}
		emit("longest", fmt.Sprintf("step %d S=%d", i+1, n), ses.runsOn(), predicted(map[string]float64{"tok/s": float64(n) / took, "step s": took, "loss": res.Loss,
			"gradient norm": res.GradNorm, "GiB": ses.gib()}, fit, before, ses.peak()))
	}
	return nil
}

// search finds the longest length that fits by secants: the peak is nearly linear in
// it, so few plans do. Each plan narrows the range between the longest that fits and the
// shortest that does not.
func search(from, most, grain, plans int, find func(n int) (*layerwise.Fit, error)) (int, error) {
	low, high := 0, most/grain*grain+grain
	var last, fit *layerwise.Fit
	for n := max(grain, min(from, most)/grain*grain); plans > 0 && low < n && n < high; plans-- {
		last = fit
		var err error
		if fit, err = find(n); err != nil {
			return 0, err
		}
		if fit.Limit <= 0 { // no account of the memory: nothing to look for
			return n, nil
		}
		if fit.OK() {
			low = n
		} else {
			high = n
		}
		guess := float64(fit.LargestLength())
		if last != nil {
			room := layerwise.FitShare * float64(fit.Limit)
			guess = float64(n) + (room-float64(fit.Peak))*float64(n-last.Length)/float64(fit.Peak-last.Peak)
		}
		n = int(guess) / grain * grain
		if n <= low && high-low > grain && fit.OK() { // the guess was just under what fits: is the next too long?
			n = low + grain
		}
		n = min(n, high-grain)
	}
	if low == 0 {
		return 0, fit.Refusal()
	}
	return low, nil
}
