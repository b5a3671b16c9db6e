package layerwise

import (
	"strings"

	"github.com/gomlx/compute"
)

// A paged optimizer's states are needed once a step, at its end. Where layers'
// inputs go to the host's memory (MemoryOffload), so do they: out behind the update, in
// before the next one, so that they are not on the device at the backward pass's peak. For
// r=64 on q and v of 7B shapes that is 256 MiB, which the bus takes in about 5 ms each
// way; the way out runs beside the next step's forward pass.
//
// bitsandbytes' paged optimizers leave the moving to the driver's unified memory, which
// moves pages when the device runs out; XLA's allocator has none.

// paged says whether the states leave the device between updates.
func (t *Trainer) paged() bool {
	return t.opt.Memory == MemoryOffload && strings.HasPrefix(t.opt.Optim, "paged_")
}

// pageOut begins the states' way to the host.
func (t *Trainer) pageOut() error {
	if !t.paged() || t.away != nil {
		return nil
	}
	for _, b := range []compute.Buffer{t.first, t.second} {
		h, err := t.base.dev.toHost(b)
		if err != nil {
			t.forgetAway()
			return err
		}
		t.away = append(t.away, h)
	}
	return nil
}

// leave frees the states on the device once they are on the host.
func (t *Trainer) leave() error {
	if t.away == nil || t.first == nil {
		return nil
	}
	for _, h := range t.away {
		if err := h.Wait(); err != nil {
			return failure("copy the optimizer's states to the host", err)
		}
	}
	drop(t.first, t.second)
	t.first, t.second = nil, nil
	return nil
}

// pageIn begins the states' way back if they have left; what is queued behind it
// finds them there.
func (t *Trainer) pageIn() error {
	if t.first == nil {
		var in [2]compute.Buffer
		for i, h := range t.away {
			b, _, err := h.Back()
			if err != nil {
				drop(in[:]...)
				return failure("copy the optimizer's states back from the host", err)
			}
			in[i] = b
		}
		t.first, t.second = in[0], in[1]
	}
	t.forgetAway()
	return nil
}

// forgetAway frees the states' copies on the host.
func (t *Trainer) forgetAway() {
	for _, h := range t.away {
		h.Free()
	}
	t.away = nil
}
