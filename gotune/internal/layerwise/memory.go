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
		switch {
		case o.Memory == MemorySave || i >= n-o.Kept:
			out[i] = keepResiduals
		case o.KeepAttention:
			out[i] = keepAttention
		}
	}
	return out
}

// kept is what the layers keep in one pass. What goes to the host, a layer's input x and
// (KeepAttention) attention's output o and x2, does so while the next layers run, and returns one layer ahead:
//
//	forward   copy x[i] to the host; free x[i-2] and o[i-2], whose copies are there; layer i; copy o[i]
//	backward  wait for x[i] and o[i]; copy x[i-1] and o[i-1] back; layer i; free them
//
// so that three of each are on the device at a time, and two backwards, where memory is
// short. The waits keep the host one or two layers ahead of the device: memory that a copy
// under way reads or writes can't be used again, and a host further ahead takes more (it
// took 15 inputs, on an H200). The last layer of those stays: it is needed next.
//
// Measured on an H200, 7B shapes, B=4, bfloat16, double quantization, tokens/s and the peak in
// GiB at S=512, 1,024 and 2,048; runs differ by 5 % with the GPU's clock:
//
//	inputs on the device                              14,394 (5.3)   14,997 (6.1)   14,855 (7.9)
//	inputs on the host                                14,323         15,075         14,902
//	the same, optimizer's states on the host, too     13,261 (4.5)   14,326 (4.9)   14,315 (5.6)
//	the same, layers by parts                         12,752 (4.4)   13,917 (4.8)   14,027 (5.4)
//	the same, attention's output and x2 on the host   13,343 (4.5)   14,460 (4.9)   14,670 (5.7)
//	layers by chunks of 2,048 tokens                  12,858 (4.4)   12,350 (4.6)   12,076 (4.8)
type kept struct {
	dev    *device
	inputs []compute.Buffer   // of each layer; nil where it is on the host or gone
	saved  [][]compute.Buffer // of each layer; nil likewise
	host   [][]hosted         // of each layer, its input's copy and those of saved; nil where they are on the device
	coming []func() error     // waits for the last copy on a layer's way back
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
	return &kept{dev: t.base.dev, inputs: []compute.Buffer{x}, saved: make([][]compute.Buffer, n), host: make([][]hosted, n), coming: make([]func() error, n),
		away: func(i int) bool { return offload && i < last && t.keep[i] != keepResiduals }}
}

// stow begins layer i's input's way to the host, if it goes there, and ends that of
// what the layer before the last one keeps.
func (k *kept) stow(i int) error {
	if k.away(i) {
		if err := k.leave(i, k.inputs[i]); err != nil {
			return err
		}
	}
	if i > 1 {
		return k.settleOne(i - 2)
	}
	return nil
}

// stowSaved begins the way to the host of what layer i saved.
func (k *kept) stowSaved(i int) error {
	if !k.away(i) {
		return nil
	}
	return k.leave(i, k.saved[i]...)
}

func (k *kept) leave(i int, bufs ...compute.Buffer) error {
	for _, b := range bufs {
		h, err := k.dev.toHost(b)
		if err != nil {
			return err
		}
		k.host[i] = append(k.host[i], h)
	}
	return nil
}

// settleOne frees on the device what layer i keeps, once it is on the host.
func (k *kept) settleOne(i int) error {
	if k.host[i] == nil || k.inputs[i] == nil {
		return nil
	}
	for _, h := range k.host[i] {
		if err := h.Wait(); err != nil {
			return failure("copy what a layer keeps to the host", err)
		}
	}
	k.release(i)
	drop(k.saved[i]...)
	k.saved[i] = nil
	return nil
}

// settle ends all ways to the host.
func (k *kept) settle() error {
	for i := range k.host {
		if err := k.settleOne(i); err != nil {
			return err
		}
	}
	return nil
}

// fetch makes sure that what layer i keeps is on the device and begins the way back
// for the layer before, down to lowest.
func (k *kept) fetch(i, lowest int) error {
	for j := i; j >= max(lowest, i-1); j-- {
		if k.host[j] != nil {
			if err := k.back(j); err != nil {
				return failure("copy what a layer keeps back from the host", err)
			}
		}
		if j == i && k.coming[j] != nil {
			if err := k.coming[j](); err != nil {
				return failure("copy what a layer keeps back from the host", err)
			}
			k.coming[j] = nil
		}
	}
	return nil
}

// back begins layer i's way back. Copies are made in order: the last says when all are there.
func (k *kept) back(i int) error {
	for n, h := range k.host[i] {
		b, there, err := h.Back()
		if err != nil {
			return err
		}
		h.Free()
		k.coming[i] = there
		if n == 0 {
			k.inputs[i] = b
		} else {
			k.saved[i] = append(k.saved[i], b)
		}
	}
	k.host[i] = nil
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
	for _, hs := range k.host {
		for _, h := range hs {
			h.Free()
		}
	}
	for _, there := range k.coming {
		if there != nil {
			_ = there() // an error ended the pass already
		}
	}
}
