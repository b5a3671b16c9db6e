package layerwise

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// plainFused is fused attention's contract in plain products: what a device's own
// operation must compute, for devices that have none. A wrong value shows whether
// a difference is seen.
type plainFused struct{ wrong float64 }

func (plainFused) plain(q, k, mask *Node) *attention {
	d := q.Shape().Dimensions
	m := geometry{b: d[0], s: d[1]}
	segments := Ones(q.Graph(), shapeOf(dtypes.Int32, m.b, m.s))
	ragged := mask != nil && mask.DType() == dtypes.Int32
	if ragged {
		// A token's document is the number of those that begin before it.
		documents := (mask.Shape().Size()/m.b - 2) / 3
		begins := Slice(mask, AxisRange(m.b*documents, m.b*(2*documents+1)))
		m.b, m.s = 1, m.b*m.s
		square := shapeOf(dtypes.Int32, m.s, begins.Shape().Size())
		token := MulScalar(Iota(q.Graph(), square, 0), d[2]*d[3])
		segments = ReduceSum(ConvertDType(LessOrEqual(BroadcastToDims(InsertAxes(begins, 0), square.Dimensions...), token), dtypes.Int32), -1)
		segments = InsertAxes(segments, 0)
	}
	bias := biasOf(segments, 0)
	if mask != nil && !ragged {
		bias = Add(bias, ConvertDType(Squeeze(mask, 1), dtypes.Float32))
	}
	return &attention{geometry: m, heads: d[2], kv: k.Shape().Dim(2), dim: d[3], bias: bias}
}

func (f plainFused) forward(q, k, v, mask *Node) (o, lse *Node) {
	a := f.plain(q, k, mask)
	o, s := a.forward(a.merge(q), a.merge(k), a.merge(v))
	return Reshape(o, q.Shape().Dimensions...), Reshape(TransposeAllAxes(s.lse, 0, 1, 3, 2), a.b, a.heads, a.s)
}

func (f plainFused) backward(q, k, v, mask, o, lse, do *Node) (dq, dk, dv *Node) {
	a := f.plain(q, k, mask)
	s := &saved{q: a.toQuery(a.merge(q)), k: a.toKey(a.merge(k)), v: a.toKey(a.merge(v)),
		lse: TransposeAllAxes(Reshape(lse, a.b, a.kv, a.heads/a.kv, a.s), 0, 1, 3, 2)}
	dq, dk, dv = a.backward(s, a.merge(o), a.merge(do))
	like := func(x, y *Node) *Node { return Reshape(x, y.Shape().Dimensions...) }
	return like(dq, q), like(MulScalar(dk, 1+f.wrong), k), like(dv, v)
}

// paddedRows of one document each, of S, S−20 and 1 tokens.
func documentsARow(vocab, s int) *batch.Batch {
	rng := rand.New(rand.NewPCG(4, 4))
	bt := &batch.Batch{B: 3, S: s}
	for _, n := range []int{s, s - 20, 1} {
		for i := range s {
			id, label, pos, seg := int32(0), int32(batch.Ignore), int32(0), int32(0)
			if i < n {
				id, pos, seg = int32(rng.IntN(vocab)), int32(i), 1
				label = id
			}
			bt.IDs, bt.Labels, bt.Positions, bt.Segments = append(bt.IDs, id), append(bt.Labels, label), append(bt.Positions, pos), append(bt.Segments, seg)
		}
	}
	return bt
}

// Rows of one document take fused attention, and give the loss and gradients of
// plain attention, which masks the padding: saved and recomputed, grouped heads.
func TestFusedAttentionEqualsPlain(t *testing.T) {
	dir := oracle.Dir(t, "llama", "gqa")
	plain := loadDir(t, dir, LoadOptions{})
	bt := documentsARow(plain.cfg.VocabSize, fusedMinLength+8)
	a, err := lora.New(lora.Config{R: 4, Alpha: 8, TargetModules: []string{"q_proj", "v_proj", "down_proj"}}, plain.cfg, 3)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 5))
	for _, m := range a.Modules {
		for i := range m.B {
			m.B[i] = float32(rng.NormFloat64()) * 0.05
		}
	}
	want := gradientOf(t, newTrainer(t, plain, a, TrainOptions{}), bt)
	fused := loadDir(t, dir, LoadOptions{})
	fused.choice = &attentionChoice{fused: plainFused{}}
	for _, memory := range []string{MemorySave, MemoryRecompute} {
		tr := newTrainer(t, fused, a, TrainOptions{Memory: memory})
		got := gradientOf(t, tr, bt)
		for name, w := range want {
			near(t, memory+" "+name, got[name], w, 1e-6, 1e-4)
		}
	}
	if m, _, buf, _, err := fused.packBatch(bt, 0, 0, 1); err != nil || !m.fused {
		t.Errorf("geometry %+v, %v; want fused", m, err)
	} else {
		drop(buf)
	}
}

// no says that fused attention lacks ways with packed rows.
func no(ways ...string) map[string]string {
	why := map[string]string{}
	for _, w := range ways {
		why[w] = "there is none"
	}
	return why
}

