package layerwise

import (
	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// Places that a program gets as values: XLA has operations for them, GoMLX's Go backend
// has not and takes a gather or a choice instead, with the same values. A place is an
// int32 scalar, and what is cut or put must lie inside.

// cutRows is n rows of x, along axis 0, from at on.
func cutRows(x, at *Node, n int) *Node {
	if n == x.Shape().Dim(0) {
		return x
	}
	if !has(x, compute.OpTypeDynamicSlice) {
		rows := Add(Iota(x.Graph(), shapeOf(dtypes.Int32, n), 0), BroadcastToDims(at, n))
		return Gather(x, InsertAxes(rows, -1))
	}
	from, sizes := []*Node{at}, append([]int{n}, x.Shape().Dimensions[1:]...)
	for range sizes[1:] {
		from = append(from, ScalarZero(at.Graph(), dtypes.Int32))
	}
	return DynamicSlice(x, from, sizes)
}

// putRows is x with part in the place of its rows along axis, from at on.
func putRows(x, part, at *Node, axis int) *Node {
	g, n, size := x.Graph(), part.Shape().Dim(axis), x.Shape().Dim(axis)
	part = ConvertDType(part, x.DType())
	if n == size {
		return part
	}
	if has(x, compute.OpTypeDynamicUpdateSlice) {
		from := make([]*Node, x.Rank())
		for i := range from {
			from[i] = ScalarZero(g, dtypes.Int32)
		}
		from[axis] = at
		return DynamicUpdateSlice(x, part, from)
	}
	// Row i of x is row i − at of part where that is one of its n.
	row := Sub(Iota(g, shapeOf(dtypes.Int32, size), 0), BroadcastToDims(at, size))
	inside := And(GreaterOrEqual(row, ScalarZero(g, dtypes.Int32)), LessThan(row, Scalar(g, dtypes.Int32, n)))
	if n > 1 {
		order := make([]int, part.Rank()) // the axis first, as Gather wants it
		for i := range order {
			order[i] = i
		}
		order[0], order[axis] = axis, 0
		part = TransposeAllAxes(part, order...)
		part = Gather(part, InsertAxes(MaxScalar(MinScalar(row, n-1), 0), -1))
		part = TransposeAllAxes(part, order...)
	}
	dims := make([]int, x.Rank())
	for i := range dims {
		dims[i] = 1
	}
	dims[axis] = size
	return Where(BroadcastToDims(Reshape(inside, dims...), x.Shape().Dimensions...), BroadcastToDims(part, x.Shape().Dimensions...), x)
}

// has says whether x's backend has an operation.
func has(x *Node, op compute.OpType) bool {
	return x.Graph().Backend().Capabilities().Operations[op]
}
