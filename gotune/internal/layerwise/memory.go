package layerwise

import (
	"github.com/gomlx/compute"
)

// Memory policies of a [Trainer]: what a layer keeps from its forward pass for its
// backward pass.
const (
	MemoryAuto      = "auto"      // MemorySave
	MemorySave      = "save"      // its residuals
	MemoryRecompute = "recompute" // its input: the layer runs twice
	MemoryOffload   = "offload"   // its input in the host's memory: the layer runs twice
)

// keeps is what each of n layers keeps on the device from forward to backward. The
// last layers come first in the backward pass: their residuals are gone the soonest.
func (o *TrainOptions) keeps(n int) []keep {
	out := make([]keep, n)
	for i := range out {
		if o.Memory == MemorySave || i >= n-o.Kept {
			out[i] = keepResiduals
		}
	}
	return out
}

// kept is what the layers keep in one pass. Inputs that go to the host do so while
// the next layers run and return one layer ahead:
//
//	forward   copy x[i] to the host; wait for the copy of x[i-1] and free it; layer i
//	backward  wait for x[i]; copy x[i-1] back; layer i; free x[i]
//
// so that two inputs are on the device at a time. The waits keep the host one layer
// ahead of the device: memory that a copy under way reads or writes can't be used
// again, and a host further ahead takes more (it took 15 inputs, on an H200). The last
// of these inputs stays: it is needed next.
type kept struct {
	dev    *device
	inputs []compute.Buffer // of each layer; nil where it is on the host or gone
	saved  [][]compute.Buffer
	host   []hosted       // of each layer, nil where its input is on the device
	coming []func() error // waits for an input on its way back
	away   func(i int) bool
}

// hosted is a device tensor's copy in the host's memory; backend.HostCopy, or one
// that is only planned.
type hosted interface {
	Wait() error
	Back() (b compute.Buffer, there func() error, err error)
	Free()
}

// newKept begins with the first layer's input.
func (t *Trainer) newKept(x compute.Buffer) *kept {
	n := len(t.base.layers)
	last := n - 1 // the last layer that is computed again
	for last >= 0 && t.keep[last] == keepResiduals {
		last--
	}
	offload := t.opt.Memory == MemoryOffload
	return &kept{dev: t.base.dev, inputs: []compute.Buffer{x}, saved: make([][]compute.Buffer, n), host: make([]hosted, n), coming: make([]func() error, n),
		away: func(i int) bool { return offload && i < last && t.keep[i] == keepNothing }}
}

// stow begins layer i's input's way to the host, if it goes there, and ends that of
// the layer before.
func (k *kept) stow(i int) (err error) {
	if k.away(i) {
		if k.host[i], err = k.dev.toHost(k.inputs[i]); err != nil {
			return err
		}
	}
	if i == 0 || k.host[i-1] == nil {
		return nil
	}
	if err := k.host[i-1].Wait(); err != nil {
		return failure("copy a layer's input to the host", err)
	}
	k.release(i - 1)
	return nil
}

// fetch makes sure that layer i's input is on the device and begins the way back of
// the layer before, down to lowest.
func (k *kept) fetch(i, lowest int) error {
	for j := i; j >= max(lowest, i-1); j-- {
		if k.host[j] != nil {
			x, there, err := k.host[j].Back()
			if err != nil {
				return failure("copy a layer's input back from the host", err)
			}
			k.host[j].Free()
			k.inputs[j], k.host[j], k.coming[j] = x, nil, there
		}
		if j == i && k.coming[j] != nil {
			if err := k.coming[j](); err != nil {
				return failure("copy a layer's input back from the host", err)
			}
			k.coming[j] = nil
		}
	}
	return nil
}

// release frees layer i's input on the device.
func (k *kept) release(i int) {
	drop(k.inputs[i])
	k.inputs[i] = nil
}

func (k *kept) free() {
	drop(k.inputs...)
	for _, s := range k.saved {
		drop(s...)
	}
	for _, h := range k.host {
		if h != nil {
			h.Free()
		}
	}
}
