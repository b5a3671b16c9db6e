package layerwise

import (
	"fmt"
	"strings"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// loraSpec is the static side of one adapter module. Its trained values lie in the
// layer's flat f32 vector at offset: A [R, in], B [out, R] and, for DoRA, the
// magnitude [out], in this order.
type loraSpec struct {
	proj    string
	in, out int
	rank    int
	scale   float64
	dora    bool
	offset  int
}

// size is the number of trained values of the module.
func (s *loraSpec) size() int {
	n := s.rank * (s.in + s.out)
	if s.dora {
		n += s.out
	}
	return n
}

// loraSpecs are the adapter modules of one layer, in the order of model.Projections.
type loraSpecs []loraSpec

// size is the length of the layer's flat vector.
func (ss loraSpecs) size() (n int) {
	for i := range ss {
		n += ss[i].size()
	}
	return n
}

func (ss loraSpecs) key() string {
	var sb strings.Builder
	for _, s := range ss {
		fmt.Fprintf(&sb, "%s:%d,%d,r%d,s%v,d%t;", s.proj, s.in, s.out, s.rank, s.scale, s.dora)
	}
	return sb.String()
}

// loraModule is a module inside a graph, its matrices cast to the compute dtype.
type loraModule struct {
	*loraSpec
	a, b      *Node // [R, in], [out, R]
	scaled    *Node // s·B
	magnitude *Node // f32 [out], DoRA only
}

// modules cuts a layer's flat vector f32 [n] into its modules, by projection.
func (ss loraSpecs) modules(flat *Node, dt dtypes.DType) map[string]*loraModule {
	out := map[string]*loraModule{}
	for i := range ss {
		s := &ss[i]
		at := s.offset
		take := func(n int) *Node {
			at += n
			return Slice(flat, AxisRange(at-n, at))
		}
		m := &loraModule{loraSpec: s}
		m.a = ConvertDType(Reshape(take(s.rank*s.in), s.rank, s.in), dt)
		b := Reshape(take(s.out*s.rank), s.out, s.rank)
		m.b, m.scaled = ConvertDType(b, dt), ConvertDType(MulScalar(b, s.scale), dt)
		if s.dora {
			m.magnitude = take(s.out)
		}
		out[s.proj] = m
	}
	return out
}

// rowScale is DoRA's m / ‖W + s·B·A‖ by rows, f32 [out], and the norm itself
// (arXiv:2402.09353, equation 5). w is [out, in]. The norm counts as a constant
// in the gradient (section 4.3).
func (m *loraModule) rowScale(w *Node) (c, norm *Node) {
	f := func(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }
	sum := Add(f(w), MulScalar(f(DotGeneral(m.b, []int{1}, nil, m.a, []int{0}, nil)), m.scale))
	norm = StopGradient(Sqrt(ReduceSum(Mul(sum, sum), -1)))
	return Div(m.magnitude, norm), norm
}

// linearNT is x·wᵀ for x [T, in], w [out, in], with a float32 sum.
func linearNT(x, w *Node) *Node { return DotGeneral(x, []int{1}, nil, w, []int{1}, nil) }

// linearNN is g·w for g [T, out], w [out, in].
func linearNN(g, w *Node) *Node { return DotGeneral(g, []int{1}, nil, w, []int{0}, nil) }

// outerTN is gᵀ·x for g [T, m], x [T, n], in float32.
func outerTN(g, x *Node) *Node {
	return Dot(g, x).WithOutputDType(dtypes.Float32).General([]int{0}, nil, []int{0}, nil)
}
