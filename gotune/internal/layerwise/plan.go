package layerwise

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// plan is the memory of a device while calls are only planned: a step runs on a
// planned [Base] from its first upload to its last result, every program of it is
// compiled, and none runs. Tensors are sizes. So what a step takes is what its own code
// does, not a second account of it.
type plan struct {
	real     *device
	each     func(program string) // called before a program is compiled; may be nil
	numbers  map[int32]*plannedTensor
	start    int64 // in use before
	live     int64 // in use at this point, start included
	host     int64 // in pinned host memory at this point
	peakHost int64
	compiled int // programs that were not there before
	calls    int

	// What came from the host and was freed is free on the device only when the calls
	// that read it are done: late[0] is of the layer that may still run, late[1] of the one before.
	late [2]int64

	block   int64 // the largest tensor or scratch
	peak    int64 // the largest use so far
	at      string
	working int64 // of peak, what the program that ran took beside what was live
}

// deviceBlock is what XLA's allocator rounds a tensor up to.
const deviceBlock = 256

func bytesOf(s shapes.Shape) int64 {
	n := int64(s.Size()) * int64(s.DType.Size())
	return (n + deviceBlock - 1) / deviceBlock * deviceBlock
}

// plannedTensor is a tensor that has a size alone.
type plannedTensor struct {
	plan  *plan
	shape shapes.Shape
	freed bool
	late  bool // it came from the host
}

var _ compute.Buffer = (*plannedTensor)(nil)

// Backend implements compute.Buffer.
func (t *plannedTensor) Backend() compute.Backend { return t.plan.real.be }

// Finalize implements compute.Buffer.
func (t *plannedTensor) Finalize() error {
	t.free()
	return nil
}

func (t *plannedTensor) free() {
	switch {
	case t.freed:
	case t.late:
		t.plan.late[0] += bytesOf(t.shape)
	default:
		t.plan.live -= bytesOf(t.shape)
	}
	t.freed = true
}

// Shape implements compute.Buffer.
func (t *plannedTensor) Shape() (shapes.Shape, error) { return t.shape, nil }

// DeviceNum implements compute.Buffer.
func (t *plannedTensor) DeviceNum() (compute.DeviceNum, error) { return t.plan.real.num, nil }

// ToFlatData implements compute.Buffer: it leaves flat as it is, and all calls are done.
func (t *plannedTensor) ToFlatData(any) error {
	t.plan.done()
	t.plan.done()
	return nil
}

// Data implements compute.Buffer.
func (t *plannedTensor) Data() (any, error) {
	return nil, fmt.Errorf("layerwise: a planned tensor has no values")
}

// CopyToDevice implements compute.Buffer.
func (t *plannedTensor) CopyToDevice(compute.DeviceNum) (compute.Buffer, error) {
	return nil, fmt.Errorf("layerwise: a planned tensor has no values")
}

// done is a wait that leaves the calls of one layer under way at most.
func (p *plan) done() {
	p.live -= p.late[1]
	p.late[0], p.late[1] = 0, p.late[0]
}

// make adds a tensor.
func (p *plan) make(s shapes.Shape) *plannedTensor {
	p.block = max(p.block, bytesOf(s))
	p.live += bytesOf(s)
	return &plannedTensor{plan: p, shape: s}
}

// upload is a tensor that comes from the host.
func (p *plan) upload(s shapes.Shape) compute.Buffer {
	t := p.make(s)
	p.note("upload", 0)
	return t
}

// number stands for device.number.
func (p *plan) number(v int32) compute.Buffer {
	if p.numbers[v] == nil {
		p.numbers[v] = p.make(shapes.Make(dtypes.Int32, 1))
	}
	return p.numbers[v]
}

// note compares the use at this point, and working beside it, with the peak.
func (p *plan) note(program string, working int64) {
	if p.live+working > p.peak {
		p.peak, p.at, p.working = p.live+working, program, working
	}
}

