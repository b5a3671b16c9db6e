package train

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// A StepResult is what one optimizer step found.
type StepResult struct {
	// Loss is the mean cross-entropy over the supervised tokens of all
	// micro-batches (not a mean of means), in nats.
	Loss float64

	// GradNorm is the gradient's global norm before clipping.
	GradNorm float64

	// Supervised and Tokens count the tokens the loss is over, and all but
	// padding.
	Supervised, Tokens int

	// Skipped says that the gradient was not finite in float16, so that the
	// weights stayed and the loss scale was lowered.
	Skipped bool

	// LossScale is the factor of the loss in float16; 0 where none is used.
	LossScale float64

	// Note says what the step had to change to be made at all; "" for nothing.
	Note string
}

// A Stepper owns the weights and the optimizer. The loop calls it from one
// goroutine.
type Stepper interface {
	// Step computes the gradient over the micro-batches and updates the weights
	// at the given rate.
	Step(micro []*batch.Batch, lr float64) (StepResult, error)

	// Evaluate sums the loss over a batch's supervised tokens, without dropout.
	Evaluate(b *batch.Batch) (lossSum float64, supervised int, err error)

	// State returns what, beside the adapter's weights, the next step depends
	// on: the optimizer's moments, counters of steps and random numbers, the
	// loss scale. Restore sets it from the same tensors in any order (they are
	// known by name); a Stepper with the same adapter then continues exactly.
	State() ([]safetensors.Tensor, error)
	Restore([]safetensors.Tensor) error
}

// Hooks connect the loop to the outside; each may be nil. They are called from
// Run's goroutine, between steps.
type Hooks struct {
	// Start is called once before the first step, resumed tells after how many.
	Start func(p *Plan, resumed int)

	// Before is called before each step with the number of steps done. It may
	// wait, until ctx ends at the latest, which pauses the run, and returns a new
	// peak learning rate that holds from this step on; 0 leaves it as it is.
	Before func(ctx context.Context, done int) (peak float64)

	// Step is called after each step, its logging, evaluation and saving.
	Step func(Record)

	// Evaluating is called after each batch of an evaluation.
	Evaluating func(done, total int)

	// Save stores a checkpoint and returns its name. Its error ends the run.
	Save func(Snapshot) (string, error)
}

// A Reason says why a run ended without an error.
type Reason string

// The reasons.
const (
	Finished    Reason = "finished"    // all steps done
	Interrupted Reason = "interrupted" // ctx was cancelled; the step was finished and saved
)

// A Result is the outcome of a run.
type Result struct {
	Reason Reason
	State  State
	Plan   *Plan
	Saved  string // the last checkpoint, "" for none
}

// Run trains: plan, steps, log, evaluations, checkpoints. resume, if not nil,
// continues after that snapshot (its tensors are given to st.Restore; the
// adapter's weights must be in st already).
//
// When ctx is cancelled the current step is finished, saved, and the result says
// Interrupted, with no error; an evaluation is broken off. A loss that is no
// number ends the run with a [*LossError] and without saving. On any error the
// result holds the state reached.
func Run(ctx context.Context, cfg Config, st Stepper, examples, eval []batch.Example, resume *Snapshot, h Hooks) (Result, error) {
	plan, err := NewPlan(cfg, examples, eval)
	if err != nil {
		return Result{}, err
	}
	return plan.Run(ctx, st, resume, h)
}

// Run is the package's Run for a plan that is made already.
func (p *Plan) Run(ctx context.Context, st Stepper, resume *Snapshot, h Hooks) (Result, error) {
	r := &runner{plan: p, st: st, hooks: h, state: State{Data: p.Data}, now: time.Now, schedule: p.schedule}
	return r.run(ctx, resume)
}

type runner struct {
	plan  *Plan
	st    Stepper
	hooks Hooks
	state State
	now   func() time.Time

	schedule Schedule // the plan's, or that of a rate set by hand

	saved     string // last checkpoint
	savedStep int
	skips     int // skipped steps in a row
	pace      pace
}

func (r *runner) run(ctx context.Context, resume *Snapshot) (Result, error) {
	result := func(why Reason) Result { return Result{Reason: why, State: r.state, Plan: r.plan, Saved: r.saved} }
	if err := r.resume(resume); err != nil {
		return result(""), err
	}
	if r.hooks.Start != nil {
		r.hooks.Start(r.plan, r.state.Step)
	}
	for r.state.Step < r.plan.Steps {
		if err := r.before(ctx); err != nil {
			return result(""), err
		}
		if ctx.Err() != nil {
			return result(Interrupted), r.saveUnsaved()
		}
		rec, err := r.step()
		if err == nil {
			err = r.afterStep(ctx, &rec)
		}
		if err != nil {
			return result(""), err
		}
		if r.hooks.Step != nil {
			r.hooks.Step(rec)
		}
	}
	return result(Finished), nil
}

