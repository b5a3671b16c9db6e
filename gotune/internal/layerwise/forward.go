package layerwise

import (
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/batch"
)

// keep says what a layer's forward program leaves behind.
type keep int

const (
	keepNothing   keep = iota // y alone: the backward pass computes the layer again
	keepResiduals             // y and the residuals
	keepAttention             // y, attention's output and log-sum-exp and x2: all else is computed again
)

// passContext is what all layers of one pass share, made by the embedding program.
// Fused attention has a bias only where the geometry says so; documents' places may
// stand for it.
type passContext struct {
	geometry
	cos, sin, bias, keys compute.Buffer
	fp8                  string // TrainOptions.FP8 of the layers' products
	eightKept            bool   // weights in 8-bit floats are kept, not made in each call
}

func (c *passContext) buffers() []compute.Buffer {
	if !c.masks() {
		return []compute.Buffer{c.cos, c.sin, c.keys}
	}
	return []compute.Buffer{c.cos, c.sin, c.keys, c.bias}
}

func (c *passContext) free() { drop(c.buffers()...) }

// layerInputs are the nodes of a layer program's inputs behind its own: context,
// place, trained values, frozen weights.
type layerInputs struct {
	cos, sin, bias, keys, where, flat *Node
	weights                           []*Node
}

// layerKind is everything that a layer program depends on, beside its shapes.
type layerKind struct {
	geometry
	specs   []groupSpec
	lora    loraSpecs
	keys    string // of specs and lora
	dropout float64
	keep    keep
	fp8     string // as passContext.fp8
	kept    bool   // with 8-bit weights that are kept
	turned  bool   // and their transposes
	kernels bool   // gotune's, of training
	lowest  bool   // backwards: no gradient is wanted of the layer's input
}

func (b *Base) kind(i int, m geometry, ad *DeviceAdapter, dropout float64, k keep) layerKind {
	return b.kindOf(b.layers[i], i, m, ad, dropout, k)
}

// kindOf is kind for another form of the layer.
func (b *Base) kindOf(w *layerWeights, i int, m geometry, ad *DeviceAdapter, dropout float64, k keep) layerKind {
	specs, key := w.specs()
	return layerKind{geometry: m, specs: specs, lora: ad.specs(i), keys: key + " lora " + ad.key(i), dropout: dropout, keep: k, kernels: b.train != nil}
}

func (k *layerKind) key() string {
	key := fmt.Sprintf("%s %s drop %v keep %d", k.geometry.key(), k.keys, k.dropout, k.keep)
	if k.kernels {
		key += " kernels"
	}
	if k.fp8 != FP8Off {
		key += fmt.Sprintf(" fp8 %s kept %t turned %t", k.fp8, k.kept, k.turned)
	}
	if k.lowest {
		key += " lowest"
	}
	return key
}

// passKind is kind for a layer of a pass.
func (b *Base) passKind(i int, c *passContext, ad *DeviceAdapter, dropout float64, k keep) layerKind {
	kind := b.kindOf(b.layers[i].forPass(c), i, c.geometry, ad, dropout, k)
	kind.fp8, kind.kept = c.fp8, c.eightKept
	kind.turned = c.fp8 == FP8Both && c.eightKept && b.layers[i].turned != nil
	return kind
}

// layer is the graph of one layer from its common inputs.
func (b *Base) layer(k *layerKind, in layerInputs) *layerGraph {
	l := &layerGraph{
		linears: &linears{dt: b.dt, grads: map[string]*Node{}, kernels: b.train, ready: map[string]*Node{}},
		heads:   b.cfg.NumHeads, kv: b.cfg.NumKVHeads, dim: b.cfg.HeadDim,
		eps: b.cfg.RMSNormEps, residual: b.residual,
		norm1: in.weights[0], norm2: in.weights[1], cos: in.cos, sin: in.sin,
		attn: b.attentionGraph(k.geometry, in.bias),
	}
	rest := in.weights[2:]
	for i := range k.specs {
		var m matrix
		m, rest = k.specs[i].read(rest, b.dt)
		l.matrices = append(l.matrices, m)
	}
	if k.fp8 != FP8Off {
		readFloat8(l.matrices, rest)
		l.eightBack = k.fp8 == FP8Both
	}
	if len(k.lora) > 0 {
		at := Reshape(Slice(in.where, AxisRange(1, 2)))
		l.lora = k.lora.modules(cutRows(in.flat, at, k.lora.size()), b.dt)
		if k.dropout > 0 {
			l.rng = dropoutOf(k.dropout, in.keys, in.where)
		}
	}
	return l
}

// attentionGraph is attention inside a graph.
func (b *Base) attentionGraph(m geometry, bias *Node) *attention {
	a := &attention{geometry: m, heads: b.cfg.NumHeads, kv: b.cfg.NumKVHeads, dim: b.cfg.HeadDim, window: b.cfg.SlidingWindow, bias: bias}
	if m.fused {
		a.fused = b.attention().fused
	}
	if r := m.ragged; r != nil {
		a.b, a.s = r.rows, r.length
	}
	return a
}

