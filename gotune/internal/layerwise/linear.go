package layerwise

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"slices"

	"github.com/gotune/gotune/gotune/internal/model"
)

// linears are the seven projections of one layer inside a graph: base matrices,
// adapters and dropout. For an adapted projection with dropped input x̂:
//
//	LoRA  y = x·Wᵀ + b + s·(x̂·Aᵀ)·Bᵀ
//	DoRA  y = x·Wᵀ + b + (c − 1)∘(x̂·Wᵀ) + c∘s·(x̂·Aᵀ)·Bᵀ,   c = m/‖W + s·B·A‖
//
// with W = dq(codes), in the cheap order: no [out, in] product with the batch in it.
type linears struct {
	dt       dtypes.DType
	matrices []matrix
	lora     map[string]*loraModule
	rng      *dropoutRNG // nil when not training
	grads    map[string]*Node
	kernels  *trainKernels    // nil for XLA's code
	ready    map[string]*Node // x̂ of projections, as a norm's kernel has made it

	eightBack bool // gradients' products with the base take its 8-bit form too
}

// groupOf returns the matrix that holds proj, and the projection's first row.
func (l *linears) groupOf(proj string) (m matrix, row int) {
	for _, m := range l.matrices {
		row := 0
		for _, p := range m.spec.parts {
			if p.proj == proj {
				return m, row
			}
			row += p.out
		}
	}
	panic(fmt.Errorf("no matrix holds %s", proj))
}

// weight returns the rows of proj, [out, in].
func (l *linears) weight(proj string) *Node {
	m, row := l.groupOf(proj)
	if len(m.spec.parts) == 1 {
		return m.w
	}
	for _, p := range m.spec.parts {
		if p.proj == proj {
			return Slice(m.w, AxisRange(row, row+p.out))
		}
	}
	return nil
}

// forward projects x [T, in] by each of projs, which share it as input. It
// returns y [T, out] for each, all of them side by side, and the adapters' inner
// products t = x̂·Aᵀ [T, R] (nil for a projection without one), which the backward
// pass may reuse. Who uses only one of y and joined pays for that one.
func (l *linears) forward(x *Node, projs ...string) (y []*Node, joined *Node, t []*Node) {
	base := map[string]*Node{}
	op := l.operand(x)
	for _, m := range l.matrices {
		if !slices.ContainsFunc(m.spec.parts, func(p part) bool { return slices.Contains(projs, p.proj) }) {
			continue
		}
		// An adapter is added to its projection's own product, into whose memory XLA
		// lets the second product write; cut out of a joined one it would be copied.
		single := m.apart() && slices.ContainsFunc(m.spec.parts, func(p part) bool { return l.lora[p.proj] != nil })
		var whole *Node
		if !single {
			whole = l.product(op, m, 0, m.spec.out())
			if m.holds(projs) {
				joined = whole
			}
		}
		row := 0
		for _, p := range m.spec.parts {
			if single {
				base[p.proj] = l.product(op, m, row, p.out)
			} else {
				base[p.proj] = columns(whole, row, p.out)
			}
			row += p.out
		}
	}
	for _, proj := range projs {
		yp, tp := l.adapt(proj, x, base[proj])
		if yp != base[proj] {
			joined = nil
		}
		y, t = append(y, yp), append(t, tp)
	}
	if joined == nil {
		joined = joinColumns(y)
	}
	return y, joined, t
}

// adapt adds adapter and bias to base = x·Wᵀ.
func (l *linears) adapt(proj string, x, base *Node) (y, t *Node) {
	y = base
	if m := l.lora[proj]; m != nil {
		dropped := l.dropped(x, proj)
		t = linearNT(dropped, m.a)
		delta := linearNT(t, m.scaled)
		if m.dora {
			c, _ := m.rowScale(l.weight(proj))
			if dropped != x {
				base = linearNT(dropped, l.weight(proj))
			}
			f := func(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }
			delta = Add(Mul(f(base), InsertAxes(AddScalar(c, -1), 0)), Mul(f(delta), InsertAxes(c, 0)))
			delta = ConvertDType(delta, y.DType())
		}
		y = Add(y, delta)
	}
	if m, row := l.groupOf(proj); m.bias != nil {
		out := y.Shape().Dim(-1)
		y = Add(y, ConvertDType(InsertAxes(Slice(m.bias, AxisRange(row, row+out)), 0), y.DType()))
	}
	return y, t
}

// dropped is x̂, the input of an adapter's A.
func (l *linears) dropped(x *Node, proj string) *Node {
	if d := l.ready[proj]; d != nil {
		return d
	}
	return l.rng.apply(x, projIndex(proj))
}

