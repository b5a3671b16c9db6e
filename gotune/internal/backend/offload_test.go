package backend

import (
	"slices"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/cuda"
)

// What goes to the host comes back as it was, on each backend, also when the
// tensor was freed at once and its maker is still queued. XLA's goes to pinned memory.
func TestHostCopy(t *testing.T) {
	for _, name := range []string{CPU, Go} {
		t.Run(name, func(t *testing.T) {
			be, err := Open(name)
			if err != nil {
				t.Fatal(err)
			}
			if name == CPU {
				if err := cuda.QueueCalls(Describe(be).Plugin.Path); err != nil {
					t.Fatal(err)
				}
				cuda.AwaitCalls(false)
				defer cuda.AwaitCalls(true)
			}
			const n = 300
			g := NewGraph(be, "slow")
			x := Parameter(g, "x", shapes.Make(dtypes.Float32, n, n))
			y := x
			for range 8 {
				y = MulScalar(Dot(y, y).Product(), 1.0/n)
			}
			if err := g.Compile(y); err != nil {
				t.Fatal(err)
			}
			flat := slices.Repeat([]float32{1}, n*n)
			in, err := be.BufferFromFlatData(0, flat, x.Shape())
			if err != nil {
				t.Fatal(err)
			}
			out, err := g.Executable().Execute([]compute.Buffer{in}, []bool{false}, 0)
			if err != nil {
				t.Fatal(err)
			}
			h, err := ToHost(out[0])
			if err != nil {
				t.Fatal(err)
			}
			if h.Pinned() != (name == CPU) {
				t.Errorf("pinned: %v", h.Pinned())
			}
			if err := out[0].Finalize(); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := h.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				back, there, err := h.Back()
				if err != nil {
					t.Fatal(err)
				}
				if err := there(); err != nil {
					t.Fatal(err)
				}
				if s, err := back.Shape(); err != nil || !s.Equal(x.Shape()) {
					t.Errorf("shape %v, %v", s, err)
				}
				// A program takes it as any other tensor.
				out, err := g.Executable().Execute([]compute.Buffer{back}, []bool{true}, 0)
				if err != nil {
					t.Fatal(err)
				}
				got := make([]float32, n*n)
				if err := out[0].ToFlatData(got); err != nil || !slices.Equal(got, flat) {
					t.Errorf("%v … after the round trip, want 1 (%v)", got[:4], err)
				}
			}
			h.Free()
			h.Free()
		})
	}
}