// split cuts a layer program's inputs: n of its own, then the common ones.
func (k *layerKind) split(in []*Node, n int) (own []*Node, common layerInputs) {
	own, rest := in[:n], in[n:]
	common.cos, common.sin, common.keys, rest = rest[0], rest[1], rest[2], rest[3:]
	if k.masks() {
		common.bias, rest = rest[0], rest[1:]
	}
	if len(k.lora) > 0 {
		common.where, common.flat, rest = rest[0], rest[1], rest[2:]
	}
	common.weights = rest
	return own, common
}

// arguments are the buffers that split's nodes stand for.
func (b *Base) arguments(i int, c *passContext, ad *DeviceAdapter, own ...compute.Buffer) []compute.Buffer {
	in := append(own[:len(own):len(own)], c.buffers()...)
	if len(ad.specs(i)) > 0 {
		in = append(in, ad.where[i], ad.flat)
	}
	return append(append(in, b.layers[i].forPass(c).buffers()...), b.layers[i].float8Inputs(c)...)
}

// call compiles (once) and runs a program for these arguments.
func (b *Base) call(key string, in []compute.Buffer, donate []int, build func(in []*Node) []*Node) ([]compute.Buffer, error) {
	return b.callGiving(key, in, donate, donate, build)
}

// callGiving is call for a program that mostly donates the inputs of give, and in
// this call those of donate.
func (b *Base) callGiving(key string, in []compute.Buffer, give, donate []int, build func(in []*Node) []*Node) ([]compute.Buffer, error) {
	sh, err := shapesOf(in)
	if err != nil {
		return nil, err
	}
	p, err := b.dev.compiled(b.graphs(), b.prefix+key, sh, give, func(_ *Graph, nodes []*Node) []*Node { return build(nodes) })
	if err != nil {
		return nil, err
	}
	if b.dev.plan != nil {
		return b.dev.plan.run(p, in, donate)
	}
	return p.run(in, donate...)
}

// start embeds a packed batch: x [T, D] and the pass's context.
func (b *Base) start(m geometry, md meta, packed compute.Buffer) (x compute.Buffer, c *passContext, err error) {
	out, err := b.call("embed "+m.key(), []compute.Buffer{packed, b.embed}, nil, func(in []*Node) []*Node {
		v, embed := in[0], in[1]
		x := ConvertDType(Gather(embed, InsertAxes(md.ids(v), -1)), b.residual)
		cos, sin := ropeTable(md.positions(v), b.cfg.InvFreq())
		keys := Slice(v, AxisRange(md.size()-metaTail+metaKey0, md.size()-metaTail+metaKey1+1))
		segments := func() *Node { return Reshape(md.segments(v), m.b, m.s) }
		switch {
		case m.biased:
			return []*Node{x, cos, sin, keys, fusedBiasOf(segments(), b.cfg.SlidingWindow, b.dt)}
		case m.fused:
			return []*Node{x, cos, sin, keys}
		}
		return []*Node{x, cos, sin, keys, biasOf(segments(), b.cfg.SlidingWindow)}
	})
	if err != nil {
		return nil, nil, err
	}
	c = &passContext{geometry: m, cos: out[1], sin: out[2], keys: out[3]}
	switch {
	case m.ragged != nil:
		if c.bias, err = b.dev.upload(m.ragged.places, dtypes.Int32, len(m.ragged.places)); err != nil {
			drop(out...)
			return nil, nil, err
		}
	case m.masks():
		c.bias = out[4]
	}
	return out[0], c, nil
}

// forwardLayer runs layer i. It returns y and what is kept.
func (b *Base) forwardLayer(i int, c *passContext, ad *DeviceAdapter, dropout float64, k keep, x compute.Buffer) (y compute.Buffer, saved []compute.Buffer, err error) {
	kind := b.passKind(i, c, ad, dropout, k)
	out, err := b.call("forward "+kind.key(), b.arguments(i, c, ad, x), nil, func(in []*Node) []*Node {
		own, common := kind.split(in, 1)
		y, r := b.layer(&kind, common).forward(own[0])
		switch kind.keep {
		case keepNothing:
			return []*Node{y}
		case keepAttention:
			return []*Node{y, r.o, r.attn.lse, r.x2}
		}
		return append([]*Node{y}, r.list(kind.lora)...)
	})
	if err != nil {
		return nil, nil, err
	}
	return out[0], out[1:], nil
}

