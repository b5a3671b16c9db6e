package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/train"
)

// realLengths are n lengths as instruction data has them: log-normal, mean about
// 350, from 16 tokens to limit, where longer ones are cut.
func realLengths(n, limit int) []int {
	rng := rand.New(rand.NewPCG(1, 350))
	out := make([]int, n)
	for i := range out {
		out[i] = max(16, min(limit, int(math.Exp(math.Log(270)+0.75*rng.NormFloat64()))))
	}
	return out
}

// documents are examples of random tokens with those lengths, all supervised.
func documents(lengths []int, vocab int) []batch.Example {
	rng := rand.New(rand.NewPCG(1, 351))
	out := make([]batch.Example, len(lengths))
	for i, n := range lengths {
		ids := make([]int32, n)
		for j := range ids {
			ids[j] = int32(rng.IntN(vocab))
		}
		out[i] = batch.Example{IDs: ids, Labels: append([]int32(nil), ids...)}
	}
	return out
}

// packedSpeed measures useful tokens/s (padding not counted) on documents of real
// lengths: packed rows and, unless they are to be alone, padded batches, grouped by length
// as the walkthrough's are, and shuffled. Grouped ones are 75 % useful in four lengths, so
// packing can gain a third there and what larger batches are faster for each token.
func packedSpeed(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("packed", flag.ContinueOnError)
	s.flags(fs)
	rows := fs.Int("batch", 4, "rows")
	length := fs.Int("length", 1024, "longest document, and tokens of a packed row")
	count := fs.Int("documents", 1000, "documents")
	steps := fs.Int("steps", 24, "steps of each kind")
	memory := fs.String("memory", layerwise.MemoryAuto, "memory policy")
	alone := fs.Bool("alone", false, "packed rows alone")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ses, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer ses.base.Free()
	docs := documents(realLengths(*count, *length), ses.ck.Config.VocabSize)
	whole, _, err := batch.Pack(docs, batch.PackOptions{Length: *length})
	if err != nil {
		return err
	}
	packed, err := documentSpeed(ctx, ses, "packed", whole, *rows, *steps, *memory)
	if err != nil || *alone {
		return err
	}
	ratios := map[string]float64{}
	for _, name := range []string{paddedGrouped, "padded, shuffled"} {
		padded, err := documentSpeed(ctx, ses, name, docs, *rows, *steps, *memory)
		if err != nil {
			return err
		}
		ratios["over "+name] = packed / padded
	}
	emit("packed", "ratio", "useful tokens/s of packed rows", ratios)
	return nil
}

// paddedGrouped names the walkthrough's batches.
const paddedGrouped = "padded, grouped by length"

// documentSpeed trains on the examples and returns useful tokens/s over the steps
// that compiled nothing.
func documentSpeed(ctx context.Context, ses *session, name string, examples []batch.Example, rows, steps int, memory string) (float64, error) {
	tr, err := ses.base.NewTrainer(ses.adapter, layerwise.TrainOptions{Dropout: 0.1, MaxGradNorm: 0.3, WeightDecay: 0.001, Memory: memory})
	if err != nil {
		return 0, err
	}
	defer tr.Free()
	p, err := train.NewPlan(train.Config{MaxSteps: steps, BatchSize: rows, LearningRate: 2e-4, GroupByLength: name == paddedGrouped, Seed: 1}, examples, nil)
	if err != nil {
		return 0, err
	}
	micro, err := p.Largest()
	if err != nil {
		return 0, err
	}
	if _, err := plan(tr, memory, micro); err != nil {
		return 0, err
	}
	ses.trace.reset()
	tokens, seconds, compile, counted := 0, 0.0, 0.0, 0
	last := time.Now()
	_, err = p.Run(ctx, tr, nil, train.Hooks{Step: func(r train.Record) {
		took, compiled := time.Since(last).Seconds(), ses.trace.reset().Seconds()
		if compile += compiled; compiled == 0 {
			tokens, seconds, counted = tokens+r.Tokens, seconds+took, counted+1
		}
		last = time.Now()
	}})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if counted == 0 {
		return 0, fmt.Errorf("%s: each of %d steps compiled something: measure more with -steps", name, steps)
	}
	speed := float64(tokens) / seconds
	emit("packed", name, fmt.Sprintf("lengths of batches %v, %s, %.1f GiB of unpacked layers", p.Buckets, ses.runsOn(), float64(ses.base.Resident())/(1<<30)), map[string]float64{
		"useful tok/s": speed, "step ms": seconds / float64(counted) * 1e3, "tokens a step": float64(tokens) / float64(counted), "steps counted": float64(counted),
		"compile s": compile, "share useful": float64(p.Tokens) / float64(p.Padded), "batches an epoch": float64(p.MicroBatches)})
	return speed, nil
}