// backward takes the gradients of what forward returned for projs and x, one by
// one in dys or side by side in joined (the other may be nil), and returns dx [T, in].
// t are forward's inner products; nil ones are computed again.
// Gradients of the adapters are kept for [linears.gradient]:
//
//	g = s·e·B,  dA = gᵀ·x̂,  dB = s·eᵀ·t,  dx = dy·W + mask∘(g·A)
//
// with e = dy for LoRA. For DoRA e = c∘dy, dx gains mask∘(((c−1)∘dy)·W), and
// dm = Σ_T dy ∘ (x̂·Wᵀ + s·t·Bᵀ) / ‖W + s·B·A‖.
func (l *linears) backward(x *Node, dys []*Node, joined *Node, t []*Node, projs ...string) (dx *Node) {
	dy := dys
	if dy == nil {
		at := 0
		for _, proj := range projs {
			m, _ := l.groupOf(proj)
			out := m.spec.outOf(proj)
			dy = append(dy, columns(joined, at, out))
			at += out
		}
	}
	f := func(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }
	add := func(v *Node) {
		if dx == nil {
			dx = v
		} else {
			dx = Add(dx, v)
		}
	}
	through := map[string]*Node{} // what meets W directly
	var inner []*Node             // g of the modules whose way back is g·A alone
	var modules []*loraModule
	for i, proj := range projs {
		through[proj] = dy[i]
		m := l.lora[proj]
		if m == nil {
			continue
		}
		dropped, e, ti := l.dropped(x, proj), dy[i], t[i]
		if ti == nil {
			ti = linearNT(dropped, m.a)
		}
		var side *Node // flows back through the dropped input
		if m.dora {
			w := l.weight(proj)
			c, norm := m.rowScale(w)
			product := Add(f(linearNT(dropped, w)), f(linearNT(ti, m.scaled)))
			l.grads[proj+".m"] = Div(ReduceSum(Mul(f(dy[i]), product), 0), norm)
			e = ConvertDType(Mul(f(dy[i]), InsertAxes(c, 0)), l.dt)
			if dropped == x {
				through[proj], joined = e, nil
			} else {
				side = linearNN(Sub(e, dy[i]), w)
			}
		}
		g := linearNN(e, m.scaled)
		l.grads[proj+".a"] = outerTN(g, dropped)
		l.grads[proj+".b"] = MulScalar(outerTN(e, ti), m.scale)
		if side == nil {
			inner, modules = append(inner, g), append(modules, m)
			continue
		}
		add(l.rng.apply(Add(linearNN(g, m.a), side), projIndex(proj)))
	}
	for _, v := range l.wayBack(inner, modules) {
		add(v)
	}
	for _, m := range l.matrices {
		if joined != nil && m.holds(projs) {
			add(l.productBack(joined, m))
			continue
		}
		var parts []*Node
		for _, p := range m.spec.parts {
			if d := through[p.proj]; d != nil {
				parts = append(parts, d)
			}
		}
		if len(parts) > 0 {
			add(l.productBack(joinColumns(parts), m))
		}
	}
	return dx
}

// wayBack are the summands mask∘(g·A) of modules with the same input: one by a kernel, or one
// for each.
func (l *linears) wayBack(g []*Node, modules []*loraModule) (sum []*Node) {
	if l.kernels.takesSum(modules) {
		return []*Node{l.kernels.droppedSum(g, modules, l.rng)}
	}
	for i, m := range modules {
		sum = append(sum, l.rng.apply(linearNN(g[i], m.a), projIndex(m.proj)))
	}
	return sum
}

// gradient is the layer's gradient in the order of its flat vector, f32 [n], zero for
// modules that no backward pass of this graph went through.
func (l *linears) gradient(g *Graph, ss loraSpecs) *Node {
	var parts []*Node
	for _, s := range ss {
		if l.grads[s.proj+".a"] == nil {
			parts = append(parts, Zeros(g, shapeOf(dtypes.Float32, s.size())))
			continue
		}
		parts = append(parts, Reshape(l.grads[s.proj+".a"], -1), Reshape(l.grads[s.proj+".b"], -1))
		if s.dora {
			parts = append(parts, l.grads[s.proj+".m"])
		}
	}
	return Concatenate(parts, 0)
}

// columns is x[:, at:at+n], or x itself when that is all of it.
func columns(x *Node, at, n int) *Node {
	if at == 0 && n == x.Shape().Dim(-1) {
		return x
	}
	return Slice(x, AxisRange(), AxisRange(at, at+n))
}

func joinColumns(parts []*Node) *Node {
	if len(parts) == 1 {
		return parts[0]
	}
	return Concatenate(parts, 1)
}

// projIndex is the place of proj in model.Projections.
func projIndex(proj string) int { return slices.Index(model.Projections, proj) }
