package layerwise

import (
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/sample"
)

// Decoder generates one sequence token by token. Keys and values of the tokens
// read so far stay on the device, for each layer as [K, M, d] in the compute dtype
// with M tokens of room. It implements sample.Decoder.
type Decoder struct {
	base   *Base
	ad     *DeviceAdapter // nil for the base model alone
	limit  int            // tokens the caller asked for
	room   int            // M
	used   int            // tokens read
	caches []compute.Buffer
	logits []float32
	closed bool
}

var _ sample.Decoder = (*Decoder)(nil)

// cacheStep rounds a cache's room up, so that few different rooms are compiled.
const cacheStep = 64

// NewDecoder makes a decoder for sequences of at most maxLen tokens, prompt and
// answer together. ad may be nil; it must live as long as the decoder. maxLen may
// not exceed the model's MaxPositions.
func (b *Base) NewDecoder(ad *DeviceAdapter, maxLen int) (*Decoder, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := firstError(b.usable("decode"), ad.check(b)); err != nil {
		return nil, err
	}
	if maxLen < 1 || (b.cfg.MaxPositions > 0 && maxLen > b.cfg.MaxPositions) {
		return nil, fmt.Errorf("layerwise: decoder for %d tokens: the model takes 1 to %d; choose a smaller maximum length", maxLen, b.cfg.MaxPositions)
	}
	room := (maxLen + cacheStep - 1) / cacheStep * cacheStep
	return &Decoder{base: b, ad: ad, limit: maxLen, room: room,
		logits: make([]float32, b.cfg.VocabSize)}, nil
}

// Bytes is the device memory that the cache takes once the prompt is read.
func (d *Decoder) Bytes() int64 {
	c := d.base.cfg
	return int64(2*c.NumLayers*c.NumKVHeads*c.HeadDim*d.base.dt.Size()) * int64(d.room)
}

// Prefill reads a prompt and returns the logits after its last token, f32 [V],
// valid until the next call. A decoder reads a prompt at any time: it starts a
// new sequence.
func (d *Decoder) Prefill(ids []int32) ([]float32, error) {
	b := d.base
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := d.check(len(ids)); err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("layerwise: prefill: the prompt has no tokens; begin with the model's BOS token")
	}
	d.clear()
	bt := d.promptBatch(ids)
	m, md, packed, _, err := b.packBatch(bt, 0, 0, 0)
	if err != nil {
		return nil, err
	}
	defer drop(packed)
	x, c, err := b.start(m, md, packed)
	if err != nil {
		return nil, err
	}
	defer c.free()
	for i := range b.layers {
		y, err := d.prefillLayer(i, c, x)
		drop(x)
		if err != nil {
			return nil, err
		}
		x = y
	}
	defer drop(x)
	last, err := b.dev.upload([]int32{int32(len(ids) - 1)}, dtypes.Int32, 1)
	if err != nil {
		return nil, err
	}
	defer drop(last)
	out, err := b.call("last logits", []compute.Buffer{x, last, b.norm, b.head}, nil, func(in []*Node) []*Node {
		row := Gather(in[0], InsertAxes(in[1], -1))
		return []*Node{headLogits(rmsNorm(row, in[2], b.cfg.RMSNormEps, b.dt), in[3])}
	})
	if err != nil {
		return nil, err
	}
	defer drop(out...)
	d.used = len(ids)
	return d.logits, downloadTo(out[0], d.logits)
}

// promptBatch pads a prompt to a power of two of at least 16 tokens, or to the
// cache's room.
func (d *Decoder) promptBatch(ids []int32) *batch.Batch {
	n := 16
	for n < len(ids) {
		n *= 2
	}
	n = min(n, d.room)
	bt := &batch.Batch{B: 1, S: n, IDs: make([]int32, n), Labels: make([]int32, n), Positions: make([]int32, n), Segments: make([]int32, n)}
	copy(bt.IDs, ids)
	for i := range n {
		bt.Labels[i] = batch.Ignore
		if i < len(ids) {
			bt.Positions[i], bt.Segments[i] = int32(i), 1
		}
	}
	return bt
}

