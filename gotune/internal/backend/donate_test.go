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

// A donated input is updated in place; the same program leaves it whole when a call
// does not donate it.
func TestDonatedInputs(t *testing.T) {
	be, _, _ := attachCache(t)
	const n = 1 << 16
	build := func() (*Graph, *cuda.Program) {
		g := NewGraph(be, "update part")
		x, y := Parameter(g, "x", shapes.Make(dtypes.Float32, n)), Parameter(g, "y", shapes.Make(dtypes.Float32, 8))
		p, err := cuda.Compiling([]int{0}, func() error {
			return g.Compile(DynamicUpdateSlice(x, AddScalar(y, 1), []*Node{Scalar(g, dtypes.Int32, 4)}))
		})
		if err != nil {
			t.Fatal(err)
		}
		return g, p
	}
	upload := func(flat []float32) compute.Buffer {
		b, err := be.BufferFromFlatData(0, flat, shapes.Make(dtypes.Float32, len(flat)))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, how := range []string{"compiled", "from the cache"} {
		g, p := build()
		if p.Cached != (how == "from the cache") || !slices.Equal(p.Donated, []int{0}) || p.Memory.Aliased != 4*n {
			t.Errorf("%s: cached %v, donated %v, %d bytes aliased, want input 0 with %d", how, p.Cached, p.Donated, p.Memory.Aliased, 4*n)
		}
		for _, donate := range []bool{true, false} {
			x := upload(make([]float32, n))
			out, err := g.Executable().Execute([]compute.Buffer{x, upload(make([]float32, 8))}, []bool{donate, false}, 0)
			if err != nil {
				t.Fatal(err)
			}
			flat := make([]float32, n)
			if err := out[0].ToFlatData(flat); err != nil {
				t.Fatal(err)
			}
			if flat[3] != 0 || flat[4] != 1 || flat[11] != 1 || flat[12] != 0 {
				t.Errorf("%s, donated %v: %v", how, donate, flat[:16])
			}
			if donate {
				continue
			}
			if err := x.ToFlatData(flat); err != nil || slices.ContainsFunc(flat, func(v float32) bool { return v != 0 }) {
				t.Errorf("%s: an input that was not donated was changed, or lost: %v", how, err)
			}
		}
	}
}
