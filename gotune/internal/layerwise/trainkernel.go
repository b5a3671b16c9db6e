package layerwise

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/cuda"
)

// trainKernels are the CUDA kernels of a training step that a model's programs call in
// place of XLA's code: a norm with its dropped copies, a norm's gradient, the gradient
// through dropped inputs. nil is none. What they compute is [rmsNorm],
// [dropoutRNG.apply] and [rmsNormBackward] with fewer roundings. What they gain is in the
// package's doc and in the kernels' sources.
type trainKernels struct {
	dt   dtypes.DType
	sums bool // the gradient through dropped inputs: compute capability 8.0
}

// trainKernelTolerance is the largest relative error of [Base.proveTrainKernels]: some
// roundings of bfloat16 (2⁻⁹ each).
const trainKernelTolerance = 1e-2

// training decides once whether kernels are to be used, having held them against XLA's
// code on the device. Errors turn them off: [Base.Kernels] has them.
func (b *Base) training() *trainKernels {
	if b.trainChosen {
		return b.train
	}
	b.trainChosen = true
	k := &trainKernels{dt: b.dt}
	d := b.cfg.HiddenSize
	switch {
	case !b.dev.kernels().on:
	case b.dt != dtypes.BFloat16 && b.dt != dtypes.Float16:
		b.trainWhy = fmt.Errorf("training's take bfloat16 and float16, not %s", b.dt)
	case d > cuda.RMSNormMaxD || d%cuda.RMSNormMultiple != 0:
		b.trainWhy = fmt.Errorf("training's take a hidden size of a multiple of %d up to %d, not %d", cuda.RMSNormMultiple, cuda.RMSNormMaxD, d)
	default:
		devices, err := cuda.Devices()
		k.sums = err == nil && len(devices) > 0 && devices[0].Major >= 8
		if b.trainWhy = b.proveTrainKernels(k); b.trainWhy == nil {
			b.train = k
		}
	}
	return b.train
}

// call makes a custom call as that of a function of its configuration's name, which a
// [kernelBackend] turns into the kernel's. The function's body only says what the results
// are: no other backend gets such a graph.
func (k *trainKernels) call(config string, out []shapes.Shape, in ...*Node) []*Node {
	f := NewFunction(in[0].Graph(), fmt.Sprintf("%s_node%d", config, in[0].Graph().LastNode().Id()), func(g *Graph) (results []*Node) {
		for i, x := range in {
			Parameter(g, fmt.Sprintf("p%d", i), x.Shape())
		}
		for _, s := range out {
			results = append(results, Iota(g, s, 0))
		}
		return results
	})
	return f.Call(in...)
}

// norm is rmsNorm of x [T, D] and its copy dropped for each of projs, nil without rng. h is
// nil unless it is wanted.
func (k *trainKernels) norm(x, w *Node, eps float64, h bool, rng *dropoutRNG, projs []string) (y *Node, dropped []*Node) {
	m, masks := rng.masks(projs)
	s := shapes.Make(k.dt, x.Shape().Dimensions...)
	n := len(projs)
	if h {
		n++
	}
	out := k.call(cuda.RMSNormConfig(s.Dim(0), s.Dim(1), k.dt == dtypes.Float16, float32(eps), h, m), slices.Repeat([]shapes.Shape{s}, n), append([]*Node{x, w}, masks...)...)
	if h {
		y, out = out[0], out[1:]
	}
	return y, out
}

// normBackward is dres + rmsNormBackward, in dres's dtype.
func (k *trainKernels) normBackward(x, w, dh, dres *Node, eps float64) *Node {
	s := dres.Shape()
	return k.call(cuda.RMSNormBackwardConfig(s.Dim(0), s.Dim(1), k.dt == dtypes.Float16, float32(eps)), []shapes.Shape{s}, x, w, dh, dres)[0]
}

// takesSum says whether droppedSum serves modules with the input size d.
func (k *trainKernels) takesSum(modules []*loraModule) bool {
	if k == nil || !k.sums || len(modules) == 0 || len(modules) > cuda.MaxLanes || len(modules)*modules[0].rank > cuda.DroppedSumMaxR {
		return false
	}
	for _, m := range modules {
		if m.dora || m.rank != modules[0].rank || m.rank%cuda.DroppedSumR != 0 || m.in%cuda.DroppedSumD != 0 {
			return false
		}
	}
	return true
}

// droppedSum is Σ mask∘(g·A)/(1−p) for the modules' g [T, R]: [T, D].
func (k *trainKernels) droppedSum(g []*Node, modules []*loraModule, rng *dropoutRNG) *Node {
	var projs []string
	in := slices.Clone(g)
	for _, m := range modules {
		projs = append(projs, m.proj)
		in = append(in, m.a)
	}
	m, masks := rng.masks(projs)
	s := shapes.Make(k.dt, g[0].Shape().Dim(0), modules[0].in)
	return k.call(cuda.DroppedSumConfig(s.Dim(0), s.Dim(1), modules[0].rank, k.dt == dtypes.Float16, len(modules), m), []shapes.Shape{s}, append(in, masks...)...)[0]
}

