package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
// packing can gain a third there and what larger batches are faster for each token. A peer
// pads each batch to its longest document, so it gets the same batches (-batches)
// without our four lengths: 98 % of their tokens are useful, in 49 shapes.
func packedSpeed(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("packed", flag.ContinueOnError)
	s.flags(fs)
	rows := fs.Int("batch", 4, "rows")
	length := fs.Int("length", 1024, "longest document, and tokens of a packed row")
	count := fs.Int("documents", 1000, "documents")
	steps := fs.Int("steps", groupSteps, "steps of each kind; other than multiples of the default measure too many long or short groups")
	memory := fs.String("memory", layerwise.MemoryAuto, "memory policy")
	alone := fs.Bool("alone", false, "packed rows alone")
	batches := fs.String("batches", "", "file to write the grouped batches to, for a peer to train on")
	if err := fs.Parse(args); err != nil {
		return err
	}
	lengths := realLengths(*count, *length)
	if *batches != "" { // first, so that a peer has them whatever happens here
		if err := writeBatches(*batches, lengths, *rows, *steps); err != nil {
			return err
		}
	}
	ses, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer ses.base.Free()
	docs := documents(lengths, ses.ck.Config.VocabSize)
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

// groupSteps is how many batches are sorted by length together, longest first (batch.LengthGrouped):
// the first 24 of them have half as many tokens again as the mean batch, all 50 have the mean.
const groupSteps = 50

// orderSeed is the seed of the examples' order.
const orderSeed = 1

// documentConfig is how the named kind of batches is trained on.
func documentConfig(name string, rows, steps int) train.Config {
	return train.Config{MaxSteps: steps, BatchSize: rows, LearningRate: 2e-4, GroupByLength: name == paddedGrouped, Seed: orderSeed}
}

// groupedBatches are the lengths of the documents of each of the batches that steps of
// paddedGrouped train on.
func groupedBatches(lengths []int, rows, steps int) ([][]int, error) {
	if len(lengths) == 0 || rows < 1 || steps < 1 {
		return nil, fmt.Errorf("%d batches of %d rows of %d documents: want one at least of each", steps, rows, len(lengths))
	}
	var out [][]int
	for epoch := 0; ; epoch++ {
		order, err := batch.Order(lengths, rows, true, orderSeed, epoch)
		if err != nil {
			return nil, err
		}
		for chunk := range slices.Chunk(order, rows) {
			b := make([]int, len(chunk))
			for i, j := range chunk {
				b[i] = lengths[j]
			}
			if out = append(out, b); len(out) == steps {
				return out, nil
			}
		}
	}
}

// writeBatches writes groupedBatches as JSON: a list of batches, each a list of lengths. Whoever
// reads the file finds it whole.
func writeBatches(path string, lengths []int, rows, steps int) error {
	list, err := groupedBatches(lengths, rows, steps)
	if err != nil {
		return fmt.Errorf("batches for a peer: %w", err)
	}
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("write batches for a peer: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error is the one to report
		return fmt.Errorf("write batches for a peer: %w", err)
	}
	return nil
}

// documentSpeed trains on the examples and returns useful tokens/s over the steps
// that compiled nothing.
func documentSpeed(ctx context.Context, ses *session, name string, examples []batch.Example, rows, steps int, memory string) (float64, error) {
	tr, err := ses.base.NewTrainer(ses.adapter, layerwise.TrainOptions{Dropout: 0.1, MaxGradNorm: 0.3, WeightDecay: 0.001, Memory: memory})
	if err != nil {
		return 0, err
	}
	defer tr.Free()
	p, err := train.NewPlan(documentConfig(name, rows, steps), examples, nil)
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
