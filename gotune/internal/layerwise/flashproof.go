package layerwise

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/batch"
)

// fusedTolerance is the largest relative error of [Base.proveFused]: some
// roundings of bfloat16 (2⁻⁹ each).
const fusedTolerance = 2e-2

// packedProof are the lengths of documents in the rows of [Base.proveFused], each of
// proofLength tokens: documents within and across cuDNN's blocks of 128, whole blocks that
// a query must not see, padding.
var packedProof = [][]int{{37, 91, 1, 127, 70, 58}, {5, 200, 130}}

// proofLength is the length of a row of [Base.proveFused].
const proofLength = 6 * fusedMinLength

// proveFused runs f and plain attention on the same random values of this model's heads
// and returns an error when o, dq, dk or dv differ: for a way with packed rows, and for
// whole rows where way is "".
func (b *Base) proveFused(f fusedAttention, way string) error {
	bt := &batch.Batch{B: len(packedProof), S: proofLength, Segments: segmentsOf(proofLength, packedProof)}
	if way == "" {
		fill(bt.Segments, 1)
	}
	a := attention{geometry: geometry{b: bt.B, s: bt.S}, heads: b.cfg.NumHeads, kv: b.cfg.NumKVHeads, dim: b.cfg.HeadDim}
	fused := a
	fused.fused, fused.biased = f, way == packedBias
	places := []int32{0}
	if way == packedRagged {
		r := raggedOf(bt, a.heads*a.dim, a.kv*a.dim)
		fused.b, fused.s, places = r.rows, r.length, r.places
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var in []compute.Buffer
	defer func() { drop(in...) }()
	for _, heads := range []int{a.heads, a.kv, a.kv, a.heads} {
		flat := make([]float32, a.tokens()*heads*a.dim)
		for i := range flat {
			flat[i] = float32(rng.NormFloat64())
		}
		buf, err := b.dev.upload(flat, dtypes.Float32, a.tokens(), heads, a.dim)
		if err != nil {
			return err
		}
		in = append(in, buf)
	}
	for _, u := range []struct {
		flat []int32
		dims []int
	}{{bt.Segments, []int{bt.B, bt.S}}, {places, []int{len(places)}}} {
		buf, err := b.dev.upload(u.flat, dtypes.Int32, u.dims...)
		if err != nil {
			return err
		}
		in = append(in, buf)
	}
	sh, err := shapesOf(in)
	if err != nil {
		return err
	}
	what := strings.TrimSpace("fused attention " + way)
	p, err := b.dev.programOn(kernelBackend{b.dev.be}, b.prefix+"prove "+what, sh, func(_ *Graph, n []*Node) []*Node {
		plain := a
		plain.bias = biasOf(n[4], 0)
		switch way {
		case packedBias:
			fused.bias = fusedBiasOf(n[4], 0, b.dt)
		case packedRagged:
			fused.bias = n[5]
		}
		var each [2][]*Node
		for i, a := range []*attention{&plain, &fused} {
			cast := func(x *Node) *Node { return ConvertDType(x, b.dt) }
			o, saved := a.forward(cast(n[0]), cast(n[1]), cast(n[2]))
			dq, dk, dv := a.backward(saved, o, cast(n[3]))
			each[i] = []*Node{o, dq, dk, dv}
		}
		var off []*Node
		for i, want := range each[0] {
			off = append(off, relativeError(each[1][i], want))
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
	for i, e := range off {
		if !(e <= fusedTolerance) { // also not a number
			return fmt.Errorf("%s: %s differs from plain attention's by %.3g (relative), want at most %g", what, []string{"o", "dq", "dk", "dv"}[i], e, fusedTolerance)
		}
	}
	return nil
}

// segmentsOf numbers the documents of rows of s tokens.
func segmentsOf(s int, rows [][]int) (segments []int32) {
	for r, lengths := range rows {
		for i, n := range lengths {
			segments = append(segments, slices.Repeat([]int32{int32(i + 1)}, n)...)
		}
		segments = append(segments, make([]int32, (r+1)*s-len(segments))...)
	}
	return segments
}

func fill(v []int32, x int32) {
	for i := range v {
		v[i] = x
	}
}

// errors runs a proof's program, whose one result are relative errors.
func (p *program) errors(in []compute.Buffer) ([]float32, error) {
	out, err := p.run(in)
	if err != nil {
		return nil, err
	}
	defer drop(out...)
	return download[float32](out[0], p.outputs[0].Size())
}

// relativeError is ‖got − want‖ / ‖want‖, f32.
func relativeError(got, want *Node) *Node {
	g, w := ConvertDType(got, dtypes.Float32), ConvertDType(want, dtypes.Float32)
	d := Sub(g, w)
	return Sqrt(Div(ReduceAllSum(Mul(d, d)), ReduceAllSum(Mul(w, w))))
}
