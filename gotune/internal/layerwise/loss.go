package layerwise

import (
	"fmt"

	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/batch"
)

// headRun is the loss of one micro-batch being computed, chunk by chunk.
type headRun struct {
	*headGraph
	base   *Base
	key    string
	packed compute.Buffer
	x      compute.Buffer // the last layer's output
	used   int            // supervised rows
}

func (b *Base) newHeadRun(m geometry, md meta, packed, x compute.Buffer, supervised int) *headRun {
	h := &headGraph{eps: b.cfg.RMSNormEps, dt: b.dt, residual: b.residual, meta: md, chunk: chunkRows(m.tokens(), b.cfg.VocabSize, b.headBytes)}
	return &headRun{headGraph: h, base: b, key: fmt.Sprintf(" T%d C%d", md.tokens, h.chunk), packed: packed, x: x, used: supervised}
}

// forwardBackward returns the sum of the supervised rows' cross-entropies (f32
// scalar) and dx [T, D], the gradient of the packed batch's gradScale times that
// sum.
func (r *headRun) forwardBackward() (loss, dx compute.Buffer, err error) {
	b := r.base
	scale := func(packed *Node) *Node { return bitsF32(r.meta.scalar(packed, metaScale)) }
	if r.chunk == r.meta.padded { // all rows at once: one program
		out, err := b.call("head"+r.key, []compute.Buffer{r.packed, r.x, b.norm, b.head}, nil, func(in []*Node) []*Node {
			packed, x, norm := in[0], in[1], in[2]
			_, targets, _ := r.meta.labels(packed)
			loss, d := r.piece(r.pick(packed, x, norm), in[3], targets, scale(packed))
			return []*Node{loss, r.back(packed, x, norm, d)}
		})
		if err != nil {
			return nil, nil, err
		}
		return out[0], out[1], nil
	}
	out, err := b.call("head pick"+r.key, []compute.Buffer{r.packed, r.x, b.norm}, nil, func(in []*Node) []*Node {
		picked := r.pick(in[0], in[1], in[2])
		return []*Node{picked, scalarF32(picked.Graph(), 0), ZerosLike(picked)}
	})
	if err != nil {
		return nil, nil, err
	}
	picked, loss, d := out[0], out[1], out[2]
	defer func() { drop(picked, d) }()
	for at := 0; at < r.used; at += r.chunk {
		from, err := b.dev.number(int32(at))
		if err != nil {
			return nil, nil, firstError(err, loss.Finalize())
		}
		out, err := b.call("head chunk"+r.key, []compute.Buffer{r.packed, picked, b.head, from, loss, d}, []int{4, 5}, func(in []*Node) []*Node {
			x, targets := r.part(in[0], in[1], in[3])
			l, dc := r.piece(x, in[2], targets, scale(in[0]))
			return []*Node{Add(in[4], l), putRows(in[5], dc, Reshape(in[3]), 0)}
		})
		if err != nil {
			d = nil
			return nil, nil, err
		}
		loss, d = out[0], out[1]
	}
	out, err = b.call("head back"+r.key, []compute.Buffer{r.packed, r.x, b.norm, d}, nil, func(in []*Node) []*Node {
		return []*Node{r.back(in[0], in[1], in[2], in[3])}
	})
	if err != nil {
		return nil, nil, firstError(err, loss.Finalize())
	}
	return loss, out[0], nil
}

// sum returns the sum of the supervised rows' cross-entropies alone.
func (r *headRun) sum() (sum float64, err error) {
	b := r.base
	out, err := b.call("loss pick"+r.key, []compute.Buffer{r.packed, r.x, b.norm}, nil, func(in []*Node) []*Node {
		return []*Node{r.pick(in[0], in[1], in[2])}
	})
	if err != nil {
		return 0, err
	}
	picked := out[0]
	defer drop(picked)
	var sums []compute.Buffer // read when all chunks are queued
	defer func() { drop(sums...) }()
	for at := 0; at < r.used; at += r.chunk {
		from, err := b.dev.number(int32(at))
		if err != nil {
			return 0, err
		}
		out, err := b.call("loss chunk"+r.key, []compute.Buffer{r.packed, picked, b.head, from}, nil, func(in []*Node) []*Node {
			x, targets := r.part(in[0], in[1], in[3])
			z, lse := r.logits(x, in[2])
			return []*Node{ReduceAllSum(r.crossEntropy(z, lse, targets))}
		})
		if err != nil {
			return 0, err
		}
		sums = append(sums, out[0])
	}
	for _, s := range sums {
		v, err := download[float32](s, 1)
		if err != nil {
			return 0, err
		}
		sum += float64(v[0])
	}
	return sum, nil
}

// lossOf runs the model on a batch and returns the sum of its cross-entropies.
func (b *Base) lossOf(ad *DeviceAdapter, bt *batch.Batch) (sum float64, err error) {
	err = b.run(ad, bt, nil, func(m geometry, md meta, packed, x compute.Buffer) (err error) {
		sum, err = b.newHeadRun(m, md, packed, x, bt.Supervised()).sum()
		return err
	})
	return sum, err
}
