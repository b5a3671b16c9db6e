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
// read so far stay on the device, for each layer as [1, K, M, d] in the compute dtype
// with M tokens of room. It implements sample.Greedy.
type Decoder struct{ stream }

var _ sample.Greedy = (*Decoder)(nil)

// NewDecoder makes a decoder for sequences of at most maxLen tokens, prompt and
// answer together. ad may be nil; it must live as long as the decoder. maxLen may
// not exceed the model's MaxPositions.
func (b *Base) NewDecoder(ad *DeviceAdapter, maxLen int) (*Decoder, error) {
	s, err := b.newStream(ad, 1, maxLen)
	if err != nil {
		return nil, err
	}
	return &Decoder{*s}, nil
}

// Prefill reads a prompt and returns the logits after its last token, f32 [V],
// valid until the next call. A decoder reads a prompt at any time: it starts a
// new sequence.
func (d *Decoder) Prefill(ids []int32) ([]float32, error) { return d.prefill([][]int32{ids}) }

// Step reads one more token and returns the logits after it, f32 [V], valid until
// the next call.
func (d *Decoder) Step(id int32) ([]float32, error) { return d.step([]int32{id}) }

// Greedy draws up to n tokens, each the one with the largest logit, the first of
// equals, from where Prefill, Step or Greedy left, and passes each on until each
// says that there shall be no more. The ids stay on the device from one token to the
// next; the device reads token t+1 while the host looks at token t. The last
// token passed on has not been read by the model.
func (d *Decoder) Greedy(n int, each func(id int32) (more bool, err error)) error {
	return d.greedy(n, func(ids []int32) (bool, error) { return each(ids[0]) })
}

// BatchDecoder generates B sequences side by side, one token of each a step. Their
// prompts may differ in length. It implements sample.BatchDecoder.
type BatchDecoder struct{ stream }

var _ sample.GreedyBatch = (*BatchDecoder)(nil)

// NewBatchDecoder makes a decoder of rows sequences. maxLen is the longest prompt
// and the longest answer together, at most the model's MaxPositions. ad may be
// nil; it must live as long as the decoder.
func (b *Base) NewBatchDecoder(ad *DeviceAdapter, rows, maxLen int) (*BatchDecoder, error) {
	if rows < 1 {
		return nil, fmt.Errorf("layerwise: decoder of %d sequences; ask for at least one", rows)
	}
	s, err := b.newStream(ad, rows, maxLen)
	if err != nil {
		return nil, err
	}
	return &BatchDecoder{*s}, nil
}

// Prefill reads a prompt for each row and returns the logits after their last
// tokens, f32 [V] each, valid until the next call.
func (d *BatchDecoder) Prefill(prompts [][]int32) ([][]float32, error) {
	return d.split(d.prefill(prompts))
}

// Step reads one more token of each row. A row that has ended takes any token.
func (d *BatchDecoder) Step(ids []int32) ([][]float32, error) { return d.split(d.step(ids)) }

// Greedy is [Decoder.Greedy] for all rows at once.
func (d *BatchDecoder) Greedy(n int, each func(ids []int32) (more bool, err error)) error {
	return d.greedy(n, each)
}

func (d *BatchDecoder) split(flat []float32, err error) ([][]float32, error) {
	if err != nil {
		return nil, err
	}
	out := make([][]float32, d.rows)
	for i := range out {
		out[i] = flat[i*len(flat)/d.rows : (i+1)*len(flat)/d.rows]
	}
	return out, nil
}

// stream is B sequences on the device. Prompts lie in slots 0 … len-1 of each
// row's cache; the tokens behind take the slots from the longest prompt on, the same
// slot in every row. Slots between, and those to come, are masked.
type stream struct {
	base   *Base
	ad     *DeviceAdapter // nil for the base model alone
	rows   int            // B
	limit  int            // slots the caller asked for
	room   int            // M, slots of the cache
	used   int            // slots taken
	direct bool           // 4-bit matrices are multiplied as they are stored
	kernel bool           // by gotune's kernel
	spans  []span         // layers of one call

	caches []compute.Buffer // k and v of each layer, [B, K, M, d]
	state  compute.Buffer   // int32 [B+2]: each prompt's length, the longest, the next slot
	picked compute.Buffer   // int32 [B]: ids of the largest logits, -1 where they are not numbers
	scores compute.Buffer   // f32 [B, V]
	logits []float32
	closed bool
}

func (b *Base) newStream(ad *DeviceAdapter, rows, maxLen int) (*stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := firstError(b.usable("decode"), ad.check(b)); err != nil {
		return nil, err
	}
	if maxLen < 1 || (b.cfg.MaxPositions > 0 && maxLen > b.cfg.MaxPositions) {
		return nil, fmt.Errorf("layerwise: decoder for %d tokens: the model takes 1 to %d; choose a smaller maximum length", maxLen, b.cfg.MaxPositions)
	}
	d := &stream{base: b, ad: ad, rows: rows, limit: maxLen, room: roomFor(maxLen), logits: make([]float32, rows*b.cfg.VocabSize)}
	n := 1
	if !b.dev.cpu {
		n = layersPerCall
		d.kernel = rows <= kernelRows && b.dev.kernels().on
		d.direct = d.kernel || rows <= directRows
	}
	d.plan(n)
	return d, nil
}

// roomFor rounds a cache up to a multiple of 64, or of an eighth of its size where
// that is more, so that few different rooms are compiled.
func roomFor(n int) int {
	step := 64
	for step*16 <= n {
		step *= 2
	}
	return (n + step - 1) / step * step
}

// Bytes is the device memory that the cache takes once the prompt is read.
func (d *stream) Bytes() int64 {
	c := d.base.cfg
	return int64(2*c.NumLayers*c.NumKVHeads*c.HeadDim*d.base.dt.Size()) * int64(d.room) * int64(d.rows)
}

