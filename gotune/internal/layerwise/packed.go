package layerwise

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/batch"
)

// slotClass is n rows of length tokens, each with room for one document.
type slotClass struct{ n, length int }

// slots lay the documents of a packed batch out as rows of their own, for attention
// alone: everything else of a layer runs on the packed tokens. Causal attention over
// such a row is that of its document, so the device's fused attention serves it.
//
// The i-th longest of N tokens' documents (i from 1) has at most N/i tokens, so rows
// of min(S, N/i) hold every batch with as many documents: the rows depend on the
// batch's shape and on the number of documents, rounded up to a power of two, and a
// data set compiles few programs. With P tokens in all rows a layer copies q, k, v
// and o once forwards, and those, their gradients and dO backwards.
type slots struct {
	classes []slotClass // longest first
	places  []int32     // P + T: each place's token, or T; each token's place, or P
}

// Limits of slots: rows are multiples of slotMultiple, and there are at most
// slotClasses lengths, since each is an operation of its own.
const (
	slotMultiple = 64
	slotClasses  = 4
)

// size is P, the tokens of all rows.
func (s *slots) size() (p int) {
	for _, c := range s.classes {
		p += c.n * c.length
	}
	return p
}

// key names the rows in a program's key.
func (s *slots) key() string {
	parts := make([]string, len(s.classes))
	for i, c := range s.classes {
		parts[i] = fmt.Sprintf("%dx%d", c.n, c.length)
	}
	return strings.Join(parts, "+")
}

// document is a range of a batch's tokens.
type document struct{ from, n int }

// documentsAreWhole says whether the documents of every row are numbered upwards, so
// that none goes on behind padding or another one.
func documentsAreWhole(bt *batch.Batch) bool {
	last := int32(0)
	for i, seg := range bt.Segments {
		if i%bt.S == 0 {
			last = 0
		}
		if seg != 0 && (seg < last || seg == last && seg != bt.Segments[i-1]) {
			return false
		}
		last = max(last, seg)
	}
	return true
}

// documentsOf lists the documents of a batch, longest first.
func documentsOf(bt *batch.Batch) (docs []document) {
	for i, seg := range bt.Segments {
		switch {
		case seg == 0:
		case i%bt.S > 0 && seg == bt.Segments[i-1]:
			docs[len(docs)-1].n++
		default:
			docs = append(docs, document{i, 1})
		}
	}
	slices.SortStableFunc(docs, func(a, b document) int { return b.n - a.n })
	return docs
}

// slotClassesFor returns rows for a batch [B, S] with that many documents.
func slotClassesFor(b, s, docs int) (classes []slotClass) {
	count := 8
	for count < docs {
		count *= 2
	}
	lengths := make([]int, count)
	for i := range lengths {
		lengths[i] = (max(1, min(s, b*s/(i+1))) + slotMultiple - 1) / slotMultiple * slotMultiple
	}
	for at := 0; at < count; {
		end := at
		// A class takes the rows down to half its length; the last takes the rest.
		for end < count && (2*lengths[end] > lengths[at] || len(classes) == slotClasses-1) {
			end++
		}
		classes = append(classes, slotClass{end - at, lengths[at]})
		at = end
	}
	return classes
}

// slotsOf lays a batch out.
func slotsOf(bt *batch.Batch) *slots {
	docs := documentsOf(bt)
	s := &slots{classes: slotClassesFor(bt.B, bt.S, len(docs))}
	p, t := s.size(), bt.B*bt.S
	s.places = make([]int32, p+t)
	place, token := s.places[:p], s.places[p:]
	for i := range place {
		place[i] = int32(t)
	}
	for i := range token {
		token[i] = int32(p)
	}
	at, k := 0, 0
	for _, c := range s.classes {
		for range c.n {
			if k < len(docs) {
				for i := range docs[k].n {
					place[at+i], token[docs[k].from+i] = int32(docs[k].from+i), int32(at+i)
				}
				k++
			}
			at += c.length
		}
	}
	return s
}

// slotted is attention by way of slots: q, k, v and o are packed [T, …] outside.
type slotted struct {
	*attention
	places *Node // int32 [P + T]
}

// take copies rows of x [N, heads, d] by their numbers; N itself stands for zero.
func take(x, rows *Node) *Node {
	n := x.Shape().Dim(0)
	inside := LessThan(rows, Scalar(rows.Graph(), dtypes.Int32, n))
	got := Gather(x, InsertAxes(MinScalar(rows, n-1), -1))
	return Where(BroadcastToDims(InsertAxes(inside, -1, -1), got.Shape().Dimensions...), got, ZerosLike(got))
}

func (a *slotted) spread(x *Node) *Node {
	return take(x, Slice(a.places, AxisRange(0, a.slots.size())))
}
func (a *slotted) gather(x *Node) *Node { return take(x, Slice(a.places, AxisRange(a.slots.size()))) }

// each calls f for the attention of every class with its range of places.
func (a *slotted) each(f func(c *attention, from, to int)) {
	at := 0
	for _, c := range a.slots.classes {
		one := &attention{geometry: geometry{b: c.n, s: c.length, fused: true}, heads: a.heads, kv: a.kv, dim: a.dim, fused: a.fused}
		f(one, at, at+c.n*c.length)
		at += c.n * c.length
	}
}

// forward is that of attention. It keeps q, k and v packed, and the rows'
// log-sum-exp of all classes in one vector f32 [P·H].
func (a *slotted) forward(q, k, v *Node) (o *Node, s *saved) {
	qs, ks, vs := a.spread(q), a.spread(k), a.spread(v)
	var outs, lses []*Node
	a.each(func(c *attention, from, to int) {
		part := func(x *Node) *Node { return Slice(x, AxisRange(from, to)) }
		o, s := c.forward(part(qs), part(ks), part(vs))
		outs, lses = append(outs, o), append(lses, Reshape(s.lse, -1))
	})
	return a.gather(join(outs, 0)), &saved{q: q, k: k, v: v, lse: join(lses, 0)}
}

// backward is that of attention. A place without a token has a zero gradient of its
// output and stands behind its document, so no document's gradient feels it.
func (a *slotted) backward(s *saved, o, do *Node) (dq, dk, dv *Node) {
	qs, ks, vs, os, ds := a.spread(s.q), a.spread(s.k), a.spread(s.v), a.spread(o), a.spread(do)
	var dqs, dks, dvs []*Node
	a.each(func(c *attention, from, to int) {
		part := func(x *Node) *Node { return Slice(x, AxisRange(from, to)) }
		lse := Reshape(Slice(s.lse, AxisRange(from*a.heads, to*a.heads)), c.b, a.heads, c.s)
		one := &saved{q: c.split(part(qs)), k: c.split(part(ks)), v: c.split(part(vs)), lse: lse}
		dq, dk, dv := c.backward(one, part(os), part(ds))
		dqs, dks, dvs = append(dqs, dq), append(dks, dk), append(dvs, dv)
	})
	return a.gather(join(dqs, 0)), a.gather(join(dks, 0)), a.gather(join(dvs, 0))
}
