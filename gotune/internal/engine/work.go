package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/ckpt"
	"github.com/gotune/gotune/gotune/internal/events"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/train"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// work is the run from its first byte to its last: load, tokenize, resume,
// train, save. It is the only writer of the output folder.
func (r *run) work(caller *call) {
	defer r.cancel()
	c := caller.detach(r.ctx, r.emit)
	r.engine.begin(c.job)
	c.about(r.config.Name)
	defer r.engine.end(c.job)
	w := &worker{run: r, call: c}
	state, err := w.guarded()
	r.end(state, err)
	w.close()
	close(r.done)
	r.update(func(*gotune.RunInfo) {})
	if err != nil {
		log.Printf("run %s: %v", quote(r.config.Name), err)
	}
}

// A worker holds what a run needs while it works.
type worker struct {
	*run
	*call
	model *model
	plan  *train.Plan
	board *events.TensorBoard
	rate  float64 // the peak that holds
}

// guarded is all with a panic turned into an error.
func (w *worker) guarded() (state string, err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Printf("run %s: panic: %v\n%s", quote(w.config.Name), p, debug.Stack())
			state, err = gotune.RunFailed, &gotune.Error{Kind: gotune.KindInternal, Found: fmt.Sprintf("panic: %v", p),
				Next: "please report it, with the engine's log; the last checkpoint is kept"}
		}
	}()
	return w.all()
}

func (w *worker) all() (string, error) {
	if err := w.open(); err != nil {
		return gotune.RunFailed, err
	}
	examples, eval, err := w.examples()
	if err != nil {
		return gotune.RunFailed, err
	}
	if w.plan, err = train.NewPlan(w.loopConfig(), examples, eval); err != nil {
		return gotune.RunFailed, err
	}
	snapshot, adapter, err := w.begin()
	if err != nil {
		return gotune.RunFailed, err
	}
	trainer, err := w.model.base.NewTrainer(adapter, w.options())
	if err != nil {
		return gotune.RunFailed, err
	}
	defer func() {
		w.mu.Lock()
		w.live = nil
		w.mu.Unlock()
		w.lent.Lock() // an answer under way ends first
		defer w.lent.Unlock()
		trainer.Free()
	}()
	w.mu.Lock()
	w.live = trainer
	w.mu.Unlock()
	w.started(adapter, snapshot)
	if w.config.FP8 != layerwise.FP8Off {
		w.note(fmt.Sprintf("products with the frozen model take 8-bit floats (FP8 %q), which changes the numbers of training; evaluation is without", w.config.FP8))
	}
	w.call.progress(wire.Progress{Task: "compile", Note: fmt.Sprintf("the programs for the largest step; those of %d lengths in all come with their first steps: %v", len(w.plan.Buckets), w.plan.Buckets)})
	if err := w.prove(trainer); err != nil {
		return gotune.RunFailed, err
	}
	result, err := w.plan.Run(w, trainer, snapshot, w.hooks(trainer))
	if a, e := trainer.Adapter(); e == nil {
		w.setAdapter(a)
	}
	w.finished(result)
	if err != nil {
		return gotune.RunFailed, err
	}
	if result.Reason == train.Interrupted {
		return gotune.RunStopped, nil
	}
	return gotune.RunDone, nil
}

func (w *worker) setAdapter(a *lora.Adapter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.adapter, w.live = a, nil
}

// open makes the output folder and its journal and notes the run in the index.
func (w *worker) open() (err error) {
	t := w.config
	if t.NoResume {
		if err := w.startOver(); err != nil {
			return err
		}
	}
	if err := makeFolder(t.OutputDir, "OutputDir"); err != nil {
		return err
	}
	journal, err := events.OpenJournal(journalPath(t.OutputDir))
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.journal = journal
	w.mu.Unlock()
	t.NoResume = false
	if err := w.journal.Append(events.KindConfig, t); err != nil {
		return err
	}
	return w.engine().remember(t)
}

func (w *worker) engine() *Engine { return w.run.engine }