// Rows of one document padded on the right take fused attention as they are; others the
// best way that there is for them.
func TestWhichBatchesFuse(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{})
	row := func(s int, edit func(seg []int32)) *batch.Batch {
		bt := documentsARow(b.cfg.VocabSize, s)
		edit(bt.Segments)
		return bt
	}
	const s = fusedMinLength
	const plain, whole = "plain", "whole"
	for name, c := range map[string]struct {
		bt     *batch.Batch
		window int
		want   [3]string // with all ways, without ragged, without ragged and bias
	}{
		"padded right":  {row(s, func([]int32) {}), 0, [3]string{whole, whole, whole}},
		"other number":  {row(s, func(g []int32) { fill(g[:s], 7) }), 0, [3]string{whole, whole, whole}},
		"two documents": {row(s, func(g []int32) { fill(g[10:s], 2) }), 0, [3]string{packedRagged, packedBias, plain}},
		"padded left":   {row(s, func(g []int32) { fill(g[:5], 0) }), 0, [3]string{packedRagged, packedBias, plain}},
		"hole":          {row(s, func(g []int32) { g[9] = 0 }), 0, [3]string{packedBias, packedBias, plain}},
		"in two parts":  {row(s, func(g []int32) { fill(g[9:20], 2) }), 0, [3]string{packedBias, packedBias, plain}},
		"uneven":        {row(s+4, func(g []int32) { fill(g[10:s+4], 2) }), 0, [3]string{packedRagged, plain, plain}},
		"window":        {row(s, func([]int32) {}), s - 1, [3]string{packedBias, packedBias, plain}},
		"wide window":   {row(s, func([]int32) {}), s, [3]string{whole, whole, whole}},
		"short":         {documentsARow(b.cfg.VocabSize, s-1), 0, [3]string{plain, plain, plain}},
	} {
		for i, no := range []map[string]string{nil, no(packedRagged), no(packedRagged, packedBias)} {
			b.cfg.SlidingWindow, b.choice = c.window, &attentionChoice{fused: plainFused{}, no: no}
			m, got := b.geometryOf(c.bt), plain
			switch {
			case m.ragged != nil:
				got = packedRagged
			case m.biased:
				got = packedBias
			case m.fused:
				got = whole
			}
			if got != c.want[i] {
				t.Errorf("%s, no %v: %s, want %s", name, no, got, c.want[i])
			}
		}
	}
}

// A device's operation is believed only when it computes what plain attention
// does, and a device without one says so.
func TestFusedAttentionIsProven(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{})
	for _, way := range []string{"", packedBias, packedRagged} {
		again := func() { b.prefix += "again " } // another operation, another program
		if err := b.proveFused(plainFused{}, way); err != nil {
			t.Error(err)
		}
		again()
		if err := b.proveFused(plainFused{wrong: 0.1}, way); err == nil || !strings.Contains(err.Error(), "dk differs") {
			t.Errorf("a wrong dk: %v", err)
		}
		again()
		if err := b.proveFused(plainFused{wrong: math.NaN()}, way); err == nil {
			t.Error("a dk that is not a number was believed")
		}
		again()
		if err := b.proveFused(cudnnAttention{}, way); err == nil {
			t.Error("the CPU claims to have cuDNN")
		}
		again()
	}
	for _, way := range []string{packedBias, packedRagged} {
		if err := b.proveFused(deafFused{}, way); err == nil || !strings.Contains(err.Error(), "o differs") {
			t.Errorf("attention that takes no notice of %s: %v", way, err)
		}
	}
	if got := b.Attention(); !strings.HasPrefix(got, "plain: the backend") {
		t.Errorf("Attention() = %q", got)
	}
}

// A way with packed rows is left out where the user says so, and a bias where it has no use.
func TestWaysWithPackedRows(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{})
	for name, c := range map[string]struct {
		way, env string
		window   int
		no       map[string]string
		want     string // in the error
	}{
		"bias":                {packedBias, "", 0, no(packedRagged), ""},
		"bias beside ragged":  {packedBias, "", 0, nil, "need"},
		"bias for a window":   {packedBias, "", 96, nil, ""},
		"ragged, not allowed": {packedRagged, packedBias, 0, nil, EnvAttention},
	} {
		t.Setenv(EnvAttention, c.env)
		b.cfg.SlidingWindow = c.window
		err := b.wayRefused(&attentionChoice{fused: plainFused{}, no: c.no}, c.way)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	b.choice = &attentionChoice{fused: plainFused{}, no: no(packedRagged)}
	if got, want := b.Attention(), "fused, packed rows by bias, not ragged: there is none"; got != want {
		t.Errorf("Attention() = %q, want %q", got, want)
	}
}

// deafFused takes no notice of a mask.
type deafFused struct{ plainFused }

func (f deafFused) forward(q, k, v, _ *Node) (o, lse *Node) {
	return f.plainFused.forward(q, k, v, nil)
}