func (r *runner) resume(s *Snapshot) error {
	if s == nil {
		return nil
	}
	if s.State.Data != r.plan.Data {
		return fmt.Errorf("train: the checkpoint of step %d was made with other data or another order (%s, now %s): give the same data set, MaxSeqLength, BatchSize, GradAccum, GroupByLength, Packing and Seed, or start anew with NoResume", s.State.Step, s.State.Data, r.plan.Data)
	}
	if s.State.Step < 0 || s.State.Skipped < 0 || s.State.Skipped > s.State.Step {
		return fmt.Errorf("train: the checkpoint says %d steps, %d of them skipped: it is damaged; use an older one", s.State.Step, s.State.Skipped)
	}
	if err := r.st.Restore(s.Tensors); err != nil {
		return fmt.Errorf("train: restoring the optimizer at step %d: %w", s.State.Step, err)
	}
	r.state, r.saved, r.savedStep = s.State, s.Name, s.State.Step
	r.state.History = append([]LogEntry(nil), s.State.History...)
	if s.State.LearningRate != 0 {
		return r.setRate(s.State.LearningRate)
	}
	return nil
}

// before lets the outside pause the run and set the rate.
func (r *runner) before(ctx context.Context) error {
	if r.hooks.Before == nil || ctx.Err() != nil {
		return nil
	}
	peak := r.hooks.Before(ctx, r.state.Step)
	if peak == 0 || peak == r.state.LearningRate {
		return nil
	}
	if r.state.Step > 0 {
		r.savedStep = -1 // a checkpoint of this step has the old rate
	}
	return r.setRate(peak)
}

func (r *runner) setRate(peak float64) (err error) {
	if r.schedule, err = r.plan.Schedule(peak); err != nil {
		return err
	}
	r.state.LearningRate = peak
	return nil
}

// step does one optimizer step and accounts for it.
func (r *runner) step() (Record, error) {
	s, start := &r.state, r.now()
	where := func() string { return fmt.Sprintf("step %d of %d", s.Step+1, r.plan.Steps) }
	micro, err := r.plan.micro(s.Step)
	if err != nil {
		return Record{}, fmt.Errorf("train: %s: %w", where(), err)
	}
	// A step that was skipped did not move the schedule, as in transformers.
	lr := r.schedule(s.Step - s.Skipped)
	res, err := r.st.Step(micro, lr)
	if err != nil {
		return Record{}, fmt.Errorf("train: %s: %w", where(), err)
	}
	finite := !math.IsNaN(res.Loss) && !math.IsInf(res.Loss, 0)
	if !finite && !res.Skipped {
		return Record{}, &LossError{Step: s.Step + 1, Loss: res.Loss, Epoch: r.plan.epochAfter(s.Step + 1), LR: lr, Saved: r.saved}
	}
	seconds := r.now().Sub(start).Seconds()
	s.Step++
	s.Seconds += seconds
	s.Tokens += int64(res.Tokens)
	if finite {
		s.LossSum, s.LossCount = s.LossSum+res.Loss, s.LossCount+1
		s.TotalLoss, s.TotalCount = s.TotalLoss+res.Loss, s.TotalCount+1
	}
	if err := r.countSkips(res); err != nil {
		return Record{}, err
	}
	r.pace.add(seconds, res.Tokens)
	return Record{
		Step: s.Step, Steps: r.plan.Steps, Epoch: r.plan.epochAfter(s.Step),
		Loss: res.Loss, LearningRate: lr, GradNorm: res.GradNorm, Tokens: res.Tokens, Supervised: res.Supervised,
		Skipped: res.Skipped, LossScale: res.LossScale, Note: res.Note,
		Seconds: s.Seconds, TokensPerSecond: r.pace.tokensPerSecond(), ETA: r.pace.secondsPerStep() * float64(r.plan.Steps-s.Step),
	}, nil
}

func (r *runner) countSkips(res StepResult) error {
	if !res.Skipped {
		r.skips = 0
		return nil
	}
	r.state.Skipped++
	if r.skips++; r.skips >= r.plan.Config.MaxSkipped {
		return fmt.Errorf("train: step %d: the gradient was not finite in %d steps in a row (loss %g, loss scale %g): compute in bfloat16 or float32, or lower LearningRate", r.state.Step, r.skips, res.Loss, res.LossScale)
	}
	return nil
}

