package main

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gotune/gotune/gotune/internal/layerwise"
)

// The search ends at the longest length that fits, in few plans, from either side,
// and at the bound; where nothing fits it says so.
func TestSearchLongest(t *testing.T) {
	const limit = 15 << 30
	for _, tt := range []struct{ from, most int }{{16384, 1 << 17}, {1 << 17, 1 << 17}, {1024, 1 << 17}, {16384, 40960}} {
		calls := 0
		find := func(n int) (*layerwise.Fit, error) {
			calls++
			return &layerwise.Fit{Batch: 1, Length: n, Peak: 5<<30 + int64(n)*98304 + int64(n)*int64(n)/8, Limit: limit}, nil
		}
		got, err := search(tt.from, tt.most, 1024, 6, find)
		if err != nil {
			t.Fatal(err)
		}
		fit, _ := find(got)
		next, _ := find(got + 1024)
		if !fit.OK() || next.OK() && got+1024 <= tt.most || calls > 8 {
			t.Errorf("from %d: %d in %d plans; it fits: %v, the next: %v", tt.from, got, calls-2, fit.OK(), next.OK())
		}
	}
	_, err := search(16384, 1<<17, 1024, 5, func(n int) (*layerwise.Fit, error) {
		return &layerwise.Fit{Batch: 1, Length: n, Peak: 16<<30 + int64(n), Limit: limit}, nil
	})
	if !errors.Is(err, layerwise.ErrDoesNotFit) {
		t.Errorf("nothing fits: %v", err)
	}
}

// The whole stage on the small shape, on a device without an account of its memory.
func TestLongestStage(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a model for the CPU")
	}
	dir := filepath.Join(t.TempDir(), "mini")
	if out, err := exec.Command("go", "run", "../synth", "-shape", "mini", "-layers", "3", "-out", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := longest(context.Background(), []string{"-model", dir, "-backend", "xla:cpu", "-dtype", "float32", "-from", "256", "-grain", "64", "-chunk", "64", "-double"}); err != nil {
		t.Error(err)
	}
}