// prefill starts new sequences.
func (d *stream) prefill(prompts [][]int32) (logits []float32, err error) {
	b := d.base
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(prompts) != d.rows {
		return nil, fmt.Errorf("layerwise: prefill: %d prompts for a decoder of %d sequences", len(prompts), d.rows)
	}
	longest := 0
	for _, p := range prompts {
		if len(p) == 0 {
			return nil, fmt.Errorf("layerwise: prefill: the prompt has no tokens; begin with the model's BOS token")
		}
		longest = max(longest, len(p))
	}
	if err := d.check(longest); err != nil {
		return nil, err
	}
	d.clear()
	defer func() {
		if err != nil {
			d.clear()
		}
	}()
	bt, last := d.promptBatch(prompts, longest)
	x, err := d.readPrompts(bt)
	if err != nil {
		return nil, err
	}
	defer drop(x)
	state := make([]int32, d.rows+2)
	for i, p := range prompts {
		state[i] = int32(len(p))
	}
	state[d.rows], state[d.rows+1] = int32(longest), int32(longest)
	if d.state, err = b.dev.upload(state, dtypes.Int32, len(state)); err != nil {
		return nil, err
	}
	rows, err := b.dev.upload(last, dtypes.Int32, len(last))
	if err != nil {
		return nil, err
	}
	defer drop(rows)
	out, err := b.call("decode-first", []compute.Buffer{x, rows, b.norm, b.head}, nil, func(in []*Node) []*Node {
		return d.endGraph(Gather(in[0], InsertAxes(in[1], -1)), in[2], in[3])
	})
	if err != nil {
		return nil, err
	}
	d.scores, d.picked, d.used = out[0], out[1], longest
	return d.logits, downloadTo(d.scores, d.logits)
}

// readPrompts runs the layers on padded prompts, fills the caches and returns the
// last layer's output [B·S, D].
func (d *stream) readPrompts(bt *batch.Batch) (x compute.Buffer, err error) {
	b := d.base
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
	return x, nil
}

// promptLength is the padded length of a prompt: a power of two of at least 16
// tokens or one and a half times that, so that few lengths are compiled.
func promptLength(n int) int {
	p := 16
	for p < n {
		if p+p/2 >= n && p > 16 {
			return p + p/2
		}
		p *= 2
	}
	return p
}

// promptBatch pads prompts to one length. last are the places of their last
// tokens among all.
func (d *stream) promptBatch(prompts [][]int32, longest int) (bt *batch.Batch, last []int32) {
	n := min(promptLength(longest), d.room)
	t := d.rows * n
	bt = &batch.Batch{B: d.rows, S: n, IDs: make([]int32, t), Labels: make([]int32, t), Positions: make([]int32, t), Segments: make([]int32, t)}
	for r, ids := range prompts {
		copy(bt.IDs[r*n:], ids)
		for i := range n {
			at := r*n + i
			bt.Labels[at] = batch.Ignore
			if i < len(ids) {
				bt.Positions[at], bt.Segments[at] = int32(i), 1
			}
		}
		last = append(last, int32(r*n+len(ids)-1))
	}
	return bt, last
}

// prefillLayer runs layer i on the prompts and fills its caches.
func (d *stream) prefillLayer(i int, c *passContext, x compute.Buffer) (y compute.Buffer, err error) {
	b := d.base
	kind := b.kind(i, c.geometry, d.ad, 0, keepNothing)
	out, err := b.call("prefill "+kind.key(), b.arguments(i, c, d.ad, x), nil, func(in []*Node) []*Node {
		own, common := kind.split(in, 1)
		y, r := b.layer(&kind, common).forward(own[0])
		return []*Node{y, r.k, r.v}
	})
	if err != nil {
		return nil, err
	}
	defer drop(out[1:]...)
	kv, err := b.call(fmt.Sprintf("prefill-cache B%d M%d", d.rows, d.room), out[1:], nil, func(in []*Node) []*Node {
		return []*Node{d.newCache(in[0]), d.newCache(in[1])}
	})
	if err != nil {
		drop(out[0])
		return nil, err
	}
	d.caches = append(d.caches, kv...)
	return out[0], nil
}

// newCache lays [B·S, K, d] out as a cache [B, K, M, d]; the room behind is zero.
func (d *stream) newCache(x *Node) *Node {
	s := x.Shape().Dim(0) / d.rows
	x = TransposeAllAxes(Reshape(x, d.rows, s, x.Shape().Dim(1), x.Shape().Dim(2)), 0, 2, 1, 3)
	if s == d.room {
		return x
	}
	rest := Zeros(x.Graph(), shapeOf(x.DType(), d.rows, x.Shape().Dim(1), d.room-s, x.Shape().Dim(3)))
	return Concatenate([]*Node{x, rest}, 2)
}

// check returns an error when n slots can't be had.
func (d *stream) check(n int) error {
	if d.closed {
		return fmt.Errorf("layerwise: decode: the decoder is closed; make a new one")
	}
	if n > d.limit {
		return fmt.Errorf("layerwise: decode: %d tokens, but the decoder has room for %d; make one with a larger maximum length", n, d.limit)
	}
	return firstError(d.base.usable("decode"), d.ad.check(d.base))
}

// Close frees the cache. Closing twice does nothing.
func (d *stream) Close() {
	d.base.mu.Lock()
	defer d.base.mu.Unlock()
	d.clear()
	d.closed = true
}

func (d *stream) clear() {
	drop(d.caches...)
	drop(d.state, d.picked, d.scores)
	d.caches, d.used = nil, 0
	d.state, d.picked, d.scores = nil, nil, nil
}
