package layerwise

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// A layer that is computed again can take its tokens a chunk of rows at a time:
// attention needs them all at once, everything else (projections, norms, the MLP) works
// row by row. So the MLP's tensors, of which a layer's program otherwise holds about
// eight of [T, F], exist for one chunk alone. A chunk is a call: its result goes into
// its rows of a tensor that is passed along and updated in place, as the loss does.
//
//	qkv  x → q, k, v          attend  q, k, v → o            after  x, o → y
//	afterback  x, o, dy → dx2, do     attendback  do → dq, dk, dv     qkvback  x, dq, dk, dv, dx2 → dx
//
// Backwards the layer holds at most ten tensors of [T, D] beside its input: dx2, q, k,
// v, o, do, dq, dk, dv and, from the layer before, its input on the way from the
// host; fewer where attention's output was kept, for then q, k and v are made when do is
// there. Each chunk unpacks the weights that it needs again. Values are those of the
// whole layer but for the order in which the adapters' gradients are summed.

// chunkAlign is what chunks of so many rows or more are a multiple of, the last one
// excepted.
const chunkAlign = 64

// rowRange is n rows from the row on that begins there.
type rowRange struct{ from, n int }

// chunksOf cuts t rows into about equal ranges of at most limit rows, rounded up to
// chunkAlign. The last may be shorter, which compiles programs of its own.
func chunksOf(t, limit int) (out []rowRange) {
	count := (t + limit - 1) / limit
	n := (t + count - 1) / count
	if n >= chunkAlign {
		n = (n + chunkAlign - 1) / chunkAlign * chunkAlign
	}
	for at := 0; at < t; at += n {
		out = append(out, rowRange{at, min(n, t-at)})
	}
	return out
}

// putChunk is x with rows from at on replaced by part; a part that is all is taken as it is.
func putChunk(x, part, at *Node) *Node {
	if x == nil {
		return part
	}
	return putRows(x, part, at, 0)
}

// chunked runs one layer by chunks.
type chunked struct {
	*Base
	i     int
	c     *passContext
	ad    *DeviceAdapter
	kind  layerKind
	parts []rowRange
}

// chunked is the layer by chunks; its programs are the same whatever is kept.
func (b *Base) chunked(i int, c *passContext, ad *DeviceAdapter, dropout float64, limit int) *chunked {
	return &chunked{Base: b, i: i, c: c, ad: ad, kind: b.passKind(i, c, ad, dropout, keepNothing), parts: chunksOf(c.tokens(), limit)}
}

