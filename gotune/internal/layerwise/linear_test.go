package layerwise

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
	"github.com/gomlx/gomlx/core/tensors"
)

// The hand-written gradients of the projections equal autodiff of their forward
// pass: LoRA and DoRA, with and without dropout, in fused and single matrices.
func TestLinearGradientsEqualAutodiff(t *testing.T) {
	const n, in = 6, 10
	parts := []part{{"q_proj", 8}, {"k_proj", 4}, {"v_proj", 4}}
	projs := []string{"q_proj", "k_proj", "v_proj"}
	fused := []groupSpec{{parts: parts, in: in, dtype: dtypes.Float32, bias: true}}
	var single []groupSpec
	for _, p := range parts {
		single = append(single, groupSpec{parts: []part{p}, in: in, dtype: dtypes.Float32})
	}
	for _, specs := range [][]groupSpec{fused, single} {
		for _, dora := range []bool{false, true} {
			for _, drop := range []float64{0, 0.4} {
				t.Run(fmt.Sprintf("groups=%d dora=%t dropout=%v", len(specs), dora, drop), func(t *testing.T) {
					var lora loraSpecs
					for _, p := range []part{parts[0], parts[2]} {
						lora = append(lora, loraSpec{proj: p.proj, in: in, out: p.out, rank: 3, scale: 0.7, dora: dora, offset: lora.size()})
					}
					checkLinear(t, specs, lora, drop, n, in, projs)
				})
			}
		}
	}
}

func checkLinear(t *testing.T, specs []groupSpec, lora loraSpecs, drop float64, n, in int, projs []string) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(dims ...int) *tensors.Tensor {
		v := make([]float32, product(dims))
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return tensors.FromFlatDataAndDimensions(v, dims...)
	}
	args := []any{random(n, in), random(lora.size()), random(n, 8), random(n, 4), random(n, 4)}
	for i := range specs {
		for _, s := range specs[i].shapes() {
			args = append(args, random(s.Dimensions...))
		}
	}
	out := MustExecOnceN(openCPU(t), func(a []*Node) []*Node {
		g, x, flat, dys, weights := a[0].Graph(), a[0], a[1], a[2:5], a[5:]
		l := &linears{dt: dtypes.Float32, lora: lora.modules(flat, dtypes.Float32), grads: map[string]*Node{}}
		key := func(v uint32) *Node { return Scalar(g, dtypes.Uint32, v) }
		if drop > 0 {
			l.rng = &dropoutRNG{p: drop, k0: key(1), k1: key(2), layer: key(3)}
		}
		for i := range specs {
			var m matrix
			m, weights = specs[i].read(weights, dtypes.Float32)
			l.matrices = append(l.matrices, m)
		}
		ys, joined, ts := l.forward(x, projs...)
		var loss *Node
		for i := range ys {
			term := ReduceAllSum(Mul(ys[i], dys[i]))
			if loss == nil {
				loss = term
			} else {
				loss = Add(loss, term)
			}
		}
		want := Gradient(loss, x, flat)
		dx, grad := l.backward(x, dys, nil, ts, projs...), l.gradient(x.Graph(), lora)
		side := l.backward(x, nil, joinColumns(dys), ts, projs...)
		return []*Node{dx, grad, want[0], want[1], side, l.gradient(x.Graph(), lora), joined, joinColumns(ys)}
	}, args...)
	near(t, "dx", flat(t, out[0]), flat(t, out[2]), 1e-4, 1e-4)
	near(t, "adapter gradient", flat(t, out[1]), flat(t, out[3]), 1e-4, 1e-4)
	near(t, "dx of joined gradients", flat(t, out[4]), flat(t, out[2]), 1e-4, 1e-4)
	near(t, "adapter gradient of joined gradients", flat(t, out[5]), flat(t, out[3]), 1e-4, 1e-4)
	near(t, "joined", flat(t, out[6]), flat(t, out[7]), 1e-6, 1e-6)
}
