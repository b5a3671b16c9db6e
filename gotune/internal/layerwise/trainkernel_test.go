package layerwise

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/dtypes/bfloat16"
	"github.com/gomlx/compute/dtypes/float16"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/stablehlo"

	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// hostKernels is a program that runs the kernels' source on the processor, a thread for
// each of a GPU's.
var hostKernels = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gotune-kernels-*") // of the whole test run
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "host")
	out, err := exec.Command("cc", "-O1", "-Wno-unknown-pragmas", "-pthread", filepath.Join("..", "..", "..", "cuda", "kernel", "testdata", "host.c"), "-o", program, "-lm", "-ldl").CombinedOutput()
	if err != nil {
		return string(out), err
	}
	return program, nil
})

// onHost runs a kernel's custom call and returns its results.
func onHost(t *testing.T, config string, in [][]byte, out ...int) (results [][]byte) {
	t.Helper()
	program, err := hostKernels()
	if err != nil {
		t.Fatalf("compile cuda/kernel/testdata/host.c: %v\n%s", err, program)
	}
	target, _, _ := strings.Cut(config, strings.TrimLeft(config, "_abcdefghijklmnopqrstuvwxyz"))
	args := []string{strings.TrimRight(target, "_"), config, strconv.Itoa(len(in))}
	for _, b := range in {
		args = append(args, strconv.Itoa(len(b)))
	}
	for _, n := range out {
		args = append(args, strconv.Itoa(n))
	}
	cmd := exec.Command(program, args...)
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(bytes.Join(in, nil)), &errs
	all, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v %s", args, err, errs.String())
	}
	for _, n := range out {
		results, all = append(results, all[:n]), all[n:]
	}
	return results
}

// emittedCall is the configuration of the one custom call of a graph.
func emittedCall(t *testing.T, inputs []shapes.Shape, build func(n []*Node) []*Node) (config string) {
	t.Helper()
	calls := emittedCalls(t, inputs, build)
	if len(calls) != 1 {
		t.Fatalf("custom calls %q, want one", calls)
	}
	return calls[0]
}

// emittedCalls are the configurations of the custom calls in the text of a graph that
// build makes on a kernelBackend.
func emittedCalls(t *testing.T, inputs []shapes.Shape, build func(n []*Node) []*Node) (configs []string) {
	t.Helper()
	g := NewGraph(kernelBackend{openCPU(t)}, "kernels")
	var in []*Node
	for i, s := range inputs {
		in = append(in, Parameter(g, "p"+strconv.Itoa(i), s))
	}
	var out []compute.Value
	for _, n := range build(in) {
		out = append(out, InternalBackendOutputs(n)...)
	}
	// The text is the builder's own: the XLA backend shows it to nobody.
	field := func(of any, name string) any {
		f := reflect.ValueOf(of).Elem().FieldByName(name)
		return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Interface()
	}
	builder := field(g, "builder").(*kernelBuilder)
	if err := builder.Main().Return(out, nil); err != nil {
		t.Fatal(err)
	}
	text, err := field(builder.Builder.(*xla.Builder), "builder").(*stablehlo.Builder).Build()
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range strings.Split(string(text), `backend_config = "`)[1:] {
		config, _, _ := strings.Cut(call, `"`)
		configs = append(configs, config)
	}
	return configs
}

// rounded are values of a 16-bit dtype as a device has them, and in float32.
func rounded(dt dtypes.DType, v []float32) (bytes []byte, wide []float32) {
	for _, x := range v {
		var u uint16
		if dt == dtypes.BFloat16 {
			u = uint16(bfloat16.FromFloat32(x))
			wide = append(wide, bfloat16.BFloat16(u).Float32())
		} else {
			u = uint16(float16.FromFloat32(x))
			wide = append(wide, float16.Float16(u).Float32())
		}
		bytes = binary.LittleEndian.AppendUint16(bytes, u)
	}
	return bytes, wide
}

func widened(dt dtypes.DType, b []byte) (v []float32) {
	if dt == dtypes.Float32 {
		for i := 0; i < len(b); i += 4 {
			v = append(v, math.Float32frombits(binary.LittleEndian.Uint32(b[i:])))
		}
		return v
	}
	for i := 0; i < len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if dt == dtypes.BFloat16 {
			v = append(v, bfloat16.BFloat16(u).Float32())
		} else {
			v = append(v, float16.Float16(u).Float32())
		}
	}
	return v
}

func littleEndian(v any) []byte {
	var buf bytes.Buffer
	_ = binary.Write(&buf, binary.LittleEndian, v) // of slices of numbers
	return buf.Bytes()
}

// hostCheck holds the kernels' source, run on the processor, against plain graphs, for one
// dtype.
type hostCheck struct {
	*testing.T
	*trainKernels
	residual dtypes.DType
	rng      *rand.Rand
}