// prefillLayer runs layer i on the prompt and fills its caches.
func (d *Decoder) prefillLayer(i int, c *passContext, x compute.Buffer) (y compute.Buffer, err error) {
	b := d.base
	kind := b.kind(i, c.geometry, d.ad, 0, keepNothing)
	out, err := b.call(fmt.Sprintf("prefill M%d %s", d.room, kind.key()), b.arguments(i, c, d.ad, x), nil, func(in []*Node) []*Node {
		own, common := kind.split(in, 1)
		y, r := b.layer(&kind, common).forward(own[0])
		return []*Node{y, d.newCache(r.k), d.newCache(r.v)}
	})
	if err != nil {
		return nil, err
	}
	d.caches = append(d.caches, out[1], out[2])
	return out[0], nil
}

// newCache lays [T, K, d] out as a cache [K, M, d]; the room behind is zero.
func (d *Decoder) newCache(x *Node) *Node {
	t := x.Shape().Dim(0)
	x = TransposeAllAxes(x, 1, 0, 2)
	if t == d.room {
		return x
	}
	rest := Zeros(x.Graph(), shapeOf(x.DType(), x.Shape().Dim(0), d.room-t, x.Shape().Dim(2)))
	return Concatenate([]*Node{x, rest}, 1)
}

// Step reads one more token and returns the logits after it, f32 [V], valid until
// the next call.
func (d *Decoder) Step(id int32) ([]float32, error) {
	b := d.base
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := d.check(d.used + 1); err != nil {
		return nil, err
	}
	if d.used == 0 {
		return nil, fmt.Errorf("layerwise: decode step: no prompt was read; call Prefill first")
	}
	if id < 0 || int(id) >= b.cfg.VocabSize {
		return nil, fmt.Errorf("layerwise: decode step: token %d is outside of the vocabulary of %d", id, b.cfg.VocabSize)
	}
	token, err := b.dev.upload([]int32{id, int32(d.used)}, dtypes.Int32, 2)
	if err != nil {
		return nil, err
	}
	defer drop(token)
	out, err := d.stepLayers(token)
	if err != nil {
		return nil, err
	}
	defer drop(out)
	d.used++
	return d.logits, downloadTo(out, d.logits)
}

