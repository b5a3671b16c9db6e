package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/notebooks"
)

// trainCommand measures the walkthrough's training steps on the CPU beside
// transformers + PEFT, in turns.
func trainCommand(ctx context.Context, args []string) error {
	var python, script string
	var steps, rounds int
	if err := flags("train", args, func(f *flag.FlagSet) {
		f.StringVar(&python, "peer-python", "python3", "Python with torch, transformers and peft")
		f.StringVar(&script, "peer", "scripts/python/bench_peer.py", "the peer's program")
		f.IntVar(&steps, "steps", 8, "batches of a pass, evenly from the epoch; 0: all")
		f.IntVar(&rounds, "rounds", 5, "passes of each side")
	}); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gotune-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, err := notebooks.Unpack(dir)
	if err != nil {
		return err
	}
	all, err := walkthroughBatches(ctx, filepath.Join(root, notebooks.ModelDir), filepath.Join(root, notebooks.DatasetDir))
	if err != nil {
		return err
	}
	t := &trainBench{ctx: ctx, batches: sampled(all, steps)}
	file, plain := filepath.Join(dir, "batches.json"), filepath.Join(dir, "dequantized")
	if err := dump(file, t.batches); err != nil {
		return err
	}
	if err := os.Mkdir(plain, 0o755); err != nil {
		return err
	}
	if err := writeDequantized(filepath.Join(root, notebooks.ModelDir), plain); err != nil {
		return err
	}
	if t.peer, err = startPeer(ctx, python, script, plain, file); err != nil {
		return err
	}
	defer t.peer.end()
	free, err := t.open(filepath.Join(root, notebooks.ModelDir))
	if err != nil {
		return err
	}
	defer free()
	return t.run(rounds)
}

// trainBench is both sides and what they took.
type trainBench struct {
	ctx         context.Context
	batches     []*batch.Batch
	trainer     *layerwise.Trainer
	peer        *peer
	ours        []usage
	theirs      []usage
	single      []usage // theirs on one thread
	unpadded    []usage // theirs, padded to each batch's longest row only
	loss, peer0 float64 // of the first batch, before any update
}

// open loads the model as the walkthrough does.
func (t *trainBench) open(dir string) (free func(), err error) {
	be, err := backend.Open(backend.CPU)
	if err != nil {
		return nil, err
	}
	ck, err := model.Open(dir)
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	base, err := layerwise.Load(t.ctx, be, ck, layerwise.LoadOptions{Quant: layerwise.QuantNF4}, nil)
	if err != nil {
		return nil, err
	}
	a, err := lora.New(lora.Config{R: 64, Alpha: 16, TargetModules: []string{"q_proj", "v_proj"}}, base.Config(), 42)
	if err != nil {
		return nil, err
	}
	t.trainer, err = base.NewTrainer(a, layerwise.TrainOptions{Dropout: 0.1, Seed: 42, MaxGradNorm: 0.3, WeightDecay: 0.001, Optim: "paged_adamw_32bit"})
	return func() { t.trainer.Free(); base.Free() }, err
}

// pass trains on every batch once.
func (t *trainBench) pass() error {
	for i, b := range t.batches {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		r, err := t.trainer.Step([]*batch.Batch{b}, 2e-4)
		if err != nil {
			return err
		}
		if i == 0 && t.loss == 0 {
			t.loss = r.Loss
		}
	}
	return nil
}

func (t *trainBench) run(rounds int) error {
	tokens, padded, lengths := 0, 0, map[int]int{}
	for _, b := range t.batches {
		tokens += b.Tokens()
		padded += b.B * b.S
		lengths[b.S]++
	}
	fmt.Printf("train: %d batches of the epoch (padded length: how many: %v), %d tokens, %d with padding; load %s\n", len(t.batches), lengths, tokens, padded, load())
	// The warm-up: gotune compiles a program for each length, the peer picks the
	// faster of its attentions.
	warm, err := measured(t.pass)
	if err != nil {
		return err
	}
	a, err := t.peer.ask("warm")
	if err != nil {
		return err
	}
	t.peer0 = a.Loss
	fmt.Printf("  peer: %s\n  warm-up with compilation %.1f s; loss of the first batch %.5f, peer %.5f\n", a.Name, warm.wall.Seconds(), t.loss, t.peer0)
	if d := t.loss - t.peer0; d > 2e-3 || d < -2e-3 {
		return fmt.Errorf("train: the losses differ by %g: the two sides do not compute the same", d)
	}
	for i := range rounds {
		if err := t.round(i%2 == 1); err != nil {
			return err
		}
	}
	t.report(tokens)
	return nil
}

// round lets each side pass once, in turns the other way round.
func (t *trainBench) round(peerFirst bool) error {
	us := func() error {
		u, err := measured(t.pass)
		t.ours = append(t.ours, u)
		return err
	}
	them := func() error {
		for _, q := range []struct {
			request string
			times   *[]usage
		}{{"pass", &t.theirs}, {"pass single", &t.single}, {"pass unpadded", &t.unpadded}} {
			u, _, err := t.peer.usage(q.request)
			if err != nil {
				return err
			}
			*q.times = append(*q.times, u)
		}
		return nil
	}
	if peerFirst {
		us, them = them, us
	}
	if err := us(); err != nil {
		return err
	}
	return them()
}

// report prints the rows. The clock's ratio is the goal's; where other programs
// want the cores, the peer's threads wait for one another and its rate falls by
// far more than its work grows, so the work itself is compared, too: the least
// core-seconds of a pass, the peer on one thread, where nobody waits.
func (t *trainBench) report(tokens int) {
	seconds := func(u []usage) (s []float64) {
		for _, x := range u {
			s = append(s, x.wall.Seconds())
		}
		return s
	}
	ratios := func(theirs []usage) (r []float64) {
		for i, s := range seconds(theirs) {
			r = append(r, s/t.ours[i].wall.Seconds())
		}
		return r
	}
	rate := func(u []usage) string { return fmt.Sprintf("%.0f tokens/s", float64(tokens)/median(seconds(u))) }
	row("training on the CPU, same batches", rate(t.ours), "transformers+PEFT "+rate(t.theirs), spread(ratios(t.theirs)), "≥ 1.00×", median(ratios(t.theirs)) >= 1)
	row("  peer pads to its longest row", rate(t.ours), "transformers+PEFT "+rate(t.unpadded), spread(ratios(t.unpadded)), "", true)
	work := func(u []usage) float64 {
		s := math.Inf(1)
		for _, x := range u {
			s = min(s, x.cpu.Seconds())
		}
		return s
	}
	perCore := func(u []usage) string { return fmt.Sprintf("%.0f tokens/core-s", float64(tokens)/work(u)) }
	row("  least core-seconds, peer on one thread", perCore(t.ours), "transformers+PEFT "+perCore(t.single), fmt.Sprintf("%.3f×", work(t.single)/work(t.ours)), "≥ 1.00×", work(t.single) >= work(t.ours))
}
