package main

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/safetensors"
	"github.com/gotune/gotune/gotune/internal/token"
)

// A trainer holds the run's weights and moments on the device.
type trainer struct {
	settings
	be      compute.Backend
	tok     *token.Tokenizer
	cfg     *model.Config
	specs   []safetensors.Spec
	values  []*tensors.Tensor // P weights, P first, P second moments
	done    int               // steps taken
	best    float64           // lowest held-out loss so far
	packer  *packer
	heldOut []rowsOf
	step    *graph.Exec
	loss    *graph.Exec
	next    *graph.Exec
}

// train runs the whole training. Whenever the held-out loss is the lowest yet it
// writes the model to out/best, and at the end the last weights to out.
func train(ctx context.Context, s settings) error {
	t, err := newTrainer(s)
	if err != nil {
		return err
	}
	fmt.Printf("%d parameters, %d steps of %d tokens on %s\n", t.cfg.Parameters(), s.steps, s.rows*s.length, backend.Describe(t.be).Name)
	begin, start, from, since, sum := t.done, time.Now(), t.done, 0, 0.0
	for t.done < s.steps && ctx.Err() == nil {
		loss, norm, err := t.advance()
		if err != nil {
			return err
		}
		sum, since = sum+loss, since+1
		if t.done == begin+1 {
			fmt.Printf("step %d: loss %.4f, gradient norm %.2f, %.1fs with compilation\n", t.done, loss, norm, time.Since(start).Seconds())
			start, from = time.Now(), t.done
		} else if t.done%50 == 0 {
			per := time.Since(start).Seconds() / float64(t.done-from)
			fmt.Printf("step %d/%d: loss %.4f, gradient norm %.2f, epoch %d, %.0f tokens/s, %.0fs left\n", t.done, s.steps, sum/float64(since),
				norm, t.packer.epoch+1, float64(s.rows*s.length)/per, per*float64(s.steps-t.done))
			sum, since = 0, 0
		}
		if s.every > 0 && (t.done%s.every == 0 || t.done == s.steps) {
			if err := t.look(); err != nil {
				return err
			}
		}
	}
	if err := t.saveState(); err != nil {
		return err
	}
	return t.saveModel(s.out)
}

func newTrainer(s settings) (*trainer, error) {
	t := &trainer{settings: s, best: math.Inf(1)}
	var err error
	if t.tok, err = token.Load(s.tokenizer); err != nil {
		return nil, err
	}
	if t.be, err = backend.Open(s.backend); err != nil {
		return nil, err
	}
	raw, err := configJSON(s.shape, t.tok.VocabSize())
	if err != nil {
		return nil, err
	}
	if t.cfg, err = model.ParseConfig("config.json", raw); err != nil {
		return nil, err
	}
	t.specs = t.cfg.Weights()
	if err := t.loadData(); err != nil {
		return nil, err
	}
	if err := t.loadValues(); err != nil {
		return nil, err
	}
	return t, t.compile()
}

func (t *trainer) loadData() error {
	eos, _ := t.tok.EOS()
	docs, err := documents(filepath.Join(t.data, t.documents+tokenSuffix), eos)
	if err != nil {
		return err
	}
	t.packer = newPacker(docs, t.rows, t.length, t.seed, true)
	held, err := documents(filepath.Join(t.data, heldOutFile), eos)
	if err != nil {
		return err
	}
	p := newPacker(held, t.rows, t.length, 0, false)
	for first := true; first || p.epoch == 0; first = false {
		t.heldOut = append(t.heldOut, p.next())
	}
	return nil
}

func (t *trainer) loadValues() error {
	step, groups, err := readState(t.state, t.specs)
	if err != nil {
		return err
	}
	if groups[0] == nil {
		if groups[0], err = t.startWeights(); err != nil {
			return err
		}
	}
	for _, group := range groups {
		for _, spec := range t.specs {
			v := group[spec.Name]
			if v == nil {
				v = make([]float32, size(spec.Shape))
			}
			t.values = append(t.values, tensors.FromFlatDataAndDimensions(v, spec.Shape...))
		}
	}
	for t.done < step { // the data a resumed run has seen
		t.packer.next()
		t.done++
	}
	return nil
}

// startWeights are those of the model -from names, or random ones.
func (t *trainer) startWeights() (map[string][]float32, error) {
	if t.from == "" {
		return freshWeights(t.cfg, t.seed), nil
	}
	return readWeights(filepath.Join(t.from, modelFile), "", t.specs)
}