// backwardLayer runs layer i backwards: it consumes dy, saved and, unless keepGrad,
// grad (the layer's gradient so far, f32 [n]; nil for a layer without adapter),
// and returns dx and the gradient with this micro-batch added. x stays the
// caller's. The lowest trained layer has a program of its own, without dx: XLA leaves
// out all that only dx needs, the product with W_qkv first of all. Its dx is nil.
func (b *Base) backwardLayer(i int, c *passContext, ad *DeviceAdapter, dropout float64, k keep, x, dy, grad compute.Buffer, keepGrad bool, saved []compute.Buffer) (dx, sum compute.Buffer, err error) {
	kind := b.passKind(i, c, ad, dropout, k)
	kind.lowest = i == ad.layout.lowest()
	own := []compute.Buffer{x, dy}
	give, donate := []int{1}, []int{1}
	trained := len(kind.lora) > 0
	if trained {
		own = append(own, grad)
		give = append(give, 2)
		if !keepGrad {
			donate = append(donate, 2)
		}
	}
	for _, s := range saved {
		donate = append(donate, len(own))
		own = append(own, s)
	}
	out, err := b.callGiving("backward "+kind.key(), b.arguments(i, c, ad, own...), give, donate, func(in []*Node) []*Node {
		own, common := kind.split(in, len(own))
		l := b.layer(&kind, common)
		x, dy, rest := own[0], own[1], own[2:]
		var before *Node
		if trained {
			before, rest = rest[0], rest[1:]
		}
		var r *residuals
		switch kind.keep {
		case keepResiduals:
			r = residualsOf(rest, kind.lora)
		case keepAttention:
			r = l.forwardFrom(x, rest[0], rest[1], rest[2])
		default:
			_, r = l.forward(x)
		}
		dx := l.backward(x, dy, r)
		if !trained {
			return []*Node{dx}
		}
		sum := Add(before, l.gradient(before.Graph(), kind.lora))
		if kind.lowest {
			return []*Node{sum}
		}
		return []*Node{dx, sum}
	})
	switch {
	case err != nil:
		return nil, nil, err
	case !trained:
		return out[0], nil, nil
	case kind.lowest:
		return nil, out[0], nil
	}
	return out[0], out[1], nil
}

// through runs all layers without keeping anything. It consumes x.
func (b *Base) through(c *passContext, ad *DeviceAdapter, x compute.Buffer, each func(layer int, y compute.Buffer) error) (compute.Buffer, error) {
	for i := range b.layers {
		y, _, err := b.forwardLayer(i, c, ad, 0, keepNothing, x)
		drop(x)
		if err != nil {
			return nil, err
		}
		x = y
		if each != nil {
			if err := each(i, x); err != nil {
				drop(x)
				return nil, err
			}
		}
	}
	return x, nil
}

// packBatch checks a batch and uploads its meta vector.
func (b *Base) packBatch(bt *batch.Batch, k0, k1 uint32, gradScale float64) (m geometry, md meta, buf compute.Buffer, supervised int, err error) {
	if err = bt.Check(b.cfg.VocabSize); err != nil {
		return m, md, nil, 0, err
	}
	m = b.geometryOf(bt)
	md = b.metaFor(m)
	flat, n := md.pack(bt, k0, k1, gradScale)
	buf, err = b.dev.upload(flat, dtypes.Int32, len(flat))
	return m, md, buf, n, err
}

// metaFor lays out the meta vector of a geometry.
func (b *Base) metaFor(m geometry) meta {
	t := m.tokens()
	return meta{tokens: t, padded: paddedRows(t, chunkRows(t, b.cfg.VocabSize, b.headBytes))}
}

// Logits runs the model on a batch and returns f32 [B·S·V]. ad may be nil for the
// base model alone.
func (b *Base) Logits(ad *DeviceAdapter, bt *batch.Batch) ([]float32, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := firstError(b.usable("logits"), ad.check(b)); err != nil {
		return nil, err
	}
	var out []float32
	err := b.run(ad, bt, nil, func(m geometry, _ meta, _, x compute.Buffer) error {
		logits, err := b.call("logits", []compute.Buffer{x, b.norm, b.head}, nil, func(in []*Node) []*Node {
			return []*Node{headLogits(rmsNorm(in[0], in[1], b.cfg.RMSNormEps, b.dt), in[2])}
		})
		if err != nil {
			return err
		}
		defer drop(logits...)
		out, err = download[float32](logits[0], m.tokens()*b.cfg.VocabSize)
		return err
	})
	return out, err
}

// run embeds a batch, runs all layers and hands the last output to end.
func (b *Base) run(ad *DeviceAdapter, bt *batch.Batch, each func(layer int, y compute.Buffer) error, end func(m geometry, md meta, packed, x compute.Buffer) error) error {
	m, md, packed, _, err := b.packBatch(bt, 0, 0, 0)
	if err != nil {
		return err
	}
	defer drop(packed)
	x, c, err := b.start(m, md, packed)
	if err != nil {
		return err
	}
	defer c.free()
	if each != nil {
		if err := each(-1, x); err != nil {
			return err
		}
	}
	if x, err = b.through(c, ad, x, each); err != nil {
		return err
	}
	defer drop(x)
	return end(m, md, packed, x)
}

func firstError(errs ...error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}