// stepLayers runs the token layer by layer.
func (d *Decoder) stepLayers(token compute.Buffer) (logits compute.Buffer, err error) {
	b := d.base
	out, err := b.call("decode embed", []compute.Buffer{token, b.embed}, nil, func(n []*Node) []*Node {
		x, _ := b.embedToken(n[0], n[1], d.room)
		return []*Node{x}
	})
	if err != nil {
		return nil, err
	}
	x := out[0]
	for i := range b.layers {
		kind := b.kind(i, geometry{b: 1, s: 1}, d.ad, 0, keepNothing)
		in := append([]compute.Buffer{x, token, b.embed, d.caches[2*i], d.caches[2*i+1]}, b.decodeArguments(i, d.ad)...)
		out, err := b.call("decode "+kind.key(), in, []int{0, 3, 4}, func(n []*Node) []*Node {
			_, place := b.embedToken(n[1], n[2], d.room)
			y, k, v := b.decodeLayer(&kind, n[5:], n[0], n[3], n[4], place)
			return []*Node{y, k, v}
		})
		if err != nil {
			return nil, err
		}
		x, d.caches[2*i], d.caches[2*i+1] = out[0], out[1], out[2]
	}
	defer drop(x)
	out, err = b.call("logits", []compute.Buffer{x, b.norm, b.head}, nil, func(in []*Node) []*Node {
		return []*Node{headLogits(rmsNorm(in[0], in[1], b.cfg.RMSNormEps, b.dt), in[2])}
	})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// decodeArguments are layer i's inputs when decoding: adapter, then weights.
func (b *Base) decodeArguments(i int, ad *DeviceAdapter) (in []compute.Buffer) {
	if len(ad.specs(i)) > 0 {
		in = append(in, ad.where[i], ad.flat)
	}
	return append(in, b.layers[i].buffers()...)
}

// tokenPlace is where a decoded token stands.
type tokenPlace struct {
	pos, cos, sin *Node // int32 scalar; f32 [1, d/2]
	bias          *Node // f32 [1, M]: 0 for the keys it sees
}

// embedToken returns x [1, D] and the place of token int32 [2] = id, position.
func (b *Base) embedToken(token, embed *Node, room int) (x *Node, p tokenPlace) {
	g := token.Graph()
	x = ConvertDType(Gather(embed, InsertAxes(Slice(token, AxisRange(0, 1)), -1)), b.residual)
	at := Slice(token, AxisRange(1, 2))
	p.pos = Reshape(at)
	p.cos, p.sin = ropeTable(at, b.cfg.InvFreq())
	j := Iota(g, shapeOf(dtypes.Int32, 1, room), 1)
	i := BroadcastToDims(p.pos, 1, room)
	see := LessOrEqual(j, i)
	if w := b.cfg.SlidingWindow; w > 0 {
		see = LogicalAnd(see, LessThan(Sub(i, j), Scalar(g, dtypes.Int32, w)))
	}
	p.bias = Where(see, Zeros(g, shapeOf(dtypes.Float32, 1, room)), scalarF32(g, masked))
	return x, p
}

// decodeLayer runs one token x [1, D] through a layer with caches k, v [K, M, d].
func (b *Base) decodeLayer(kind *layerKind, in []*Node, x, k, v *Node, p tokenPlace) (y, k1, v1 *Node) {
	common := layerInputs{cos: p.cos, sin: p.sin}
	if len(kind.lora) > 0 {
		common.where, common.flat, in = in[0], in[1], in[2:]
	}
	common.weights = in
	l := b.layer(kind, common)
	r := &residuals{t: map[string]*Node{}}
	r.q, r.k, r.v = l.queryKeyValue(x, r)
	put := func(cache, x *Node) *Node { // x [1, K, d] at the token's place
		zero := Scalar(x.Graph(), dtypes.Int32, 0)
		return DynamicUpdateSlice(cache, TransposeAllAxes(x, 1, 0, 2), []*Node{zero, p.pos, zero})
	}
	k1, v1 = put(k, r.k), put(v, r.v)
	r.o = l.attendCache(r.q, k1, v1, p.bias)
	return l.after(x, r), k1, v1
}

// attendCache is attention of one token's queries q [1, H, d] over caches
// [K, M, d]; it returns o [1, H, d].
func (l *layerGraph) attendCache(q, k, v, bias *Node) *Node {
	q = Reshape(q, l.kv, l.heads/l.kv, l.dim)
	sc := Dot(q, k).WithOutputDType(dtypes.Float32).General([]int{2}, []int{0}, []int{2}, []int{0}) // [K, G, M]
	sc = Add(MulScalar(sc, attentionScale(l.dim)), InsertAxes(bias, 0))
	e := Exp(Sub(sc, ReduceAndKeep(sc, ReduceMax, -1)))
	o := Dot(ConvertDType(e, v.DType()), v).WithOutputDType(dtypes.Float32).General([]int{2}, []int{0}, []int{1}, []int{0})
	return Reshape(ConvertDType(Div(o, ReduceAndKeep(e, ReduceSum, -1)), l.dt), 1, l.heads, l.dim)
}

// check returns an error when a sequence of n tokens can't be read.
func (d *Decoder) check(n int) error {
	if d.closed {
		return fmt.Errorf("layerwise: decode: the decoder is closed; make a new one")
	}
	if n > d.limit {
		return fmt.Errorf("layerwise: decode: %d tokens, but the decoder has room for %d; make one with a larger maximum length", n, d.limit)
	}
	return firstError(d.base.usable("decode"), d.ad.check(d.base))
}

// Close frees the cache. Closing twice does nothing.
func (d *Decoder) Close() {
	d.base.mu.Lock()
	defer d.base.mu.Unlock()
	d.clear()
	d.closed = true
}

func (d *Decoder) clear() {
	drop(d.caches...)
	d.caches, d.used = nil, 0
}