// compile compiles a program for the device itself.
func (p *plan) compile(be compute.Backend, key string, inputs []shapes.Shape, donate []int, build func(g *Graph, in []*Node) []*Node) (*program, error) {
	p.real.mu.Lock()
	known := p.real.programs[fullKey(key, inputs)]
	p.real.mu.Unlock()
	if known != nil {
		return known, nil
	}
	p.compiled++
	if p.each != nil {
		p.each(shortName(key))
	}
	return p.real.compiled(be, key, inputs, donate, build)
}

// run notes what a call takes: its results, but for those in the place of donated
// inputs, and its scratch.
func (p *plan) run(prog *program, in []compute.Buffer, donate []int) ([]compute.Buffer, error) {
	p.calls++
	results, freed, reused, scratch := int64(0), int64(0), int64(0), int64(0)
	for _, s := range prog.outputs {
		results += bytesOf(s)
	}
	for _, i := range donate {
		s, err := in[i].Shape()
		if err != nil {
			return nil, err
		}
		freed += bytesOf(s)
		if prog.known != nil && slices.Contains(prog.known.Donated, i) {
			reused += bytesOf(s)
		}
		if t, ok := in[i].(*plannedTensor); ok {
			if t.freed {
				return nil, fmt.Errorf("layerwise: plan of %s: input %d was freed before", prog.name, i)
			}
			if t.late {
				freed -= bytesOf(s)
				p.late[0] += bytesOf(s)
			}
			t.freed = true
		}
	}
	if prog.known != nil {
		scratch = prog.known.Memory.Temporary
	}
	p.block = max(p.block, scratch)
	p.note(prog.name, results-reused+scratch)
	p.live -= freed
	out := make([]compute.Buffer, len(prog.outputs))
	for i, s := range prog.outputs {
		out[i] = p.make(s)
	}
	return out, nil
}

// toHost is a copy in pinned host memory.
func (p *plan) toHost(buf compute.Buffer) (hosted, error) {
	s, err := buf.Shape()
	if err != nil {
		return nil, err
	}
	p.host += bytesOf(s)
	p.peakHost = max(p.peakHost, p.host)
	return &plannedCopy{p, s}, nil
}

type plannedCopy struct {
	plan  *plan
	shape shapes.Shape
}

// Wait implements hosted.
func (*plannedCopy) Wait() error { return nil }

// Back implements hosted.
func (c *plannedCopy) Back() (compute.Buffer, func() error, error) {
	t := c.plan.make(c.shape)
	t.late = true
	c.plan.note("copy from the host", 0)
	return t, func() error { c.plan.done(); return nil }, nil
}

// Free implements hosted.
func (c *plannedCopy) Free() { c.plan.host -= bytesOf(c.shape) }

// planned is the model on a device where calls are planned. b.mu is held.
func (b *Base) planned(p *plan) *Base {
	return &Base{dev: &device{be: b.dev.be, num: b.dev.num, cpu: b.dev.cpu, plan: p},
		cfg: b.cfg, opt: b.opt, dt: b.dt, residual: b.residual, prefix: b.prefix,
		embed: b.embed, head: b.head, norm: b.norm, layers: b.layers,
		bytes: b.bytes, extra: b.extra, eightBytes: b.eightBytes, turnedBytes: b.turnedBytes, headBytes: b.headBytes, choice: b.attention(), train: b.train, trainChosen: b.trainChosen}
}

// planned is the trainer on a planned model, for options o.
func (t *Trainer) planned(p *plan, o TrainOptions) *Trainer {
	b := t.base.planned(p)
	d := &Trainer{base: b, opt: o, adam: t.adam, config: t.config, keep: o.keeps(len(b.layers)),
		ad:    &DeviceAdapter{base: b, layout: t.ad.layout, flat: t.ad.flat, where: t.ad.where},
		zeros: t.zeros, scale: t.scale, eightKept: t.eightKept}
	states := shapes.Make(dtypes.Float32, t.ad.layout.size)
	if t.first != nil { // counted as in use already
		d.first, d.second = &plannedTensor{plan: p, shape: states}, &plannedTensor{plan: p, shape: states}
		return d
	}
	for range t.away {
		p.host += bytesOf(states)
		d.away = append(d.away, &plannedCopy{p, states})
	}
	return d
}
