package layerwise

import (
	"fmt"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// layersPerCall is how many layers a GPU runs in one call when decoding: a layer's
// work is a tenth of a millisecond, and a call costs the host about as much. Models
// whose layers are alike compile one program for all of them.
const layersPerCall = 8

// span is the layers from … to-1, which one call runs.
type span struct {
	from, to int
	kinds    []layerKind
	key      string
	program  *program // nil until the first call
}

// plan cuts the layers into spans of n.
func (d *stream) plan(n int) {
	d.spans = nil
	b := d.base
	for from := 0; from < len(b.layers); from += n {
		s := span{from: from, to: min(from+n, len(b.layers))}
		var keys []string
		for i := s.from; i < s.to; i++ {
			k := b.kind(i, geometry{b: d.rows, s: 1}, d.ad, 0, keepNothing)
			s.kinds, keys = append(s.kinds, k), append(keys, k.key())
		}
		s.key = fmt.Sprintf("decode-layers M%d direct %t kernel %t %s", d.room, d.direct, d.kernel, strings.Join(keys, " / "))
		d.spans = append(d.spans, s)
	}
}

// step reads one token of each row and returns the logits after them.
func (d *stream) step(ids []int32) ([]float32, error) {
	b := d.base
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := d.ready(); err != nil {
		return nil, err
	}
	if len(ids) != d.rows {
		return nil, fmt.Errorf("layerwise: decode step: %d tokens for %d sequences", len(ids), d.rows)
	}
	for _, id := range ids {
		if id < 0 || int(id) >= b.cfg.VocabSize {
			return nil, fmt.Errorf("layerwise: decode step: token %d is outside of the vocabulary of %d", id, b.cfg.VocabSize)
		}
	}
	token, err := b.dev.upload(ids, dtypes.Int32, len(ids))
	if err != nil {
		return nil, err
	}
	defer drop(token)
	if err := d.advance(token); err != nil {
		return nil, err
	}
	return d.logits, downloadTo(d.scores, d.logits)
}

// ready returns an error when no further token can be read.
func (d *stream) ready() error {
	if err := d.check(d.used + 1); err != nil {
		return err
	}
	if d.used == 0 {
		return fmt.Errorf("layerwise: decode step: no prompt was read; call Prefill first")
	}
	return nil
}

// advance queues the reading of tokens int32 [B], which stay the caller's. An
// error ends the sequences.
func (d *stream) advance(tokens compute.Buffer) (err error) {
	defer func() {
		if err != nil {
			d.clear()
		}
	}()
	b := d.base
	out, err := b.call(fmt.Sprintf("decode-begin B%d M%d", d.rows, d.room), []compute.Buffer{tokens, d.state, b.embed}, nil, d.beginGraph)
	if err != nil {
		return err
	}
	drop(d.state)
	x, common := out[0], out[1:5]
	d.state = out[5]
	defer drop(common...)
	for i := range d.spans {
		if x, err = d.through(&d.spans[i], x, common); err != nil {
			return err
		}
	}
	defer drop(x)
	out, err = b.call(fmt.Sprintf("decode-end direct %t", d.direct), []compute.Buffer{x, b.norm, b.head}, nil, d.endOf)
	if err != nil {
		return err
	}
	drop(d.scores, d.picked)
	d.scores, d.picked = out[0], out[1]
	d.used++
	return nil
}

// through runs a span's layers. It consumes x.
func (d *stream) through(s *span, x compute.Buffer, common []compute.Buffer) (y compute.Buffer, err error) {
	b := d.base
	in := append([]compute.Buffer{x}, common...)
	donate := []int{0}
	if d.ad != nil {
		in = append(in, d.ad.flat) // a trainer puts a new one in place at each step
	}
	for i := s.from; i < s.to; i++ {
		donate = append(donate, len(in), len(in)+1)
		in = append(in, d.caches[2*i], d.caches[2*i+1])
		if d.ad != nil {
			in = append(in, d.ad.where[i])
		}
		in = append(in, b.layers[i].buffers()...)
	}
	if s.program == nil {
		sh, err := shapesOf(in)
		if err != nil {
			return nil, err
		}
		be := b.dev.be
		if d.kernel && b.dev.kernels().on {
			be = kernelBackend{be}
		}
		if s.program, err = b.dev.compiled(be, b.prefix+s.key, sh, donate, d.spanGraph(s)); err != nil {
			return nil, err
		}
	}
	out, err := s.program.run(in, donate...)
	if err != nil {
		return nil, err
	}
	copy(d.caches[2*s.from:2*s.to], out[1:])
	return out[0], nil
}

// greedy is [Decoder.Greedy] for all rows.
func (d *stream) greedy(n int, each func(ids []int32) (more bool, err error)) error {
	ids := make([]int32, d.rows)
	for i := range n {
		if err := d.next(ids, i+1 < n); err != nil {
			return err
		}
		more, err := each(ids)
		if err != nil || !more || i+1 == n {
			return err
		}
		if d.base.dev.cpu {
			if err := d.readPicked(); err != nil {
				return err
			}
		}
	}
	return nil
}

// next fetches the ids picked last. Where calls may be queued, it queues the reading
// of these ids first, unless they are the last ones.
func (d *stream) next(ids []int32, goOn bool) error {
	d.base.mu.Lock()
	defer d.base.mu.Unlock()
	if d.picked == nil {
		return fmt.Errorf("layerwise: greedy decoding: no prompt was read; call Prefill first")
	}
	picked := d.picked
	if goOn && !d.base.dev.cpu && d.used < d.limit {
		d.picked = nil
		defer drop(picked)
		if err := d.ready(); err != nil {
			return err
		}
		if err := d.advance(picked); err != nil {
			return err
		}
	} else if goOn && d.used >= d.limit {
		return d.check(d.used + 1)
	}
	if err := downloadTo(picked, ids); err != nil {
		return err
	}
	for i, id := range ids {
		if id < 0 {
			return fmt.Errorf("layerwise: greedy decoding: the logits of sequence %d hold NaN or +Inf: the weights do, or the compute precision overflowed; try bfloat16 or float32", i)
		}
	}
	return nil
}

// readPicked reads the ids picked last.
func (d *stream) readPicked() error {
	d.base.mu.Lock()
	defer d.base.mu.Unlock()
	if err := d.ready(); err != nil {
		return err
	}
	picked := d.picked
	d.picked = nil
	defer drop(picked)
	return d.advance(picked)
}
