package train

import (
	"fmt"
	"math"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// A State is where a run stands, apart from its weights. The position in the
// data and the learning rate follow from Step; sums are kept so that the first
// log line after a resumption equals that of an unbroken run.
type State struct {
	Step    int // steps done
	Skipped int // of those, steps that changed nothing

	// LossSum over LossCount steps is the loss since the last line of the log,
	// TotalLoss over TotalCount since the beginning. Skipped steps whose loss is
	// not finite are left out.
	LossSum    float64
	LossCount  int
	TotalLoss  float64
	TotalCount int

	Tokens  int64   // trained on, padding not counted
	Seconds float64 // spent in the loop

	// LearningRate is the peak rate that was set while the run trained; 0: it is
	// the Config's.
	LearningRate float64 `json:",omitempty"`

	// Data is the plan's; a run continues on the same data only.
	Data string

	// History holds the lines of the log. It is kept apart from the other
	// fields in a checkpoint, as trainer_state.json's log_history.
	History []LogEntry `json:"-"`
}

// MeanLoss is the mean over all steps, transformers' train_loss; NaN before the
// first.
func (s *State) MeanLoss() float64 { return s.TotalLoss / float64(s.TotalCount) }

// A Snapshot is a run between two steps: what a checkpoint holds beside the
// adapter.
type Snapshot struct {
	State State

	// Epoch and Steps (of the whole run) are for the reader's information.
	Epoch float64
	Steps int

	// Config is the run's, defaults filled in.
	Config Config

	// Name is the checkpoint's, once it has one.
	Name string `json:",omitempty"`

	// Tensors is the Stepper's state.
	Tensors []safetensors.Tensor `json:"-"`
}

// A LogEntry is one line of the log: of training or of an evaluation.
type LogEntry struct {
	Step  int
	Epoch float64

	// Eval tells an evaluation from a training line.
	Eval bool

	// Loss is the mean of the steps since the last line, or the evaluation's.
	Loss float64

	// GradNorm and LearningRate are the last step's (training only).
	GradNorm, LearningRate float64

	// Seconds, Rows and Batches are of an evaluation only.
	Seconds       float64
	Rows, Batches int
}

// A Value is a number under the name transformers.Trainer logs it by.
type Value struct {
	Name  string
	Value float64
}

// Values lists the entry as transformers.Trainer would log it, without step:
// "loss", "grad_norm", "learning_rate", "epoch", or "eval_loss", "eval_runtime",
// "eval_samples_per_second", "eval_steps_per_second", "epoch".
func (e LogEntry) Values() []Value {
	if !e.Eval {
		return []Value{{"loss", e.Loss}, {"grad_norm", e.GradNorm}, {"learning_rate", e.LearningRate}, {"epoch", e.Epoch}}
	}
	seconds := math.Max(e.Seconds, 1e-9)
	return []Value{{"eval_loss", e.Loss}, {"eval_runtime", e.Seconds}, {"eval_samples_per_second", float64(e.Rows) / seconds},
		{"eval_steps_per_second", float64(e.Batches) / seconds}, {"epoch", e.Epoch}}
}

// A Record is one step as a front end shows it.
type Record struct {
	Step         int     // from 1
	Steps        int     // of the whole run
	Epoch        float64 // passes done after the step
	Loss         float64 // mean over the supervised tokens of the step, in nats
	LearningRate float64 // used in the step
	GradNorm     float64 // before clipping
	Tokens       int     // padding not counted
	Supervised   int     // tokens the loss is over
	Skipped      bool    // nothing was changed: the gradient was not finite
	LossScale    float64 // of float16 training; 0: none
	Note         string  // what had to be changed for it; "" for nothing

	Seconds         float64 // since the run began, earlier parts of a resumed one included
	TokensPerSecond float64 // over the last steps, compilation left out
	ETA             float64 // seconds left, at that speed

	Logged    bool    // MeanLoss is set
	MeanLoss  float64 // mean Loss since the last line of the log
	Evaluated bool    // EvalLoss is set
	EvalLoss  float64 // mean over the supervised tokens of the evaluation examples
	Saved     string  // the checkpoint's name as Hooks.Save gave it; "" for none

	// Entries are the log's new lines.
	Entries []LogEntry
}

// A LossError ends a run whose loss is no number. Nothing is saved: the last
// checkpoint is from before.
type LossError struct {
	Step  int // from 1
	Loss  float64
	Epoch float64
	LR    float64 // used in the step
	Saved string  // the last checkpoint, "" for none
}

// Error says what was found and what to try.
func (e *LossError) Error() string {
	kept := "there is no checkpoint yet"
	if e.Saved != "" {
		kept = "the last checkpoint, " + e.Saved + ", is kept"
	}
	return fmt.Sprintf("train: step %d (epoch %.2f): the loss is %v, wanted a finite number; %s: lower LearningRate (now %g), add warm-up, or compute in bfloat16 or float32", e.Step, e.Epoch, e.Loss, kept, e.LR)
}
