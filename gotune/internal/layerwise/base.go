package layerwise

import (
	"fmt"
	"hash/fnv"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/model"
)

// Base is a frozen base model on a device. It serves training, evaluation and
// generation at the same time of day but not at the same instant: its methods, and
// those of what is made from it, take turns.
type Base struct {
	mu       sync.Mutex // one call into the device at a time
	dev      *device
	cfg      *model.Config
	opt      LoadOptions
	dt       dtypes.DType // compute dtype
	residual dtypes.DType // dtype of the residual stream
	prefix   string       // fingerprint, part of every program's key

	embed, head compute.Buffer // [V, D], compute dtype; the same buffer when tied
	norm        compute.Buffer // f32 [D]
	layers      []*layerWeights
	table       []TensorInfo
	bytes       int64            // device bytes of the weights as loaded
	extra       int64            // device bytes of resident unpacked weights
	unpackers   int              // trainers that asked for them
	eightBytes  int64            // device bytes of the weights in 8-bit floats
	turnedBytes int64            // and of their transposes
	eightUsers  int              // trainers that asked for the former
	turners     int              // and for the latter
	headBytes   int              // bound of one chunk of the loss
	choice      *attentionChoice // nil until the first batch
	train       *trainKernels    // nil for none
	trainWhy    error            // why there are none, of those the device could have
	trainChosen bool             // by the first trainer
	freed       bool
}

// Config is the model's architecture.
func (b *Base) Config() *model.Config { return b.cfg }

// Tensors lists what was loaded, in the model's order.
func (b *Base) Tensors() []TensorInfo { return b.table }

// Bytes is the device memory that the weights hold now, unpacked copies included.
func (b *Base) Bytes() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes + b.extra + b.eightBytes + b.turnedBytes
}

// Resident reports the bytes of unpacked 4-bit layers kept on the device, 0 when
// layers are unpacked inside each call.
func (b *Base) Resident() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.extra
}

// Free releases the device memory. Executables stay, for the next model of the same
// shape. Everything made from b is
// unusable afterwards. Freeing twice does nothing.
func (b *Base) Free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.freed {
		return
	}
	b.freed = true
	for _, l := range b.layers {
		l.free()
	}
	drop(b.norm, b.embed)
	if b.head != b.embed {
		drop(b.head)
	}
	b.bytes, b.extra, b.eightBytes, b.turnedBytes = 0, 0, 0, 0
}

// fingerprintEnd ends a fingerprint.
const fingerprintEnd = " | "

// fingerprint names everything of the model, beside the shapes of its tensors,
// that programs have built in.
func (b *Base) fingerprint() string {
	c, h := b.cfg, fnv.New64a()
	fmt.Fprint(h, c.InvFreq())
	return fmt.Sprintf("%s/%s H%d K%d d%d window%d eps%v rope%x"+fingerprintEnd, b.dt, b.residual, c.NumHeads, c.NumKVHeads, c.HeadDim, c.SlidingWindow, c.RMSNormEps, h.Sum64())
}

// usable returns an error after Free.
func (b *Base) usable(doing string) error {
	if b.freed {
		return fmt.Errorf("layerwise: %s: the model was freed; load it again", doing)
	}
	return nil
}

// residentBytes is what unpacking every 4-bit matrix would take.
func (b *Base) residentBytes() (n int64) {
	for _, l := range b.layers {
		for _, g := range l.groups {
			if g.typ != "" {
				n += int64(g.out()) * int64(g.in) * int64(b.dt.Size())
			}
		}
	}
	return n
}

// unpackAll keeps every 4-bit matrix unpacked in the compute dtype beside its
// codes. The values are those that each call would unpack, bit for bit.
func (b *Base) unpackAll() error {
	for _, l := range b.layers {
		var bufs []compute.Buffer
		var specs []groupSpec
		for _, g := range l.groups {
			if g.typ == "" {
				bufs, specs = append(bufs, g.bufs...), append(specs, g.groupSpec)
				continue
			}
			n := len(g.bufs)
			if g.bias {
				n--
			}
			spec := g.groupSpec
			spec.bias = false
			p, err := b.dev.program("unpack "+spec.key()+b.dt.String(), spec.shapes(), func(_ *Graph, in []*Node) []*Node {
				m, _ := spec.read(in, b.dt)
				return []*Node{m.w}
			})
			if err != nil {
				return err
			}
			out, err := p.run(g.bufs[:n])
			if err != nil {
				return err
			}
			plain := groupSpec{parts: g.parts, in: g.in, dtype: b.dt, bias: g.bias}
			bufs, specs = append(append(bufs, out...), g.bufs[n:]...), append(specs, plain)
			l.owned = append(l.owned, out...)
		}
		l.resident, l.residentSpecs, l.known = bufs, specs, nil
	}
	b.extra = b.residentBytes()
	return nil
}