// afterStep logs, evaluates and saves what is due, in this order.
func (r *runner) afterStep(ctx context.Context, rec *Record) error {
	s, c := &r.state, &r.plan.Config
	last := s.Step == r.plan.Steps
	due := func(every int) bool { return last || every > 0 && s.Step%every == 0 }
	if due(c.LogSteps) && s.LossCount > 0 {
		rec.Logged, rec.MeanLoss = true, s.LossSum/float64(s.LossCount)
		s.LossSum, s.LossCount = 0, 0
		r.log(rec, LogEntry{Step: s.Step, Epoch: rec.Epoch, Loss: rec.MeanLoss, GradNorm: rec.GradNorm, LearningRate: rec.LearningRate})
	}
	if due(c.EvalSteps) && len(r.plan.eval) > 0 {
		if err := r.evaluate(ctx, rec); err != nil {
			return err
		}
	}
	if due(c.SaveSteps) || ctx.Err() != nil {
		if err := r.saveUnsaved(); err != nil {
			return err
		}
		rec.Saved = r.saved
	}
	return nil
}

func (r *runner) log(rec *Record, e LogEntry) {
	r.state.History = append(r.state.History, e)
	rec.Entries = append(rec.Entries, e)
}

// evaluate takes the mean over all supervised tokens. It leaves quietly when
// ctx ends.
func (r *runner) evaluate(ctx context.Context, rec *Record) error {
	start := r.now()
	sum, n := 0.0, 0
	for i, rows := range r.plan.eval {
		if ctx.Err() != nil {
			return nil
		}
		b, err := r.plan.collator.Collate(rows, r.plan.Config.EvalBatchSize)
		if err != nil {
			return fmt.Errorf("train: evaluation batch %d: %w", i+1, err)
		}
		loss, k, err := r.st.Evaluate(b)
		if err != nil {
			return fmt.Errorf("train: evaluation after step %d, batch %d of %d: %w", r.state.Step, i+1, len(r.plan.eval), err)
		}
		sum, n = sum+loss, n+k
		if r.hooks.Evaluating != nil {
			r.hooks.Evaluating(i+1, len(r.plan.eval))
		}
	}
	if n == 0 {
		return fmt.Errorf("train: none of the %d evaluation rows has a token to predict: check the evaluation data set", r.plan.EvalExamples)
	}
	rec.Evaluated, rec.EvalLoss = true, sum/float64(n)
	r.log(rec, LogEntry{Step: r.state.Step, Epoch: rec.Epoch, Eval: true, Loss: rec.EvalLoss,
		Seconds: r.now().Sub(start).Seconds(), Rows: r.plan.EvalExamples, Batches: len(r.plan.eval)})
	return nil
}

// saveUnsaved saves unless the last checkpoint is of this very step.
func (r *runner) saveUnsaved() error {
	if r.hooks.Save == nil || r.state.Step == r.savedStep {
		return nil
	}
	tensors, err := r.st.State()
	if err != nil {
		return fmt.Errorf("train: reading the optimizer's state after step %d: %w", r.state.Step, err)
	}
	state := r.state
	state.History = append([]LogEntry(nil), r.state.History...)
	name, err := r.hooks.Save(Snapshot{State: state, Epoch: r.plan.epochAfter(state.Step), Steps: r.plan.Steps, Config: r.plan.Config, Tensors: tensors})
	if err != nil {
		return fmt.Errorf("train: saving after step %d: %w", r.state.Step, err)
	}
	r.saved, r.savedStep = name, r.state.Step
	return nil
}

// pace measures the last steps. The first step of a process compiles, so it is
// forgotten when the second comes.
type pace struct {
	seconds []float64
	tokens  []int
	first   bool
}

const paceWindow = 20

func (p *pace) add(seconds float64, tokens int) {
	switch {
	case !p.first && len(p.seconds) == 1:
		p.first, p.seconds, p.tokens = true, p.seconds[:0], p.tokens[:0]
	case len(p.seconds) == paceWindow:
		p.seconds, p.tokens = p.seconds[1:], p.tokens[1:]
	}
	p.seconds, p.tokens = append(p.seconds, seconds), append(p.tokens, tokens)
}

func (p *pace) total() (seconds float64, tokens int) {
	for i := range p.seconds {
		seconds, tokens = seconds+p.seconds[i], tokens+p.tokens[i]
	}
	return math.Max(seconds, 1e-9), tokens
}

func (p *pace) tokensPerSecond() float64 {
	s, n := p.total()
	return float64(n) / s
}

func (p *pace) secondsPerStep() float64 {
	s, _ := p.total()
	return s / float64(max(len(p.seconds), 1))
}
