package layerwise

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/backend"
)

// device is a backend with its compiled programs. All calls into the backend go
// through this file: how calls are issued is decided here alone. Programs outlive
// the models they were compiled for: a model that is loaded again, or another
// adapter of the same shape, finds them.
type device struct {
	be  compute.Backend
	num compute.DeviceNum
	cpu bool // the device's memory is the host's

	mu       sync.Mutex
	programs map[string]*program
	numbers  map[int32]compute.Buffer
	kernel   *kernelChoice // nil until it is asked for
	plan     *plan         // nil on a device where calls run
	limit    int64         // its memory where it has no account of it; 0 for no bound
}

var (
	devicesMu sync.Mutex
	devices   = map[compute.Backend]*device{}
)

// deviceOf returns the one device of a backend.
func deviceOf(be compute.Backend) *device {
	devicesMu.Lock()
	defer devicesMu.Unlock()
	if d := devices[be]; d != nil {
		return d
	}
	d := &device{be: be, programs: map[string]*program{}, numbers: map[int32]compute.Buffer{}}
	devices[be] = d
	what := strings.ToLower(be.String() + " " + be.Description())
	d.cpu = !strings.Contains(what, "cuda") && !strings.Contains(what, "gpu") && !strings.Contains(what, "rocm")
	return d
}

// program is one compiled executable.
type program struct {
	name    string
	dev     *device
	exec    compute.Executable
	outs    int
	outputs []shapes.Shape
	known   *cuda.Program // what XLA says of it; nil on another backend
}

// program returns the executable compiled for key, building it on first use.
// build gets one parameter node for each of inputs. The key must name everything
// that build depends on; the inputs' shapes are added to it.
func (d *device) program(key string, inputs []shapes.Shape, build func(g *Graph, in []*Node) []*Node) (p *program, err error) {
	return d.programOn(d.be, key, inputs, build)
}

// programOn is program with the graph built on be, which compiles for d.
func (d *device) programOn(be compute.Backend, key string, inputs []shapes.Shape, build func(g *Graph, in []*Node) []*Node) (p *program, err error) {
	return d.compiled(be, key, inputs, nil, build)
}

// compiled is programOn for a program that is mostly run with the inputs of donate
// donated: results of their types take their memory.
func (d *device) compiled(be compute.Backend, key string, inputs []shapes.Shape, donate []int, build func(g *Graph, in []*Node) []*Node) (p *program, err error) {
	if d.plan != nil {
		return d.plan.compile(be, key, inputs, donate, build)
	}
	full := fullKey(key, inputs)
	d.mu.Lock()
	defer d.mu.Unlock()
	if p = d.programs[full]; p != nil {
		return p, nil
	}
	name := shortName(key)
	defer guard(&err, "compile "+name)
	g := NewGraph(be, name)
	nodes := make([]*Node, len(inputs))
	for i, s := range inputs {
		nodes[i] = Parameter(g, fmt.Sprintf("p%d", i), s)
	}
	out := build(g, nodes)
	known, err := cuda.Compiling(donate, func() error { return g.Compile(out...) })
	if err != nil {
		return nil, failure("compile "+name, err)
	}
	p = &program{name: name, dev: d, exec: g.Executable(), outs: len(out), outputs: outputShapes(out), known: known}
	d.programs[full] = p
	return p, nil
}

func outputShapes(nodes []*Node) (out []shapes.Shape) {
	for _, n := range nodes {
		out = append(out, n.Shape())
	}
	return out
}

// fullKey adds the inputs' shapes to a key. It is made at every call.
func fullKey(key string, inputs []shapes.Shape) string {
	b := append(make([]byte, 0, len(key)+16*len(inputs)), key...)
	for _, s := range inputs {
		b = strconv.AppendInt(append(b, '|'), int64(s.DType), 10)
		for _, d := range s.Dimensions {
			b = strconv.AppendInt(append(b, ' '), int64(d), 10)
		}
	}
	return string(b)
}

// run executes p. Inputs listed in donate (by index) are consumed: the caller
// must not use or finalize them afterwards.
func (p *program) run(in []compute.Buffer, donate ...int) (out []compute.Buffer, err error) {
	defer guard(&err, "run "+p.name)
	flags := make([]bool, len(in))
	for _, i := range donate {
		flags[i] = true
	}
	out, err = p.exec.Execute(in, flags, p.dev.num)
	if err != nil {
		return nil, failure("run "+p.name, err)
	}
	return out, nil
}

// upload copies a flat slice to the device.
func (d *device) upload(flat any, dt dtypes.DType, dims ...int) (buf compute.Buffer, err error) {
	if d.plan != nil {
		return d.plan.upload(shapes.Make(dt, dims...)), nil
	}
	doing := fmt.Sprintf("upload %s%v", dt, dims)
	defer guard(&err, doing)
	if buf, err = d.be.BufferFromFlatData(d.num, flat, shapes.Make(dt, dims...)); err != nil {
		return nil, failure(doing, err)
	}
	return buf, nil
}

// toHost begins a copy of a tensor to the host's memory.
func (d *device) toHost(buf compute.Buffer) (h hosted, err error) {
	if d.plan != nil {
		return d.plan.toHost(buf)
	}
	const doing = "copy to the host"
	defer guard(&err, doing)
	if h, err = backend.ToHost(buf); err != nil {
		return nil, failure(doing, err)
	}
	return h, nil
}

// number returns v on the device, int32 [1], made once and kept: an upload waits
// for all that was queued before it. It must not be freed or donated.
func (d *device) number(v int32) (buf compute.Buffer, err error) {
	if d.plan != nil {
		return d.plan.number(v), nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if buf = d.numbers[v]; buf == nil {
		if buf, err = d.upload([]int32{v}, dtypes.Int32, 1); err == nil {
			d.numbers[v] = buf
		}
	}
	return buf, err
}

// download copies a buffer of n elements to the host.
func download[E any](buf compute.Buffer, n int) (flat []E, err error) {
	flat = make([]E, n)
	return flat, downloadTo(buf, flat)
}

// downloadTo copies a buffer to flat. Errors of calls queued before show here.
func downloadTo[E any](buf compute.Buffer, flat []E) (err error) {
	const doing = "read a result"
	defer guard(&err, doing)
	if err = buf.ToFlatData(flat); err != nil {
		return failure(doing, err)
	}
	return nil
}

// shapesOf returns the shapes of buffers.
func shapesOf(bufs []compute.Buffer) (out []shapes.Shape, err error) {
	out = make([]shapes.Shape, len(bufs))
	for i, b := range bufs {
		if out[i], err = b.Shape(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// drop finalizes buffers; nil ones are passed over. An error here could only
// mean that the backend is gone, and with it the memory.
func drop(bufs ...compute.Buffer) {
	for _, b := range bufs {
		if b != nil {
			_ = b.Finalize()
		}
	}
}

// guard turns a panic of graph building or of the backend into an error.
func guard(err *error, doing string) {
	if r := recover(); r != nil {
		if e, ok := r.(error); ok {
			*err = failure(doing, e)
			return
		}
		*err = fmt.Errorf("layerwise: %s: %v", doing, r)
	}
}
