package main

import (
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/train"
)

// The lengths are those of instruction data, and few shapes serve them: the packed
// rows waste next to nothing, the padded batches some.
func TestRealLengths(t *testing.T) {
	lengths := realLengths(1000, 1024)
	sum := 0
	for _, n := range lengths {
		sum += n
	}
	if mean := sum / len(lengths); mean < 320 || mean > 380 || slices.Max(lengths) != 1024 {
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
