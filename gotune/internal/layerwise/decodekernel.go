package layerwise

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	_ "unsafe" // for go:linkname

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gomlx/go-xla/compute/xla"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/quant"
)

// EnvKernels names the environment variable that turns gotune's own CUDA kernels off:
// "off". XLA's code then does their work.
const EnvKernels = "GOTUNE_KERNELS"

// kernelChoice says whether programs call gotune's CUDA kernels.
type kernelChoice struct {
	on  bool
	why string // not
}

// Kernels says whether gotune's CUDA kernels are used: "on", "off: " and why, or "on, not
// in training: " and why.
func (b *Base) Kernels() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.dev.kernels(); !c.on {
		return "off: " + c.why
	}
	if b.trainWhy != nil {
		return "on, not in training: " + b.trainWhy.Error()
	}
	return "on"
}

// RunsOn says what attention and kernels a GPU's steps take, "" on a CPU.
func (b *Base) RunsOn() string {
	if b.dev.cpu {
		return ""
	}
	return "attention " + b.Attention() + "; kernels " + b.Kernels()
}

// kernels decides once for a device, having held the kernels against XLA's code on it.
func (d *device) kernels() kernelChoice {
	d.mu.Lock()
	c := d.kernel
	d.mu.Unlock()
	if c != nil {
		return *c
	}
	c = &kernelChoice{on: true}
	if err := d.kernelsRefused(); err != nil {
		c = &kernelChoice{why: err.Error()}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kernel = c
	return *c
}

func (d *device) kernelsRefused() error {
	if d.cpu {
		return fmt.Errorf("the device is no CUDA GPU")
	}
	if os.Getenv(EnvKernels) == "off" {
		return fmt.Errorf("%s asks for it", EnvKernels)
	}
	p, err := cuda.Find(cuda.CUDA)
	if err != nil {
		return err
	}
	if err := cuda.UseKernels(p); err != nil {
		return err
	}
	return d.proveKernels()
}

// kernelTolerance bounds the relative error of [device.proveKernels]: both sides sum
// in float32, in another order.
const kernelTolerance = 1e-4

// proveKernels runs the packed product's kernel and its plain form on the same
// random matrix.
func (d *device) proveKernels() error {
	const out, in, block = 96, 1088, 64
	rng := rand.New(rand.NewPCG(1, 1))
	codes, absmax, x := make([]uint8, out*in/2), make([]float32, out*in/block), make([]float32, in)
	for i := range codes {
		codes[i] = uint8(rng.Uint32())
	}
	for i := range absmax {
		absmax[i] = rng.Float32()
	}
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	var bufs []compute.Buffer
	defer func() { drop(bufs...) }()
	for _, u := range []struct {
		flat any
		dt   dtypes.DType
		dims []int
	}{{codes, dtypes.Uint8, []int{len(codes)}}, {absmax, dtypes.Float32, []int{len(absmax)}}, {x, dtypes.Float32, []int{1, in}}} {
		buf, err := d.upload(u.flat, u.dt, u.dims...)
		if err != nil {
			return err
		}
		bufs = append(bufs, buf)
	}
	sh, err := shapesOf(bufs)
	if err != nil {
		return err
	}
	for _, typ := range []quant.Type{quant.NF4, quant.FP4} {
		s := &groupSpec{parts: []part{{"q_proj", out}}, in: in, typ: typ, block: block}
		p, err := d.programOn(kernelBackend{d.be}, "prove kernels "+s.key(), sh, func(_ *Graph, n []*Node) []*Node {
			plain, fast := packedProduct(s, n[0], n[1], n[2]), kernelProduct(s, n[0], n[1], n[2])
			return []*Node{relativeError(fast, plain)}
		})
		if err != nil {
			return err
		}
		off, err := p.errors(bufs)
		if err != nil {
			return err
		}
		if !(off[0] <= kernelTolerance) || cuda.KernelError() != 0 { // also not a number
			return fmt.Errorf("the packed product's kernel is off by %.3g (relative) from XLA's code, want at most %g; driver error %d", off[0], kernelTolerance, cuda.KernelError())
		}
	}
	return nil
}

// kernelTakes says whether the packed product's kernel serves a group.
func (s *groupSpec) kernelTakes() bool {
	return (s.typ == quant.NF4 || s.typ == quant.FP4) && s.in%s.block == 0 && s.block >= 32 && s.in <= cuda.PackedProductMaxIn
}

// kernelProduct is x·Wᵀ for a packed matrix and x [B, in], f32 [B, out], as the call of a
// function of the kernel's name, whose body is the plain form: a graph of a [kernelBackend] has a custom call
// in its place, any other calls the function.
func kernelProduct(s *groupSpec, codes, absmax, x *Node) *Node {
	g := x.Graph()
	name := cuda.PackedProductConfig(x.Shape().Dim(0), s.out(), s.in, s.block, s.typ == quant.FP4)
	f := NewFunction(g, fmt.Sprintf("%s_node%d", name, codes.Id()), func(g *Graph) []*Node {
		codes, absmax, x := Parameter(g, "codes", codes.Shape()), Parameter(g, "absmax", absmax.Shape()), Parameter(g, "x", shapeOf(dtypes.Float32, x.Shape().Dimensions...))
		return []*Node{linearNT(x, s.byBytes(codes, absmax))}
	})
	return f.Call(codes, absmax, ConvertDType(x, dtypes.Float32))[0]
}

// byBytes is [groupSpec.dequantize] in float32 with a table of two values for each
// byte. GoMLX takes neither reductions nor scalars in more than one function of a graph.
func (s *groupSpec) byBytes(codes, absmax *Node) *Node {
	code := quant.Code(s.typ)
	var hi, lo [256]float32
	for i := range hi {
		hi[i], lo[i] = code[i>>4], code[i&15]
	}
	at := InsertAxes(ConvertDType(codes, dtypes.Int32), -1)
	v := Stack([]*Node{Gather(Const(codes.Graph(), hi[:]), at), Gather(Const(codes.Graph(), lo[:]), at)}, -1)
	return Reshape(Mul(Reshape(v, s.totalBlocks(), s.block), InsertAxes(absmax, -1)), s.out(), s.in)
}

// kernelBackend is an XLA backend in whose graphs the call of a function that has a
// kernel's name becomes a custom call. Executables and buffers are those of the
// backend itself.
type kernelBackend struct{ compute.Backend }

// Builder implements compute.Backend.
func (b kernelBackend) Builder(name string) compute.Builder {
	return &kernelBuilder{b.Backend.Builder(name)}
}

type kernelBuilder struct{ compute.Builder }

// Main implements compute.Builder.
func (b *kernelBuilder) Main() compute.Function {
	return &kernelFunction{Function: b.Builder.Main().(*xla.Function), builder: b}
}

// NewFunction implements compute.Builder.
func (b *kernelBuilder) NewFunction(name string) (compute.Function, error) {
	f, err := b.Builder.NewFunction(name)
	if err != nil {
		return nil, err
	}
	x, ok := f.(*xla.Function)
	if !ok {
		return nil, fmt.Errorf("kernels: a function of the backend is a %T, want XLA's", f)
	}
	return &kernelFunction{Function: x, builder: b, name: name}, nil
}

type kernelFunction struct {
	*xla.Function
	builder *kernelBuilder
	name    string
	outs    []shapes.Shape
}

// Builder implements compute.Function.
func (f *kernelFunction) Builder() compute.Builder { return f.builder }

// Return implements compute.Function; it notes the shapes of what is returned.
func (f *kernelFunction) Return(outputs []compute.Value, sh []*compute.ShardingSpec) error {
	for _, o := range outputs {
		s, err := f.Function.Shape(o)
		if err != nil {
			return err
		}
		f.outs = append(f.outs, s)
	}
	return f.Function.Return(outputs, sh)
}

// Call implements compute.Function.
func (f *kernelFunction) Call(callee compute.Function, in ...compute.Value) ([]compute.Value, error) {
	c, ok := callee.(*kernelFunction)
	if !ok {
		return nil, fmt.Errorf("kernels: call of a %T", callee)
	}
	if config, _, ok := strings.Cut(c.name, "_node"); ok {
		for _, target := range []string{cuda.PackedProduct, cuda.RMSNormBackward, cuda.RMSNorm, cuda.DroppedSum} {
			if strings.HasPrefix(config, target) {
				return customCall(f.Function, target, config, make([][]int, len(in)), c.outs, make([][]int, len(c.outs)), in...)
			}
		}
	}
	return f.Function.Call(c.Function, in...)
}

// customCall is the XLA backend's emitter, which it does not export.
//
//go:linkname customCall github.com/gomlx/go-xla/compute/xla.(*Function).customCall
func customCall(f *xla.Function, target, config string, operandLayouts [][]int, outputs []shapes.Shape, outputLayouts [][]int, operands ...compute.Value) ([]compute.Value, error)
