package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/safetensors"
	"github.com/gotune/gotune/gotune/internal/train"
)

// The lengths are those of instruction data, and few shapes serve them: the packed
// rows waste next to nothing, the padded batches some.
func TestRealLengths(t *testing.T) {
	lengths := realLengths(1000, 1024)
	if mean := sum(lengths) / len(lengths); mean < 320 || mean > 380 || slices.Max(lengths) != 1024 {
		t.Errorf("mean %d, longest %d; want about 350 and 1,024", mean, slices.Max(lengths))
	}
	docs := documents(lengths, 100)
	rows, dropped, err := batch.Pack(docs, batch.PackOptions{Length: 1024})
	if err != nil || dropped != 0 {
		t.Fatalf("%d tokens dropped, %v", dropped, err)
	}
	for name, c := range map[string]struct {
		examples []batch.Example
		shapes   int
		useful   float64
	}{"padded": {docs, 4, 0.75}, "packed": {rows, 1, 0.97}} {
		p, err := train.NewPlan(train.Config{Epochs: 1, BatchSize: 4, GroupByLength: name == "padded"}, c.examples, nil)
		if err != nil {
			t.Fatal(err)
		}
		useful := float64(p.Tokens) / float64(p.Padded)
		t.Logf("%s: shapes %v, %.3f useful, %d batches", name, p.Buckets, useful, p.MicroBatches)
		if len(p.Buckets) > c.shapes || useful < c.useful {
			t.Errorf("%s: shapes %v, want at most %d; %.3f useful, want %v", name, p.Buckets, c.shapes, useful, c.useful)
		}
	}
}

// watched is a run's Stepper that only notes the lengths of its batches' rows.
type watched struct{ batches [][]int }

func (w *watched) Step(micro []*batch.Batch, _ float64) (train.StepResult, error) {
	result := train.StepResult{Loss: 1}
	for _, b := range micro {
		rows := make([]int, b.B)
		for i, segment := range b.Segments {
			rows[i/b.S] += int(segment) // a row is one document, number 1
		}
		w.batches = append(w.batches, rows)
		result.Tokens, result.Supervised = result.Tokens+b.Tokens(), result.Supervised+b.Supervised()
	}
	return result, nil
}

func (*watched) Evaluate(*batch.Batch) (float64, int, error) { return 0, 0, errors.ErrUnsupported }
func (*watched) State() ([]safetensors.Tensor, error)        { return nil, errors.ErrUnsupported }
func (*watched) Restore([]safetensors.Tensor) error          { return errors.ErrUnsupported }

// A peer's file has the batches that a run trains on, in its order, into the second epoch;
// the first so many of them are as long as the epoch's mean, which fewer are not.
func TestWriteBatches(t *testing.T) {
	const rows = 4
	lengths := realLengths(1000, 1024)
	steps := len(lengths)/rows + 3
	dir := t.TempDir()
	file := filepath.Join(dir, "batches.json")
	for _, n := range []int{1, steps} { // the second replaces the first
		if err := writeBatches(file, lengths, rows, n); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got [][]int
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	p, err := train.NewPlan(documentConfig(paddedGrouped, rows, steps), documents(lengths, 100), nil)
	if err != nil {
		t.Fatal(err)
	}
	var run watched
	if _, err := p.Run(t.Context(), &run, nil, train.Hooks{}); err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, run.batches, slices.Equal) {
		t.Errorf("the file has %d batches, %v …, trained on were %d, %v …", len(got), got[:2], len(run.batches), run.batches[:2])
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%d files in the folder, %v; want the batches alone", len(left), err)
	}
	mean := func(batches [][]int) float64 { return float64(sum(slices.Concat(batches...))) / float64(len(batches)) }
	epoch := mean(got[:len(lengths)/rows])
	if all, half := mean(got[:groupSteps])/epoch, mean(got[:groupSteps/2])/epoch; all < 0.97 || all > 1.03 || half < 1.3 {
		t.Errorf("the first %d batches are %.2f as long as the epoch's, half of them %.2f", groupSteps, all, half)
	}
}

func TestWriteBatchesRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "batches.json")
	for name, err := range map[string]error{
		"no documents": writeBatches(file, nil, 4, 1),
		"no rows":      writeBatches(file, []int{16}, 0, 1),
		"no steps":     writeBatches(file, []int{16}, 4, 0),
		"no folder":    writeBatches(filepath.Join(file, "missing"), []int{16}, 4, 1),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if !missing(file) {
		t.Error("a file was written")
	}
}

// The peer has the file that packed writes before it runs, and none where packed neither
// runs nor ran before.
func TestBatchesGoToThePeer(t *testing.T) {
	m := measurement{models: t.TempDir(), logs: t.TempDir(), peers: "peers.py", python: "python3", shape: "llama2-7b"}
	place := func(name string) int {
		return slices.IndexFunc(m.jobs("benchgpu"), func(j job) bool { return j.name == name })
	}
	command := func(name string) string { return strings.Join(m.jobs("benchgpu")[place(name)].cmd, " ") }
	if packed, peer := command("packed"), command("peers unsloth"); place("packed") > place("peers unsloth") ||
		!strings.HasSuffix(packed, " -batches "+m.batches()) || !strings.HasSuffix(peer, " --batches "+m.batches()) || filepath.Dir(m.batches()) != m.logs {
		t.Errorf("packed is %q, then the peer %q", packed, peer)
	}
	m.only = "train,peers"
	if peer := command("peers unsloth"); strings.Contains(peer, "--batches") {
		t.Errorf("without packed the peer is %q", peer)
	}
	if err := writeBatches(m.batches(), []int{16}, 1, 1); err != nil {
		t.Fatal(err)
	}
	if peer := command("peers unsloth"); !strings.HasSuffix(peer, " --batches "+m.batches()) {
		t.Errorf("with a file of before the peer is %q", peer)
	}
}

func sum(list []int) (n int) {
	for _, v := range list {
		n += v
	}
	return n
}