// room is a tensor of zeros [T, …] to put chunks into, nil for one chunk of all.
func (l *chunked) room(dt dtypes.DType, dims ...int) (compute.Buffer, error) {
	if len(l.parts) == 1 {
		return nil, nil
	}
	shape := shapeOf(dt, append([]int{l.c.tokens()}, dims...)...)
	zero, err := l.dev.number(0)
	if err != nil {
		return nil, err
	}
	out, err := l.call("room "+shape.String(), []compute.Buffer{zero}, nil, func(in []*Node) []*Node {
		return []*Node{Zeros(in[0].Graph(), shape)}
	})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// each calls a program for every chunk. Its inputs are those of own, some of which may
// be nil; the first count of own are replaced by its results, one for each. Those are
// donated, except that the one at kept stays the caller's in the first call. build gets
// the layer's graph for the chunk, own, and the chunk's place.
func (l *chunked) each(name string, own []compute.Buffer, count, kept int, build func(g *layerGraph, in []*Node, at *Node, n int) []*Node) error {
	for _, r := range l.parts {
		at, err := l.dev.number(int32(r.from))
		if err != nil {
			return err
		}
		var ins []compute.Buffer
		var places, give, donate []int // of ins in own
		for i, b := range own {
			if b == nil {
				continue
			}
			if i < count {
				give = append(give, len(ins))
				if i != kept {
					donate = append(donate, len(ins))
				}
			}
			ins, places = append(ins, b), append(places, i)
		}
		size := len(own)
		out, err := l.callGiving(fmt.Sprintf("%s n%d %s", name, r.n, l.kind.key()), l.arguments(l.i, l.c, l.ad, append(ins, at)...), give, donate, func(nodes []*Node) []*Node {
			nodes, common := l.kind.split(nodes, len(places)+1)
			in := make([]*Node, size)
			for i, p := range places {
				in[p] = nodes[i]
			}
			at := Reshape(nodes[len(places)])
			common.cos, common.sin = cutRows(common.cos, at, r.n), cutRows(common.sin, at, r.n)
			g := l.layer(&l.kind, common)
			if g.rng != nil && r.n < l.c.tokens() {
				g.rng.from = Bitcast(at, dtypes.Uint32)
			}
			return build(g, in, at, r.n)
		})
		if err != nil {
			return err
		}
		copy(own, out)
		kept = -1
	}
	return nil
}

// queryKeyValue is q [T, H, d], k and v [T, K, d] of x.
func (l *chunked) queryKeyValue(x compute.Buffer) (qkv []compute.Buffer, err error) {
	own := make([]compute.Buffer, 3, 4)
	defer func() {
		if err != nil {
			drop(own[:3]...)
		}
	}()
	for i, heads := range []int{l.cfg.NumHeads, l.cfg.NumKVHeads, l.cfg.NumKVHeads} {
		if own[i], err = l.room(l.dt, heads, l.cfg.HeadDim); err != nil {
			return nil, err
		}
	}
	own = append(own, x)
	err = l.each("qkv", own, 3, -1, func(g *layerGraph, in []*Node, at *Node, n int) []*Node {
		q, k, v := g.queryKeyValue(cutRows(in[3], at, n), &residuals{t: map[string]*Node{}})
		return []*Node{putChunk(in[0], q, at), putChunk(in[1], k, at), putChunk(in[2], v, at)}
	})
	return own[:3], err
}

// attend is attention over all rows: o [T, H, d] and the rows' log-sum-exp.
func (l *chunked) attend(qkv []compute.Buffer) (o, lse compute.Buffer, err error) {
	out, err := l.call("attend "+l.kind.key(), l.masked(qkv), nil, func(in []*Node) []*Node {
		o, s := l.attentionGraph(l.c.geometry, l.bias(in)).forward(in[0], in[1], in[2])
		return []*Node{o, s.lse}
	})
	if err != nil {
		return nil, nil, err
	}
	return out[0], out[1], nil
}

// masked adds the pass's mask, where it has one, which bias finds again.
func (l *chunked) masked(in []compute.Buffer) []compute.Buffer {
	if !l.c.masks() {
		return in
	}
	return append(slices.Clone(in), l.c.bias)
}

func (l *chunked) bias(in []*Node) *Node {
	if !l.c.masks() {
		return nil
	}
	return in[len(in)-1]
}

// forward computes y and returns what is kept. x stays the caller's.
func (l *chunked) forward(x compute.Buffer, k keep) (y compute.Buffer, saved []compute.Buffer, err error) {
	qkv, err := l.queryKeyValue(x)
	if err != nil {
		return nil, nil, err
	}
	o, lse, err := l.attend(qkv)
	drop(qkv...)
	if err != nil {
		return nil, nil, err
	}
	var own [4]compute.Buffer // y, x2 where it is kept, x, o
	count := 1
	if k == keepAttention {
		count = 2
	} else {
		drop(lse)
	}
	defer func() {
		if err != nil {
			drop(own[:2]...)
			drop(o, lse)
		}
	}()
	for i := range count {
		if own[i], err = l.room(l.residual, l.cfg.HiddenSize); err != nil {
			return nil, nil, err
		}
	}
	own[2], own[3] = x, o
	name := "after"
	if count == 2 {
		name = "after2"
	}
	all := slices.Concat(own[:count], own[2:])
	err = l.each(name, all, count, -1, func(g *layerGraph, in []*Node, at *Node, n int) []*Node {
		r := &residuals{o: cutRows(in[count+1], at, n), t: map[string]*Node{}}
		out := []*Node{putChunk(in[0], g.after(cutRows(in[count], at, n), r), at)}
		if count == 2 {
			out = append(out, putChunk(in[1], r.x2, at))
		}
		return out
	})
	copy(own[:], all[:count])
	if err != nil {
		return nil, nil, err
	}
	if count == 1 {
		drop(o)
		return own[0], nil, nil
	}
	return own[0], []compute.Buffer{o, lse, own[1]}, nil
}

// backward is [Base.backwardLayer] for a layer that forward ran. The lowest trained layer
// ends with its last part that has an adapter, in a program without dx.
func (l *chunked) backward(x, dy, grad compute.Buffer, keepGrad bool, saved []compute.Buffer) (dx, sum compute.Buffer, err error) {
	var own [2]compute.Buffer // dx so far, and do
	own[0], sum = dy, grad
	defer func() {
		if err != nil {
			drop(own[:]...)
			if sum != grad || !keepGrad {
				drop(sum)
			}
		}
	}()
	var qkv []compute.Buffer
	var o, lse compute.Buffer
	defer func() { drop(qkv...); drop(o, lse) }()
	name, behind := "afterback", x // what the layer behind attention begins with: x, or x2 where it is kept
	if len(saved) == 3 {
		o, lse, name, behind = saved[0], saved[1], "afterback2", saved[2]
		defer func() { drop(behind) }()
	} else {
		if qkv, err = l.queryKeyValue(x); err != nil {
			return nil, nil, err
		}
		if o, lse, err = l.attend(qkv); err != nil {
			return nil, nil, err
		}
	}
	trains := func(projs []string) bool {
		return slices.ContainsFunc(l.kind.lora, func(s loraSpec) bool { return slices.Contains(projs, s.proj) })
	}
	// step adds a part of the layer to own[:n] and, where it has adapters, to sum.
	step := func(name string, n int, rest []compute.Buffer, projs []string, build func(g *layerGraph, in []*Node, at *Node, n int) []*Node) error {
		all, count, kept := slices.Concat(own[:n], rest), n, -1
		trained := trains(projs)
		if trained {
			all, count = slices.Insert(all, n, sum), n+1
			if sum == grad && keepGrad {
				kept = n
			}
		}
		err := l.each(name, all, count, kept, func(g *layerGraph, in []*Node, at *Node, rows int) []*Node {
			if !trained {
				return build(g, in, at, rows)
			}
			out := build(g, slices.Delete(slices.Clone(in), n, n+1), at, rows)
			return append(out, Add(in[n], g.gradient(at.Graph(), l.kind.lora)))
		})
		copy(own[:n], all)
		if trained {
			sum = all[n]
		}
		return err
	}
	lowest, before := l.i == l.ad.layout.lowest(), []string{"q_proj", "k_proj", "v_proj"}
	n, rest := 2, []compute.Buffer{behind, o}
	if lowest && !trains(before) {
		l.kind.lowest, n, rest = true, 0, []compute.Buffer{dy, behind, o}
	} else if own[1], err = l.room(l.dt, l.cfg.NumHeads, l.cfg.HeadDim); err != nil {
		return nil, nil, err
	}
	err = step(name, n, rest, []string{"o_proj", "gate_proj", "up_proj", "down_proj"}, func(g *layerGraph, in []*Node, at *Node, n int) []*Node {
		behind, o := cutRows(in[len(in)-2], at, n), cutRows(in[len(in)-1], at, n)
		r := &residuals{o: o, t: map[string]*Node{}}
		if name == "afterback" {
			g.after(behind, r)
		} else {
			r.x2 = behind
			g.mlp(r)
		}
		dx2, do := g.backwardAfter(cutRows(in[0], at, n), r)
		if l.kind.lowest {
			return nil
		}
		return []*Node{putChunk(in[0], dx2, at), putChunk(in[1], do, at)}
	})
	if err != nil {
		return nil, nil, err
	}
	if l.kind.lowest {
		drop(dy)
		return nil, sum, nil
	}
	if qkv == nil { // not before they are needed
		drop(behind)
		behind = nil
		if qkv, err = l.queryKeyValue(x); err != nil {
			return nil, nil, err
		}
	}
	// Its inputs are not donated: results in their place would have to be copied there.
	d, err := l.call("attendback "+l.kind.key(), l.masked([]compute.Buffer{qkv[0], qkv[1], qkv[2], o, lse, own[1]}), nil, func(in []*Node) []*Node {
		a := l.attentionGraph(l.c.geometry, l.bias(in))
		dq, dk, dv := a.backward(a.saved(in[0], in[1], in[2], in[4]), in[3], in[5])
		return []*Node{dq, dk, dv}
	})
	drop(qkv...)
	drop(o, lse, own[1])
	qkv, o, lse, own[1] = nil, nil, nil, nil
	if err != nil {
		return nil, nil, err
	}
	defer drop(d...)
	n, rest = 1, append([]compute.Buffer{x}, d...)
	if lowest { // dx2 is an input alone: nothing is put into it
		l.kind.lowest, n, rest = true, 0, append([]compute.Buffer{own[0], x}, d...)
	}
	err = step("qkvback", n, rest, before, func(g *layerGraph, in []*Node, at *Node, n int) []*Node {
		part := func(i int) *Node { return cutRows(in[i], at, n) }
		dx := g.backwardQueryKeyValue(part(1), part(0), part(2), part(3), part(4), &residuals{t: map[string]*Node{}})
		if lowest {
			return nil
		}
		return []*Node{putChunk(in[0], dx, at)}
	})
	if lowest && err == nil {
		drop(own[0])
		own[0] = nil
	}
	return own[0], sum, err
}

// saved is what forward kept, from its inputs and the rows' log-sum-exp.
func (a *attention) saved(q, k, v, lse *Node) *saved {
	if a.fused != nil {
		return &saved{a.split(q), a.split(k), a.split(v), lse}
	}
	return &saved{a.toQuery(q), a.toKey(k), a.toKey(v), lse}
}
