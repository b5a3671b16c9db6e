package layerwise

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// loudModel is a golden model whose embeddings and MLPs write up to 6·10⁴ into the
// residual stream, as large models do in a few features: each value is a float16, the
// sum is not.
func loudModel(t *testing.T) string {
	t.Helper()
	from, dir := oracle.Dir(t, "llama", "gqa"), t.TempDir()
	config, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(from, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []safetensors.Tensor
	for _, name := range f.Names() {
		ts, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := ts.Float32()
		if err != nil {
			t.Fatal(err)
		}
		scale := float32(1)
		switch {
		case strings.Contains(name, "embed_tokens"):
			scale = 6e4 / largest(v)
		case strings.Contains(name, "down_proj"):
			scale = 1e4
		}
		for i := range v {
			v[i] *= scale
		}
		if ts, err = safetensors.FromFloat32(name, ts.Shape, v, safetensors.F32); err != nil {
			t.Fatal(err)
		}
		out = append(out, ts)
	}
	if err := safetensors.Write(filepath.Join(dir, "model.safetensors"), out, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

func largest(v []float32) (m float32) {
	for _, x := range v {
		m = max(m, float32(math.Abs(float64(x))))
	}
	return m
}

// 500 steps in float16 on a model that plain float16 can't hold: the residual stream
// outgrows the type and is float32; gradients overflow at the first loss scale, which
// shows as skipped steps; nothing is NaN, and the loss falls to float32's.
func TestFloat16Trains500Steps(t *testing.T) {
	const steps, rows, length = 500, 2, 16
	dir := loudModel(t)
	train := func(b *Base, o TrainOptions, n int) (losses []float64, skipped int) {
		tr := newTrainer(t, b, randomAdapter(t, b, "q_proj", "v_proj", "down_proj"), o)
		for i := range n {
			bt := packedRows(t, b.cfg.VocabSize, length, []int{length}, []int{length - i%3})
			res, err := tr.Step([]*batch.Batch{bt}, 1e-2)
			if err != nil {
				t.Fatal(err)
			}
			if losses = append(losses, res.Loss); res.Skipped {
				skipped++
			}
		}
		return losses, skipped
	}
	b := loadDir(t, dir, LoadOptions{ComputeDType: "float16", Quant: QuantNF4})
	peak := float32(0)
	bt := packedRows(t, b.cfg.VocabSize, length, []int{length}, []int{length})
	err := b.run(nil, bt, func(_ int, y compute.Buffer) error {
		v, err := download[float32](y, rows*length*b.cfg.HiddenSize)
		peak = max(peak, largest(v))
		return err
	}, func(geometry, meta, compute.Buffer, compute.Buffer) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if !(peak > 65504) || math.IsInf(float64(peak), 0) {
		t.Fatalf("the residual stream reaches %g, want more than float16's 65504", peak)
	}
	losses, skipped := train(b, TrainOptions{MaxGradNorm: 0.3, LossScale: 1 << 24}, steps)
	for i, l := range losses {
		if math.IsNaN(l) || math.IsInf(l, 0) {
			t.Fatalf("step %d: loss %v", i, l)
		}
	}
	if skipped == 0 || skipped > 30 {
		t.Errorf("%d steps skipped; want some at the first loss scale, and few in all", skipped)
	}
	mean := func(v []float64) (m float64) {
		for _, x := range v {
			m += x / float64(len(v))
		}
		return m
	}
	full := loadDir(t, dir, LoadOptions{Quant: QuantNF4})
	want, _ := train(full, TrainOptions{MaxGradNorm: 0.3}, steps)
	got, ref := mean(losses[steps-50:]), mean(want[steps-50:])
	if first := mean(losses[:20]); !(got < 0.8*first) || math.Abs(got-ref) > 0.1*ref {
		t.Errorf("loss %.3f at first, %.3f at the end; float32's is %.3f", first, got, ref)
	}
	t.Logf("residual stream up to %.0f, %d skipped, loss %.3f → %.3f, float32 %.3f", peak, skipped, mean(losses[:20]), got, ref)

	plain := loadDir(t, dir, LoadOptions{ComputeDType: "float16", Quant: QuantNF4})
	plain.residual = dtypes.Float16
	plain.prefix = plain.fingerprint()
	broken, _ := train(plain, TrainOptions{}, 1)
	if !math.IsNaN(broken[0]) && !math.IsInf(broken[0], 0) {
		t.Errorf("with a residual stream of float16 the loss is %v: the model is too quiet for this test", broken[0])
	}
}
