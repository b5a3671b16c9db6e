package backend

import (
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
	"github.com/gomlx/gomlx/core/tensors"
)

// Products of one program that could run side by side, each large enough for all cores,
// end on the Go backend: side by side they waited for each other's workers for ever.
func TestGoProductsEnd(t *testing.T) {
	be, err := Open(Go)
	if err != nil {
		t.Fatal(err)
	}
	const rows, in, out, products = 384, 256, 688, 8
	g := NewGraph(be, "products")
	x := Parameter(g, "x", shapes.Make(dtypes.Float32, rows, in))
	var sum *Node
	for i := range products {
		w := AddScalar(Iota(g, shapes.Make(dtypes.Float32, in, out), i%2), float64(i))
		y := ReduceAllSum(Dot(x, w).Product())
		if sum == nil {
			sum = y
		} else {
			sum = Add(sum, y)
		}
	}
	if err := g.Compile(sum); err != nil {
		t.Fatal(err)
	}
	ones := tensors.FromScalarAndDimensions(float32(1), rows, in)
	// Σ over i, k, j of w: rows · Σ(iota of its axis + i).
	want := 0.0
	for i := range products {
		axis, other := in, out
		if i%2 == 1 {
			axis, other = out, in
		}
		want += float64(rows) * float64(other) * (float64(axis)*float64(axis-1)/2 + float64(i)*float64(axis))
	}
	for range 20 {
		got := float64(tensors.ToScalar[float32](g.Run(ones)[0]))
		if d := got/want - 1; d > 1e-3 || d < -1e-3 {
			t.Fatalf("sum of products %g, want %g", got, want)
		}
	}
}
