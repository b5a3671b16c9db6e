package main

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/safetensors"
	"github.com/gotune/gotune/gotune/internal/token"
)

func TestPackerUsesEveryTokenOnceAnEpoch(t *testing.T) {
	docs := [][]int32{{1, 10, 2}, {1, 20, 21, 22, 23, 24, 2}, {1, 30, 31, 2}}
	p := newPacker(docs, 1, 7, 5, true) // 14 tokens: two rows an epoch
	for epoch := range 2 {
		var got []int32
		for range 2 {
			b := p.next()
			got = append(got, b.ids...)
			for i, id := range b.ids {
				start := i == 0 || b.segments[i] != b.segments[i-1]
				switch {
				case start && (b.positions[i] != 0 || b.labels[i] != -100):
					t.Errorf("a segment starts at position %d with label %d, want 0 and -100", b.positions[i], b.labels[i])
				case !start && (b.positions[i] != b.positions[i-1]+1 || b.labels[i] != id):
					t.Errorf("token %d inside a segment has position %d and label %d", id, b.positions[i], b.labels[i])
				}
			}
		}
		slices.Sort(got)
		want := slices.Concat(docs...)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("epoch %d gave tokens %v, want %v", epoch, got, want)
		}
	}
}

func TestPackerOrderFollowsFromSeed(t *testing.T) {
	var docs [][]int32
	for i := range int32(50) {
		docs = append(docs, []int32{1, i + 3, 2})
	}
	ids := func(seed int64) []int32 { return newPacker(docs, 2, 60, seed, true).next().ids }
	if !slices.Equal(ids(1), ids(1)) {
		t.Error("one seed gave two orders")
	}
	if slices.Equal(ids(1), ids(2)) {
		t.Error("two seeds gave one order")
	}
}

func TestLearningRateRisesAndFalls(t *testing.T) {
	s := settings{rate: 1e-3, floor: 0.1, warmup: 10, steps: 110}
	for _, tt := range []struct {
		step int
		want float64
	}{{0, 1e-4}, {9, 1e-3}, {10, 1e-3}, {60, 0.55e-3}, {110, 1e-4}} {
		if got := s.learningRate(tt.step); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("learningRate(%d) = %g, want %g", tt.step, got, tt.want)
		}
	}
}

// tinySettings trains a tiny model on a few made-up documents.
func tinySettings(t *testing.T) settings {
	t.Helper()
	s := settings{
		data: t.TempDir(), out: t.TempDir(), documents: "train", backend: backend.CPU,
		tokenizer: filepath.Join(oracle.Root(), "notebooks", "embedded", "gopher-5m"),
		rows:      2, length: 16, steps: 8, warmup: 2, rate: 1e-2, floor: 0.1, decay: 0.1, beta2: 0.98, clip: 1, dropout: 0.1, seed: 3,
		shape: shape{hidden: 16, inner: 24, layers: 1, heads: 2, positions: 64},
	}
	tok, err := token.Load(s.tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	var ids []byte
	for _, text := range []string{"Package sort sorts.", "A slice is sorted in place.", "Sort sorts data in ascending order."} {
		for _, id := range append(tok.Encode(text, true), 2) {
			ids = binary.LittleEndian.AppendUint16(ids, uint16(id))
		}
	}
	for _, name := range []string{"train.u16", heldOutFile} {
		if err := os.WriteFile(filepath.Join(s.data, name), ids, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func weights(t *testing.T, path string) map[string][]float32 {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string][]float32{}
	for _, n := range f.Names() {
		x, err := f.Tensor(n)
		if err != nil {
			t.Fatal(err)
		}
		if out[n], err = x.Float32(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// A run that stops half-way and goes on gives the weights of one that does not stop.
func TestResumedRunIsTheSameRun(t *testing.T) {
	s := tinySettings(t)
	if err := train(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	half := s
	half.out, half.state = t.TempDir(), filepath.Join(t.TempDir(), "state.safetensors")
	first, err := newTrainer(half)
	if err != nil {
		t.Fatal(err)
	}
	var losses []float64
	for range 4 {
		loss, _, err := first.advance()
		if err != nil {
			t.Fatal(err)
		}
		losses = append(losses, loss)
	}
	if losses[3] >= losses[0] {
		t.Errorf("four steps took the loss from %g to %g", losses[0], losses[3])
	}
	if err := first.saveState(); err != nil {
		t.Fatal(err)
	}
	if err := train(context.Background(), half); err != nil {
		t.Fatal(err)
	}
	want := weights(t, filepath.Join(s.out, modelFile))
	for name, got := range weights(t, filepath.Join(half.out, modelFile)) {
		if !slices.Equal(got, want[name]) {
			t.Errorf("%s of the resumed run differs", name)
		}
	}
}

// A second stage starts from the first one's weights, and only from weights that fit.
func TestStartFromAnotherModel(t *testing.T) {
	s := tinySettings(t)
	s.steps, s.every = 1, 1
	if err := train(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	next := s
	next.from, next.steps, next.every, next.out = s.out, 0, 0, t.TempDir()
	if err := train(context.Background(), next); err != nil {
		t.Fatal(err)
	}
	want := weights(t, filepath.Join(s.out, modelFile))
	for name, got := range weights(t, filepath.Join(next.out, modelFile)) {
		if !slices.Equal(got, want[name]) {
			t.Errorf("%s changed without a step", name)
		}
	}
	next.shape.hidden = 32
	if err := train(context.Background(), next); err == nil {
		t.Error("weights of another shape were accepted")
	}
}