// startOver removes what an earlier run of this name left.
func (w *worker) startOver() error {
	if err := ckpt.RemoveAfter(w.config.OutputDir, -1); err != nil {
		return err
	}
	for _, d := range []string{filepath.Join(w.config.OutputDir, "runs"), journalPath(w.config.OutputDir)} {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	return nil
}

// examples loads model and data and turns the rows into tokens.
func (w *worker) examples() (rows, eval []batch.Example, err error) {
	if w.model, _, err = w.call.model(w.config.Model); err != nil {
		return nil, nil, err
	}
	set, err := w.tokenize(w.config.Dataset)
	if err != nil {
		return nil, nil, err
	}
	if set.Clipped > 0 {
		w.note(fmt.Sprintf("%d of %d rows are longer than MaxSeqLength %d (the longest has %d tokens) and are cut", set.Clipped, set.Rows, w.maxLength(), set.Longest))
	}
	if w.config.Parity {
		w.note("Parity: as in the original, no EOS is learned and each text has two BOS")
	}
	rows = set.Examples
	if w.config.Packing {
		if rows, _, err = batch.Pack(rows, batch.PackOptions{Length: w.maxLength()}); err != nil {
			return nil, nil, err
		}
		w.note(fmt.Sprintf("%d rows packed into %d of up to %d tokens", set.Rows, len(rows), w.maxLength()))
	}
	if w.config.Eval != (gotune.Dataset{}) {
		set, err := w.tokenize(w.config.Eval)
		if err != nil {
			return nil, nil, err
		}
		eval = set.Examples
	}
	return rows, eval, nil
}

func (w *worker) tokenize(d gotune.Dataset) (*batch.Set, error) {
	rows, _, err := w.call.dataset(d)
	if err != nil {
		return nil, err
	}
	if err := rows.rows.CheckText(); err != nil {
		return nil, datasetError(d, err)
	}
	set, err := batch.Tokenize(w, rows.rows.Texts(), w.model.tok, batch.Options{MaxSeqLength: w.maxLength(), Parity: w.config.Parity}, w.tokenizing)
	if err != nil {
		e := *asGotune(wire.VerbRunTrain, err)
		e.Object = fmt.Sprintf("data set %q", d.Name)
		return nil, &e
	}
	return set, nil
}

// maxLength is what a row is cut to.
func (w *worker) maxLength() int {
	return min(w.config.MaxSeqLength, w.model.files.Config.MaxPositions)
}

func (w *worker) note(text string) {
	w.update(func(i *gotune.RunInfo) { i.Notes = appendNew(i.Notes, text) })
	w.call.log(text)
}

func (w *worker) loopConfig() train.Config {
	t := w.config
	pad := w.model.files.Config.Pad
	if id, ok := w.model.tok.Pad(); ok {
		pad = int(id)
	} else if id, ok := w.model.tok.EOS(); ok {
		pad = int(id)
	}
	return train.Config{Epochs: t.Epochs, MaxSteps: t.MaxSteps, BatchSize: t.BatchSize, EvalBatchSize: t.EvalBatchSize, GradAccum: t.GradAccum,
		LearningRate: t.LearningRate, Schedule: t.LRScheduler, WarmupSteps: t.WarmupSteps, WarmupRatio: t.WarmupRatio,
		GroupByLength: t.GroupByLength, LogSteps: t.LogSteps, EvalSteps: t.EvalSteps, SaveSteps: max(t.SaveSteps, 0), Seed: t.Seed, Pad: int32(max(pad, 0)),
		Buckets: batch.BucketOptions{Price: w.model.bucketPrice}}
}

// compileSeconds is about what the programs of one more length of batches cost on a GPU:
// 1.5 s beside an H200, more on a machine of few cores.
const compileSeconds = 3

// bucketPrice is what compileSeconds are in tokens of training on a GPU: six operations for
// each weight and token. 0 without a GPU.
func bucketPrice(gpu *cuda.Device, parameters int64) int {
	if gpu == nil || parameters == 0 {
		return 0
	}
	return max(1, int(compileSeconds*gpu.ProductRate()/(6*float64(parameters))))
}

func (w *worker) options() layerwise.TrainOptions {
	t := w.config
	longest := w.plan.Buckets[len(w.plan.Buckets)-1]
	memory, kept, chunk := memoryPolicy(t.GradientCheckpointing, w.model.files.Config, t.BatchSize, longest, w.model.elementSize(), w.model.deviceFree())
	attention := keepAttention(t.GradientCheckpointing, w.model.files.Config, t.BatchSize, longest, w.model.elementSize(), cuda.Host().AvailableBytes)
	return layerwise.TrainOptions{KeepAttention: attention, Dropout: t.LoRA.Dropout, Seed: t.Seed, MaxGradNorm: max(t.MaxGradNorm, 0), WeightDecay: t.WeightDecay, Optim: t.Optim, FP8: t.FP8, Memory: memory, Kept: kept, Chunk: chunk}
}

// begin returns the last checkpoint and its adapter, or nil and a new adapter.
func (w *worker) begin() (*train.Snapshot, *lora.Adapter, error) {
	t := w.config
	if !t.NoResume {
		latest, damaged, err := ckpt.Latest(t.OutputDir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		for _, d := range damaged {
			w.note("a damaged checkpoint is left alone: " + firstLine(d.Error()))
		}
		if latest != nil {
			w.note(fmt.Sprintf("goes on from %s", filepath.Base(latest.Dir)))
			return &latest.Snapshot, latest.Adapter, ckpt.RemoveAfter(t.OutputDir, latest.Snapshot.State.Step)
		}
	}
	if err := ckpt.RemoveAfter(t.OutputDir, -1); err != nil {
		return nil, nil, err
	}
	a, err := lora.New(w.loraConfig(), w.model.files.Config, t.Seed)
	if err != nil {
		return nil, nil, err
	}
	if t.LoRA.DoRA {
		err = a.InitMagnitude(w.model.weight)
	}
	return nil, a, err
}

// loraConfig is the adapter's. Its base is named so that PEFT finds it: by its
// Hub id, else by its folder.
func (w *worker) loraConfig() lora.Config {
	l, base := w.config.LoRA, w.config.Model.Source
	if base == embedded {
		base = w.model.info.Path
	}
	return lora.Config{R: l.Rank, Alpha: l.Alpha, Dropout: l.Dropout, TargetModules: l.Targets, UseRSLoRA: l.RSLoRA, UseDoRA: l.DoRA, BaseModel: base}
}

// started shows what is known before the first step.
func (w *worker) started(a *lora.Adapter, s *train.Snapshot) {
	w.update(func(i *gotune.RunInfo) {
		i.TotalSteps, i.TrainableParams, i.Params = w.plan.Steps, a.Parameters(), w.model.files.Config.Parameters()
		if s != nil {
			i.ResumedFrom, i.Step, i.Tokens = s.State.Step, s.State.Step, s.State.Tokens
			for len(w.records) > 0 && w.records[len(w.records)-1].Step > s.State.Step {
				w.records = w.records[:len(w.records)-1]
			}
		} else {
			w.records = nil
		}
	})
	w.settle(s)
	if !w.config.NoTensorBoard {
		w.openBoard(s)
	}
}

// openBoard opens the TensorBoard file. That failing does not end a run.
func (w *worker) openBoard(s *train.Snapshot) {
	host, _ := os.Hostname() // part of the folder's name only
	dir := events.RunDir(w.config.OutputDir, time.Now(), host)
	if s != nil {
		// TensorBoard joins the files of one folder: a run that goes on keeps its own.
		if old, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*")); err == nil && len(old) > 0 {
			dir = old[len(old)-1]
		}
	}
	board, err := events.CreateTensorBoard(dir)
	if err == nil && s != nil {
		err = board.Resume(int64(s.State.Step))
	}
	if err != nil {
		w.note("no TensorBoard files: " + err.Error())
		return
	}
	w.board = board
	w.update(func(i *gotune.RunInfo) { i.TensorBoardDir = filepath.Dir(board.Path()) })
}

func (w *worker) hooks(t *layerwise.Trainer) train.Hooks {
	return train.Hooks{
		Before: w.between,
		Step:   w.step,
		Save:   func(s train.Snapshot) (string, error) { return w.save(t, s) },
		Evaluating: func(done, total int) {
			w.call.progress(wire.Progress{Task: "evaluate", Done: int64(done), Total: int64(total), Unit: "batches"})
		},
	}
}

// step records a step: in memory, in the journal, in TensorBoard.
func (w *worker) step(rec train.Record) {
	if rec.Note != "" {
		w.note(fmt.Sprintf("step %d: %s", rec.Step, rec.Note))
	}
	s := gotune.StepRecord{Step: rec.Step, TotalSteps: rec.Steps, Epoch: rec.Epoch, Loss: rec.Loss, LearningRate: rec.LearningRate, GradNorm: rec.GradNorm,
		Tokens: rec.Tokens, Supervised: rec.Supervised, Seconds: rec.Seconds, TokensPerSecond: rec.TokensPerSecond, ETA: rec.ETA,
		Skipped: rec.Skipped, LossScale: rec.LossScale, Logged: rec.Logged, MeanLoss: rec.MeanLoss, Evaluated: rec.Evaluated, EvalLoss: rec.EvalLoss, Saved: rec.Saved}
	if !s.Logged {
		s.MeanLoss = math.NaN()
	}
	if !s.Evaluated {
		s.EvalLoss = math.NaN()
	}
	w.update(func(i *gotune.RunInfo) {
		w.records = append(w.records, s)
		i.Step, i.Epoch, i.Loss, i.Seconds = s.Step, s.Epoch, s.Loss, s.Seconds
		i.Tokens += int64(s.Tokens)
		if s.Seconds > 0 {
			i.TokensPerSecond = float64(i.Tokens) / s.Seconds
		}
		if s.Evaluated {
			i.EvalLoss = s.EvalLoss
		}
		i.PeakBytes = max(i.PeakBytes, w.model.base.Bytes())
	})
	w.call.job.mu.Lock()
	w.call.job.progress = wire.Progress{Task: "train", Done: int64(s.Step), Total: int64(s.TotalSteps), Unit: "steps"}
	w.call.job.mu.Unlock()
	if err := w.journal.Append(events.KindStep, s); err != nil {
		w.note("the journal misses a step: " + err.Error())
	}
	if w.board != nil {
		for _, e := range rec.Entries {
			if err := w.board.Log(e); err != nil {
				w.note("TensorBoard files stop here: " + err.Error())
				_ = w.board.Close()
				w.board = nil
				break
			}
		}
	}
}

// save writes a checkpoint; the journal is on disk before it counts.
func (w *worker) save(t *layerwise.Trainer, s train.Snapshot) (string, error) {
	a, err := t.Adapter()
	if err != nil {
		return "", err
	}
	if err := w.journal.Sync(); err != nil {
		return "", err
	}
	dir, err := ckpt.Save(w.config.OutputDir, a, s, ckpt.Options{Limit: w.config.SaveTotalLimit})
	if err != nil {
		return "", err
	}
	entries, err := ckpt.List(w.config.OutputDir)
	w.update(func(i *gotune.RunInfo) {
		i.Checkpoints = nil
		for _, e := range entries {
			i.Checkpoints = append(i.Checkpoints, e.Dir)
		}
	})
	return dir, err
}

// finished sums up.
func (w *worker) finished(res train.Result) {
	peak := w.model.peak()
	w.update(func(i *gotune.RunInfo) {
		i.PeakBytes = max(i.PeakBytes, peak)
		if n := res.State.TotalCount; n > 0 {
			i.MeanLoss = res.State.MeanLoss()
		}
		i.Seconds, i.Tokens = res.State.Seconds, res.State.Tokens
	})
}

// close ends the files. The last state line says how the run ended.
func (w *worker) close() {
	w.mu.Lock()
	journal := w.journal
	w.journal = nil
	w.mu.Unlock()
	if journal != nil {
		if err := errors.Join(journal.Append(events.KindState, w.stateLine()), journal.Close()); err != nil {
			w.note(err.Error())
		}
	}
	if w.board != nil {
		if err := w.board.Close(); err != nil {
			w.note("TensorBoard file: " + err.Error())
		}
	}
}
