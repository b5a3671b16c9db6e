package backend

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/cuda"
)

// A queued call returns before its work is done, a chain of such calls gives the
// awaited chain's values, also with donated inputs, and AwaitCalls brings the waits
// back.
func TestQueuedCalls(t *testing.T) {
	be, err := Open(CPU)
	if err != nil {
		t.Fatal(err)
	}
	if err := cuda.QueueCalls("/nowhere/plugin.so"); err == nil || !strings.Contains(err.Error(), "not loaded") {
		t.Errorf("a plugin that is not loaded: %v", err)
	}
	p, err := cuda.Find(cuda.CPU)
	if err != nil {
		t.Fatal(err)
	}
	const n, times, calls = 512, 24, 3
	g := NewGraph(be, "powers")
	x := Parameter(g, "x", shapes.Make(dtypes.Float32, n, n))
	y := x
	for range times {
		y = MulScalar(Dot(y, y).Product(), 1.0/n)
	}
	if err := g.Compile(y); err != nil {
		t.Fatal(err)
	}
	chain := func() (queued, total time.Duration, values []float32) {
		flat := make([]float32, n*n)
		for i := range flat {
			flat[i] = 1 + float32(i%7)*1e-4
		}
		buf, err := be.BufferFromFlatData(0, flat, shapes.Make(dtypes.Float32, n, n))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for range calls {
			out, err := g.Executable().Execute([]compute.Buffer{buf}, []bool{true}, 0)
			if err != nil {
				t.Fatal(err)
			}
			buf = out[0]
		}
		queued = time.Since(start)
		if err := buf.ToFlatData(flat); err != nil {
			t.Fatal(err)
		}
		total = time.Since(start)
		return queued, total, flat
	}
	_, _, want := chain()
	if err := cuda.QueueCalls(p.Path); err != nil {
		t.Fatal(err)
	}
	if err := cuda.QueueCalls(p.Path); err != nil {
		t.Errorf("asked again: %v", err)
	}
	queued, total, got := chain()
	if queued > total/2 {
		t.Errorf("queueing took %v of %v: the calls were awaited", queued, total)
	}
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("value %d is %g, awaited %g", i, got[i], want[i])
		}
	}
	cuda.AwaitCalls(true) // also for the tests behind: GoMLX's own executor must wait on a CPU
	if queued, total, _ := chain(); queued < total/2 {
		t.Errorf("awaited calls took %v of %v", queued, total)
	}
}
