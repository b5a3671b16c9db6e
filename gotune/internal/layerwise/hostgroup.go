package layerwise

import (
	"context"
	"sync"
)

// hostGroup is the projections of one layer that share an input, quantized and on
// their way to the device.
type hostGroup struct {
	weights []hostWeight
	room    []byte // what their codes lie in
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
	l.host, l.rooms = make(chan hostGroup), make(chan []byte, 2)
	l.rooms <- nil
	l.rooms <- nil
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

// hostGroup reads and quantizes projections into room, made larger if need be.
func (l *loader) hostGroup(layer int, projs []string, room []byte) (g hostGroup) {
	need := 0
	for _, p := range projs {
		out, in := l.cfg.ProjShape(p)
		need += codeBytes(out*in, l.opt.BlockSize)
	}
	if l.opt.Quant == QuantNone {
		need = 0
	}
	if len(room) < need {
		room = make([]byte, need)
	}
	g.room = room
	for _, p := range projs {
		h, err := l.hostWeight(layer, p, room)
		if err != nil {
			g.err = err
			return g
		}
		room = room[len(h.room):]
		g.weights = append(g.weights, h)
	}
	return g
}

// codeBytes is the room for the 4-bit codes of n weights in whole blocks.
func codeBytes(n, block int) int { return (n + block - 1) / block * block / 2 }
