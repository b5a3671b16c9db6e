package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/dataset"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/safetensors"
	"github.com/gotune/gotune/gotune/internal/token"
	"github.com/gotune/gotune/gotune/internal/train"
)

// walkthroughBatches returns the batches of the walkthrough's first epoch: the
// embedded data set in rows of the model's tokens, four a batch, grouped by length.
func walkthroughBatches(ctx context.Context, modelDir, data string) ([]*batch.Batch, error) {
	tok, err := token.Load(modelDir)
	if err != nil {
		return nil, err
	}
	cfg, err := model.ReadConfig(modelDir)
	if err != nil {
		return nil, err
	}
	rows, err := dataset.Open(ctx, dataset.Spec{Source: filepath.Join(data, "train.parquet")}, nil)
	if err != nil {
		return nil, err
	}
	set, err := batch.Tokenize(ctx, rows.Texts(), tok, batch.Options{MaxSeqLength: min(1024, cfg.MaxPositions)}, nil)
	if err != nil {
		return nil, err
	}
	pad := int32(max(cfg.Pad, 0))
	if id, ok := tok.Pad(); ok {
		pad = id
	} else if id, ok := tok.EOS(); ok {
		pad = id
	}
	plan, err := train.NewPlan(train.Config{Epochs: 1, BatchSize: 4, GroupByLength: true, Seed: 42, Pad: pad}, set.Examples, nil)
	if err != nil {
		return nil, err
	}
	var r recorder
	_, err = plan.Run(ctx, &r, nil, train.Hooks{})
	return r.batches, err
}

// recorder stands where a trainer would, and keeps the batches it is given.
type recorder struct{ batches []*batch.Batch }

func (r *recorder) Step(micro []*batch.Batch, _ float64) (train.StepResult, error) {
	out := train.StepResult{Loss: 1}
	for _, b := range micro {
		out.Tokens += b.Tokens()
		out.Supervised += b.Supervised()
	}
	r.batches = append(r.batches, micro...)
	return out, nil
}

func (r *recorder) Evaluate(b *batch.Batch) (float64, int, error) { return 0, b.Supervised(), nil }

func (r *recorder) State() ([]safetensors.Tensor, error) { return nil, nil }

func (r *recorder) Restore([]safetensors.Tensor) error { return nil }

// sampled takes n of the batches, evenly over the epoch.
func sampled(all []*batch.Batch, n int) []*batch.Batch {
	if n <= 0 || n >= len(all) {
		return all
	}
	out := make([]*batch.Batch, n)
	for i := range out {
		out[i] = all[(2*i+1)*len(all)/(2*n)]
	}
	return out
}

// dump writes the batches for the peer: rows of ids, labels and which tokens are
// real, [B, S] each, padded as gotune computes them.
func dump(path string, batches []*batch.Batch) error {
	type rows struct {
		IDs, Labels, Mask [][]int32
	}
	var out []rows
	for _, b := range batches {
		var r rows
		for i := range b.B {
			from, to := i*b.S, (i+1)*b.S
			mask := make([]int32, b.S)
			for j, s := range b.Segments[from:to] {
				mask[j] = min(s, 1)
			}
			r.IDs, r.Labels, r.Mask = append(r.IDs, b.IDs[from:to]), append(r.Labels, b.Labels[from:to]), append(r.Mask, mask)
		}
		out = append(out, r)
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.WriteFile(path, raw, 0o644)
}