func (t *trainer) names() []string {
	names := make([]string, len(t.specs))
	for i, s := range t.specs {
		names[i] = s.Name
	}
	return names
}

func (t *trainer) compile() (err error) {
	matmul := dtypes.Float32
	if backend.Describe(t.be).Name == backend.CUDA {
		matmul = dtypes.BFloat16
	}
	if t.step, err = graph.NewExec(t.be, stepGraph(t.cfg, t.names(), t.settings, matmul)); err != nil {
		return err
	}
	if t.loss, err = graph.NewExec(t.be, lossGraph(t.cfg, t.names(), matmul)); err != nil {
		return err
	}
	t.next, err = graph.NewExec(t.be, nextGraph(t.cfg, t.names()))
	return err
}

// learningRate rises linearly for warmup steps and falls as half a cosine to floor·rate.
func (s *settings) learningRate(step int) float64 {
	if step < s.warmup {
		return s.rate * float64(step+1) / float64(s.warmup)
	}
	x := float64(step-s.warmup) / float64(max(1, s.steps-s.warmup))
	return s.rate * (s.floor + (1-s.floor)*0.5*(1+math.Cos(math.Pi*x)))
}

// advance takes one step and returns its loss and gradient norm.
func (t *trainer) advance() (loss, norm float64, err error) {
	b := t.packer.next()
	random, err := graph.RNGStateFromSeed(t.seed<<32 + int64(t.done))
	if err != nil {
		return 0, 0, err
	}
	var args []any
	for _, v := range t.values {
		buf, err := graph.DonateTensorBuffer(v, t.be, 0)
		if err != nil {
			return 0, 0, err
		}
		args = append(args, buf)
	}
	args = append(args, t.batchArgs(b)...)
	args = append(args, float32(t.learningRate(t.done)), float32(t.done+1), random)
	out, err := t.step.Call(args...)
	if err != nil {
		return 0, 0, fmt.Errorf("step %d: %w", t.done+1, err)
	}
	n := len(t.values)
	copy(t.values, out[:n])
	t.done++
	loss, norm = float64(tensors.ToScalar[float32](out[n])), float64(tensors.ToScalar[float32](out[n+1]))
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return 0, 0, fmt.Errorf("step %d: the loss is %g; lower -rate", t.done, loss)
	}
	return loss, norm, nil
}

// batchArgs are a batch's tensors in the order of inIDs to inLabels.
func (t *trainer) batchArgs(b rowsOf) []any {
	var args []any
	for _, x := range [][]int32{b.ids, b.positions, b.segments, b.labels} {
		args = append(args, tensors.FromFlatDataAndDimensions(x, t.rows, t.length))
	}
	return args
}

// weightArgs are the weights alone.
func (t *trainer) weightArgs() []any {
	var args []any
	for _, v := range t.values[:len(t.specs)] {
		args = append(args, v)
	}
	return args
}

// look reports the held-out loss and a few samples, and saves.
func (t *trainer) look() error {
	sum, count := 0.0, 0.0
	for _, b := range t.heldOut {
		out, err := t.loss.Call(append(t.weightArgs(), t.batchArgs(b)...)...)
		if err != nil {
			return err
		}
		sum += float64(tensors.ToScalar[float32](out[0]))
		count += float64(tensors.ToScalar[float32](out[1]))
	}
	held := sum / count
	fmt.Printf("step %d: held-out loss %.4f\n", t.done, held)
	if err := t.samples(); err != nil {
		return err
	}
	if held < t.best {
		t.best = held
		if err := t.saveModel(filepath.Join(t.out, "best")); err != nil {
			return err
		}
	}
	return t.saveState()
}

// host copies one group of values (0 weights, 1 and 2 moments) from the device.
func (t *trainer) host(group int) (map[string][]float32, error) {
	m := map[string][]float32{}
	for i, spec := range t.specs {
		v, err := tensors.CopyFlatData[float32](t.values[group*len(t.specs)+i])
		if err != nil {
			return nil, err
		}
		m[spec.Name] = v
	}
	return m, nil
}

func (t *trainer) saveModel(dir string) error {
	w, err := t.host(0)
	if err != nil {
		return err
	}
	return writeModel(dir, t.shape, t.cfg, w)
}

func (t *trainer) saveState() error {
	if t.state == "" {
		return nil
	}
	var groups [3]map[string][]float32
	for g := range groups {
		var err error
		if groups[g], err = t.host(g); err != nil {
			return err
		}
	}
	return writeState(t.state, t.done, t.specs, groups)
}