// checkWords are what masks are made from: keys, where, from.
var checkWords = [3][]int32{{-0x61c88647, 0x05ebca6b}, {5, 0}, {3}}

const checkEps = 1e-5

func (c *hostCheck) normal(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(c.rng.NormFloat64())
	}
	return v
}

// stream are values of the residual stream as a device has them, and in float32.
func (c *hostCheck) stream(n int) ([]byte, []float32) {
	v := c.normal(n)
	if c.residual == dtypes.Float32 {
		return littleEndian(v), v
	}
	return rounded(c.dt, v)
}

// plain runs a graph on XLA's CPU, with results in float32.
func (c *hostCheck) plain(in []any, f func(n []*Node) []*Node) (out [][]float32) {
	got := MustExecOnceN(openCPU(c), func(n []*Node) []*Node {
		res := f(n)
		for i := range res {
			res[i] = ConvertDType(res[i], dtypes.Float32)
		}
		return res
	}, in...)
	for _, x := range got {
		out = append(out, tensors.MustCopyFlatData[float32](x))
	}
	return out
}

func (c *hostCheck) near(what string, dt dtypes.DType, got []byte, want []float32) {
	c.Helper()
	off, size, zeros := 0.0, 0.0, 0
	for i, g := range widened(dt, got) {
		off, size = off+math.Pow(float64(g-want[i]), 2), size+math.Pow(float64(want[i]), 2)
		if (g == 0) != (want[i] == 0) {
			zeros++
		}
	}
	if e := math.Sqrt(off / size); !(e < 4e-3) || zeros > len(want)/1000 {
		c.Errorf("%s %s: off by %.3g (relative), %d of %d values dropped otherwise", c.dt, what, e, zeros, len(want))
	}
}

// dropoutFrom is dropoutOf behind some tokens.
func dropoutFrom(p float64, keys, where, from *Node) *dropoutRNG {
	r := dropoutOf(p, keys, where)
	r.from = Bitcast(Reshape(from), dtypes.Uint32)
	return r
}

var attentionInputs = []string{"q_proj", "k_proj", "v_proj"}

// norms checks a norm of rows of d, its dropped copies and its gradient.
func (c *hostCheck) norms(d int) {
	const rows = 6
	xs, x := c.stream(rows * d)
	w := c.normal(d)
	stream, weight := shapes.Make(c.residual, rows, d), shapes.Make(dtypes.Float32, d)
	i32 := func(n int) shapes.Shape { return shapes.Make(dtypes.Int32, n) }
	config := emittedCall(c.T, []shapes.Shape{stream, weight, i32(2), i32(2), i32(1)}, func(n []*Node) []*Node {
		h, y := c.norm(n[0], n[1], checkEps, true, dropoutFrom(0.3, n[2], n[3], n[4]), attentionInputs)
		return append([]*Node{h}, y...)
	})
	size := rows * d * 2
	got := onHost(c.T, config, [][]byte{xs, littleEndian(w), littleEndian(checkWords[0]), littleEndian(checkWords[1]), littleEndian(checkWords[2])}, size, size, size, size)
	want := c.plain([]any{x, w, checkWords[0], checkWords[1], checkWords[2]}, func(n []*Node) []*Node {
		h := rmsNorm(ConvertDType(Reshape(n[0], rows, d), c.residual), n[1], checkEps, c.dt)
		out := []*Node{h}
		for _, p := range attentionInputs {
			out = append(out, dropoutFrom(0.3, n[2], n[3], n[4]).apply(h, projIndex(p)))
		}
		return out
	})
	for i, v := range want {
		c.near(fmt.Sprintf("norm of %d, result %d", d, i), c.dt, got[i], v)
	}

	dhs, dh := rounded(c.dt, c.normal(rows*d))
	sums, sum := c.stream(rows * d)
	config = emittedCall(c.T, []shapes.Shape{stream, weight, shapes.Make(c.dt, rows, d), stream}, func(n []*Node) []*Node {
		return []*Node{c.normBackward(n[0], n[1], n[2], n[3], checkEps)}
	})
	got = onHost(c.T, config, [][]byte{xs, littleEndian(w), dhs, sums}, rows*d*c.residual.Size())
	want = c.plain([]any{x, w, dh, sum}, func(n []*Node) []*Node {
		r := func(x *Node) *Node { return Reshape(x, rows, d) }
		return []*Node{Add(r(n[3]), rmsNormBackward(r(n[0]), n[1], r(n[2]), checkEps))}
	})
	c.near(fmt.Sprintf("norm of %d backward", d), c.residual, got[0], want[0])
}

