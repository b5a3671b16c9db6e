package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// Sizes of the check: two rows of checkLength tokens.
const checkLength = 256

// checkBatches are what the check runs on: rows of one document, which take fused
// attention where there is one, and a row of two, which takes its way with packed rows.
var checkBatches = []struct {
	name string
	make func(s, vocab int) *batch.Batch
}{{"padded", padded}, {"packed", uneven}}

// Names in a reference file beside the gradients.
const lossName, evalName = "loss", "evaluate"

// beta1 is AdamW's: after one step from zero its first moment is (1 − β₁)·g.
const beta1 = 0.5

// noTF32 is cuBLAS's switch: 0 keeps float32 products in float32. XLA's default on
// a GPU rounds their operands to TF32's 10 bits.
const noTF32 = "NVIDIA_TF32_OVERRIDE"

// passes returns what onePass does for each of checkBatches, under "batch/name".
func passes(ses *session, memory layerwise.TrainOptions) (map[string][]float32, error) {
	all := map[string][]float32{}
	for _, c := range checkBatches {
		one, err := onePass(ses, memory, c.make(checkLength, ses.ck.Config.VocabSize))
		if err != nil {
			return nil, fmt.Errorf("%s rows: %w", c.name, err)
		}
		for name, v := range one {
			all[c.name+"/"+name] = v
		}
	}
	return all, nil
}

// onePass returns loss and gradients of one step with dropout 0.1, and the
// loss without dropout.
func onePass(ses *session, o layerwise.TrainOptions, bt *batch.Batch) (map[string][]float32, error) {
	o.Dropout, o.Seed, o.Beta1, o.LossScale = 0.1, 5, beta1, 1024
	tr, err := ses.base.NewTrainer(ses.adapter, o)
	if err != nil {
		return nil, err
	}
	defer tr.Free()
	sum, n, err := tr.Evaluate(bt)
	if err != nil {
		return nil, err
	}
	res, err := tr.Step([]*batch.Batch{bt}, 0)
	if err != nil {
		return nil, err
	}
	if res.Skipped {
		return nil, fmt.Errorf("the gradient is not finite at loss scale %v", res.LossScale)
	}
	out := map[string][]float32{lossName: {float32(res.Loss)}, evalName: {float32(sum / float64(n))}}
	state, err := tr.State()
	if err != nil {
		return nil, err
	}
	for _, t := range state {
		if name, ok := strings.CutPrefix(t.Name, "exp_avg."); ok {
			if out[name], err = t.Float32(); err != nil {
				return nil, err
			}
			for i := range out[name] {
				out[name][i] /= 1 - beta1
			}
		}
	}
	return out, nil
}

// reference writes what onePass gives in float32.
func reference(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("reference", flag.ContinueOnError)
	s.flags(fs)
	out := fs.String("out", "", "file to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	s.dtype = "float32"
	if err := os.Setenv(noTF32, "0"); err != nil {
		return err
	}
	ses, err := s.open(ctx)
	if err != nil {
		return err
	}
	all, err := passes(ses, layerwise.TrainOptions{Memory: layerwise.MemorySave})
	if err != nil {
		return err
	}
	var ts []safetensors.Tensor
	for name, v := range all {
		t, err := safetensors.FromFloat32(name, []int{len(v)}, v, safetensors.F32)
		if err != nil {
			return err
		}
		ts = append(ts, t)
	}
	return safetensors.Write(*out, ts, map[string]string{"model": filepath.Base(s.model)})
}

// tolerance is the largest relative error of the gradients for a compute type:
// a few roundings of its operands, of which bfloat16's are 8 times float16's.
var tolerance = map[string]float64{"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}

// fp8Tolerance is that of steps with products in 8-bit floats, whose roundings are 16
// times bfloat16's: two random layers of 7B shape are off by 0.19 to 0.31. What matters,
// that a run learns the same, is tested on a real model (package engine).
const fp8Tolerance = 0.4

const fp8Usage = "products with the base in 8-bit floats: forward, both; nothing for none"

// check compares passes in a compute type with a reference file.
func check(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("check", flag.ContinueOnError)
	s.flags(fs)
	path := fs.String("reference", "", "file from the stage reference")
	memory := fs.String("memory", layerwise.MemorySave, "memory policy")
	attends := fs.Bool("keep-attention", false, "layers that are computed again keep their attention's output")
	chunk := fs.Int("chunk", 0, "tokens that a layer which is computed again takes at a time")
	fp8 := fs.String("fp8", layerwise.FP8Off, fp8Usage)
	if err := fs.Parse(args); err != nil {
		return err
	}
	f, err := safetensors.Open(*path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Setenv(noTF32, "0"); err != nil {
		return err
	}
	ses, err := s.open(ctx)
	if err != nil {
		return err
	}
	got, err := passes(ses, layerwise.TrainOptions{Memory: *memory, KeepAttention: *attends, Chunk: *chunk, FP8: *fp8})
	if err != nil {
		return err
	}
	want := map[string][]float32{}
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return err
		}
		if want[name], err = t.Float32(); err != nil {
			return err
		}
		if len(got[name]) != len(want[name]) {
			return fmt.Errorf("%s has %d values, the reference %d: it was made with other settings", name, len(got[name]), len(want[name]))
		}
	}
	var failed []string
	how, tol := s.dtype+" "+*memory, tolerance[s.dtype]
	if *fp8 != layerwise.FP8Off {
		how, tol = how+" fp8 "+*fp8, fp8Tolerance
	}
	for _, c := range checkBatches {
		if err := compare(c.name, how+" "+c.name, ses.runsOn(), tol, got, want); err != nil {
			failed = append(failed, err.Error())
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%s", strings.Join(failed, "; "))
	}
	return nil
}

// compare emits the errors of one batch and returns one when they pass tol.
func compare(batch, title, attention string, tol float64, got, want map[string][]float32) error {
	worst, where, each := 0.0, "", []string{attention}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		short, ok := strings.CutPrefix(name, batch+"/")
		if !ok || short == lossName || short == evalName {
			continue
		}
		e := relative(got[name], want[name])
		each = append(each, fmt.Sprintf("%s %.2g", strings.TrimPrefix(short, "base_model.model.model.layers."), e))
		if e > worst {
			worst, where = e, short
		}
	}
	off := func(name string) float64 {
		name = batch + "/" + name
		if len(want[name]) != 1 {
			return math.Inf(1)
		}
		return math.Abs(float64(got[name][0] - want[name][0]))
	}
	dLoss, dEval := off(lossName), off(evalName)
	emit("check", title, strings.Join(each, ", "), map[string]float64{"worst gradient": worst, "loss": float64(got[batch+"/"+lossName][0]), "d loss": dLoss, "d evaluate": dEval})
	if !(worst <= tol && dLoss <= tol && dEval <= tol) {
		return fmt.Errorf("%s rows: gradient of %s is off by %.3g (relative), losses by %.3g and %.3g; want at most %g", batch, where, worst, dLoss, dEval, tol)
	}
	return nil
}

// relative is ‖got − want‖ / ‖want‖, infinite when a value is not a number.
func relative(got, want []float32) float64 {
	var d, n float64
	for i := range want {
		e := float64(got[i]) - float64(want[i])
		d += e * e
		n += float64(want[i]) * float64(want[i])
	}
	if math.IsNaN(d) {
		return math.Inf(1)
	}
	return math.Sqrt(d / n)
}
