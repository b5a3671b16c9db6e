package layerwise

import (
	"context"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/gotune/gotune/gotune/internal/quant"
)

// hostGroup is the projections of one layer that share an input, quantized and on
// their way to the device.
type hostGroup struct {
	weights []hostWeight
	room    *room // what their codes and scales lie in
	err     error
}

// sharedInputs are the projections of a layer by the input that they share, in
// the order in which they are loaded.
var sharedInputs = [][]string{{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}}

// startHost begins to read and quantize all layers' projections in a goroutine,
// one group ahead of the uploads, so that neither waits for the other. stop ends it
// and must be called before the checkpoint closes.
func (l *loader) startHost() (stop func()) {
	ctx, cancel := context.WithCancel(l.ctx)
	l.host, l.rooms = make(chan hostGroup), make(chan *room, 2)
	l.rooms <- &room{}
	l.rooms <- &room{}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(l.host)
		for layer := range l.cfg.NumLayers {
			for _, projs := range sharedInputs {
				var g hostGroup
				select {
				case room := <-l.rooms:
					g = l.hostGroup(layer, projs, room)
				case <-ctx.Done():
					return
				}
				select {
				case l.host <- g:
				case <-ctx.Done():
					g.room.free()
					return
				}
				if g.err != nil {
					return
				}
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// hostGroup reads and quantizes projections into r, made fit for them.
func (l *loader) hostGroup(layer int, projs []string, r *room) (g hostGroup) {
	g.room = r
	if l.opt.Quant != QuantNone {
		blocks := 0
		for _, p := range projs {
			out, in := l.cfg.ProjShape(p)
			blocks += (out*in + l.opt.BlockSize - 1) / l.opt.BlockSize
		}
		if g.err = r.reset(l.dev, blocks, l.opt.BlockSize, !l.opt.DoubleQuant); g.err != nil {
			return g
		}
	}
	for _, p := range projs {
		h, err := l.hostWeight(layer, p, r)
		if err != nil {
			g.err = err
			return g
		}
		g.weights = append(g.weights, h)
	}
	return g
}

// room is where a group's codes and scales are made: the memory of the device's
// own tensors where the host can write it, else host memory that the next group
// uses again.
type room struct {
	codes               []byte    // whole blocks
	absmax              []float32 // one a block
	codesBuf, absmaxBuf compute.Buffer
	used, parts         int // blocks, and the weights that they are of
}

// reset makes a room that is free fit for a number of blocks. Scales go to the
// device as they are only if plain is set.
func (r *room) reset(d *device, blocks, size int, plain bool) (err error) {
	r.used, r.parts = 0, 0
	bytes := blocks * size / 2
	if !d.sharesMemory() {
		r.codes, r.absmax = sized(r.codes, bytes), sized(r.absmax, blocks)
		return nil
	}
	if r.codesBuf, r.codes, err = shared[byte](d, dtypes.Uint8, bytes); err != nil {
		return err
	}
	if !plain {
		r.absmax = sized(r.absmax, blocks)
		return nil
	}
	r.absmaxBuf, r.absmax, err = shared[float32](d, dtypes.Float32, blocks)
	return err
}

// sized returns a slice of n elements in x's memory, if it is large enough.
func sized[E any](x []E, n int) []E {
	if cap(x) < n {
		return make([]E, n)
	}
	return x[:n]
}

// take returns the room for a weight's blocks.
func (r *room) take(blocks int) quant.Room {
	from, size := r.used, len(r.codes)/len(r.absmax)
	r.used += blocks
	r.parts++
	return quant.Room{Codes: r.codes[from*size : r.used*size], Absmax: r.absmax[from:r.used]}
}

// full says whether n weights are all that lies in the room, with nothing left.
func (r *room) full(n int) bool { return r.parts == n && r.used == len(r.absmax) }

// free gives back the device's memory that no group took over.
func (r *room) free() {
	if r.codesBuf != nil {
		drop(r.codesBuf)
		r.codesBuf, r.codes = nil, nil
	}
	if r.absmaxBuf != nil {
		drop(r.absmaxBuf)
		r.absmaxBuf, r.absmax = nil, nil
	}
}