// sum checks the gradient through dropped inputs of so many adapters.
func (c *hostCheck) sum(adapters int, p float64) {
	const rows, rank, d = 70, 40, 256
	var in [][]byte
	var wide []any
	var sh []shapes.Shape
	add := func(dims ...int) {
		b, v := rounded(c.dt, c.normal(dims[0]*dims[1]))
		in, wide, sh = append(in, b), append(wide, v), append(sh, shapes.Make(c.dt, dims...))
	}
	var modules []*loraModule
	for i := range adapters {
		modules = append(modules, &loraModule{loraSpec: &loraSpec{proj: attentionInputs[i], in: d, rank: rank}})
		add(rows, rank)
	}
	for range adapters {
		add(rank, d)
	}
	for _, words := range checkWords[:2] {
		sh, wide = append(sh, shapes.Make(dtypes.Int32, 2)), append(wide, words)
		if p > 0 {
			in = append(in, littleEndian(words))
		}
	}
	config := emittedCall(c.T, sh, func(n []*Node) []*Node {
		for i, m := range modules {
			m.a = n[adapters+i]
		}
		return []*Node{c.droppedSum(n[:adapters], modules, dropoutOf(p, n[2*adapters], n[2*adapters+1]))}
	})
	got := onHost(c.T, config, in, rows*d*2)
	want := c.plain(wide, func(n []*Node) []*Node {
		l := &linears{rng: dropoutOf(p, n[2*adapters], n[2*adapters+1])}
		var g []*Node
		for i, m := range modules {
			g, m.a = append(g, Reshape(n[i], rows, rank)), Reshape(n[adapters+i], rank, d)
		}
		summands := l.wayBack(g, modules)
		sum := summands[0]
		for _, s := range summands[1:] {
			sum = Add(sum, s)
		}
		return []*Node{sum}
	})
	c.near(fmt.Sprintf("sum of %d adapters, dropout %g", adapters, p), c.dt, got[0], want[0])
}

// The training kernels' source, run on the processor through the calls that graphs emit,
// gives what the plain graphs give, in both dtypes: a norm and its dropped copies, with a
// row's length that fills a block of threads and some that do not, from a token on; a
// norm's gradient; the gradient through dropped inputs of one to three adapters, with and
// without dropout.
func TestTrainKernelsOnHost(t *testing.T) {
	for _, dt := range []dtypes.DType{dtypes.BFloat16, dtypes.Float16} {
		c := &hostCheck{T: t, trainKernels: &trainKernels{dt: dt, sums: true}, residual: dtypes.Float32, rng: rand.New(rand.NewPCG(2, 3))}
		if dt == dtypes.BFloat16 {
			c.residual = dt
		}
		for _, d := range []int{512, 1000, 4200} {
			c.norms(d)
		}
		for adapters := 1; adapters <= 3; adapters++ {
			for _, p := range []float64{0, 0.3} {
				c.sum(adapters, p)
			}
		}
	}
}

// A plan's programs call the kernels that the step's do.
func TestPlannedKernels(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{ComputeDType: "bfloat16"})
	bt := goldenBatch(openGolden(t, "lora", "gqa_all", "expect.safetensors"))
	tr := newTrainer(t, b, loadAdapter(t, "lora", "gqa_all"), TrainOptions{Dropout: 0.1})
	b.train = &trainKernels{dt: b.dt, sums: true}
	_, planned := tr.Fit([]*batch.Batch{bt}, nil)
	_, step := tr.Step([]*batch.Batch{bt}, 1e-4)
	for what, err := range map[string]error{"plan": planned, "step": step} { // XLA's CPU has no such kernel
		if err == nil || !strings.Contains(err.Error(), cuda.RMSNorm) {
			t.Errorf("%s: %v, want the kernel %s named", what, err, cuda.RMSNorm)
		}
	}
}

// The proof of the kernels compares each of their results, for as many rows as make their
// blocks go round.
func TestTrainKernelProofs(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{ComputeDType: "bfloat16"})
	in, err := b.proofInputs()
	defer func() { drop(in...) }()
	if err != nil {
		t.Fatal(err)
	}
	sh, err := shapesOf(in)
	if err != nil {
		t.Fatal(err)
	}
	var compared int
	calls := emittedCalls(t, sh, func(n []*Node) (out []*Node) {
		for _, c := range b.proofs(&trainKernels{dt: b.dt}, n) {
			out = append(out, c.fast, c.plain)
			compared++
		}
		return out
	})
	if len(calls) != 2 || compared != 5 || !strings.HasPrefix(calls[0], cuda.RMSNorm+"_640_") || !strings.HasPrefix(calls[1], cuda.RMSNormBackward+"_640_") {
		t.Errorf("%d results compared, calls %q; want five of a norm and its gradient", compared, calls)
	}
}