// masks are a kernel's masks for projections, and the operands that they are made from.
func (r *dropoutRNG) masks(projs []string) (m cuda.Masks, in []*Node) {
	m.Scale = 1
	if r == nil || r.p == 0 || len(projs) == 0 {
		return m, nil
	}
	for _, p := range projs {
		l := maskLanes[projIndex(p)]
		m.Lanes = append(m.Lanes, int(2*l.word+l.shift/16))
	}
	m.Threshold, m.Scale, m.From = r.threshold(), float32(1/(1-r.p)), r.from != nil
	in = []*Node{r.keys, r.where}
	if m.From {
		in = append(in, Reshape(r.from, 1))
	}
	return m, in
}

// proofRows are more rows than a large GPU takes side by side, proofRank is a usual R.
const proofRows, proofRank = 640, 64

// proveTrainKernels runs the kernels and XLA's code on the same random values of this
// model's size.
func (b *Base) proveTrainKernels(k *trainKernels) error {
	in, err := b.proofInputs()
	defer func() { drop(in...) }()
	if err != nil {
		return err
	}
	sh, err := shapesOf(in)
	if err != nil {
		return err
	}
	key := fmt.Sprintf("%sprove training's kernels, sums %t", b.prefix, k.sums)
	p, err := b.dev.programOn(kernelBackend{b.dev.be}, key, sh, func(_ *Graph, n []*Node) []*Node {
		var off []*Node
		for _, c := range b.proofs(k, n) {
			off = append(off, relativeError(c.fast, c.plain))
		}
		return []*Node{Stack(off, 0)}
	})
	if err != nil {
		return err
	}
	off, err := p.errors(in)
	if err != nil {
		return err
	}
	what := []string{"a norm", "its copy for q", "its copy for k", "its copy for v", "a norm's gradient", "the gradient through dropped inputs"}
	for i, e := range off {
		if !(e <= trainKernelTolerance) || cuda.KernelError() != 0 { // also not a number
			return fmt.Errorf("kernels of training: %s is off by %.3g (relative) from XLA's code, want at most %g; driver error %d", what[i], e, trainKernelTolerance, cuda.KernelError())
		}
	}
	return nil
}

// proofInputs are x, w, dh, dres, g of two adapters, A of both, f32, and keys, where and
// from of masks, int32.
func (b *Base) proofInputs() (in []compute.Buffer, err error) {
	d := b.cfg.HiddenSize
	rng := rand.New(rand.NewPCG(1, 1))
	normal := make([]float32, 1<<16)
	for i := range normal {
		normal[i] = float32(rng.NormFloat64())
	}
	for k, n := range [][2]int{{proofRows, d}, {1, d}, {proofRows, d}, {proofRows, d}, {proofRows, proofRank}, {proofRows, proofRank}, {proofRank, d}, {proofRank, d}} {
		flat := make([]float32, n[0]*n[1])
		for i := range flat {
			flat[i] = normal[(i*2654435761>>8+k*7919)%len(normal)]
		}
		buf, err := b.dev.upload(flat, dtypes.Float32, n[0], n[1])
		if err != nil {
			return in, err
		}
		in = append(in, buf)
	}
	for _, words := range [][]int32{{rng.Int32(), rng.Int32()}, {7, 0}, {64}} {
		buf, err := b.dev.upload(words, dtypes.Int32, len(words))
		if err != nil {
			return in, err
		}
		in = append(in, buf)
	}
	return in, nil
}

// comparison is a kernel's result and XLA's.
type comparison struct{ fast, plain *Node }

// proofs are what the kernels and XLA make of proofInputs: a norm, its copies for q, k and
// v, the norm's gradient and, where there is a kernel, that through dropped inputs.
func (b *Base) proofs(k *trainKernels, n []*Node) (out []comparison) {
	d, eps := b.cfg.HiddenSize, b.cfg.RMSNormEps
	cast := func(x *Node) *Node { return ConvertDType(x, b.dt) }
	x, w, dh, dres := ConvertDType(n[0], b.residual), Reshape(n[1], d), cast(n[2]), ConvertDType(n[3], b.residual)
	r := dropoutOf(0.1, n[8], n[9])
	r.from = Bitcast(Reshape(n[10]), dtypes.Uint32)
	projs := []string{"q_proj", "k_proj", "v_proj"}
	h := rmsNorm(x, w, eps, b.dt)
	got, dropped := k.norm(x, w, eps, true, r, projs)
	out = append(out, comparison{got, h})
	for i, p := range projs {
		out = append(out, comparison{dropped[i], r.apply(h, projIndex(p))})
	}
	out = append(out, comparison{k.normBackward(x, w, dh, dres, eps), Add(ConvertDType(dres, dtypes.Float32), rmsNormBackward(x, w, dh, eps))})
	module := func(proj string, a *Node) *loraModule {
		return &loraModule{loraSpec: &loraSpec{proj: proj, in: d, rank: proofRank}, a: cast(a)}
	}
	g, modules := []*Node{cast(n[4]), cast(n[5])}, []*loraModule{module("q_proj", n[6]), module("v_proj", n[7])}
	if k.takesSum(modules) {
		q, v := r.apply(linearNN(g[0], modules[0].a), projIndex("q_proj")), r.apply(linearNN(g[1], modules[1].a), projIndex("v_proj"))
		out = append(out, comparison{k.droppedSum(g, modules, r), Add(q, v)})
	}
	return out
}
