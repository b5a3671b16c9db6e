package gotune

import (
	"encoding/json"
	"math"
)

// RunInfo is the state and the record of a run.
type RunInfo struct {
	_ struct{}

	Name            string       // the run's
	State           string       // RunRunning, RunPaused, RunDone, RunStopped or RunFailed
	Trainer         Trainer      // the config it runs by, with its defaults filled in
	OutputDir       string       // absolute
	Step            int          // optimizer steps done
	TotalSteps      int          // steps that make it complete
	Epoch           float64      // passes through the data done
	ResumedFrom     int          // step of the checkpoint it went on from; 0: began new
	Loss            float64      // of the last step; NaN: none yet
	MeanLoss        float64      // over all steps, what transformers calls train_loss; NaN: none yet
	EvalLoss        float64      // of the last evaluation; NaN: none yet
	Seconds         float64      // training took, without loading and compiling
	Tokens          int64        // trained on, padding not counted
	TokensPerSecond float64      // over the run
	TrainableParams int64        // of the adapter
	Params          int64        // of the model
	PeakBytes       int64        // most device memory held
	Fit             string       // why it fits into the memory, e.g. "9.8 of 14.6 GiB at B=4×S=1024"
	Checkpoints     []string     // folders, oldest first
	TensorBoardDir  string       // where the event files are, "" for none
	Records         []StepRecord // one a step
	Controls        []Control    // what was done to it while it was under way
	Notes           []string     // what the user should know, e.g. that a bug of the original is repeated
	Error           *Error       // why it failed
}

// States of a run.
const (
	RunRunning = "running" // it has the engine
	RunPaused  = "paused"  // by [Trainer.Pause]; its memory stays, the device is free for other verbs
	RunDone    = "done"    // all steps done
	RunStopped = "stopped" // by an interrupt or [Trainer.Stop]; Train goes on with it
	RunFailed  = "failed"  // Error says why; Train tries again
)

// StepRecord is one optimizer step of a run. Losses may be NaN or infinite.
type StepRecord struct {
	_ struct{}

	Step            int     // from 1
	TotalSteps      int     // steps that make the run complete
	Epoch           float64 // passes through the data done after the step
	Loss            float64 // mean cross-entropy over the supervised tokens of the step's batches, in nats
	LearningRate    float64 // used in the step
	GradNorm        float64 // length of the gradient before clipping
	Tokens          int     // in the step's batches, padding not counted
	Supervised      int     // tokens the loss is over
	Seconds         float64 // since the run began
	TokensPerSecond float64 // over the last steps
	ETA             float64 // seconds left
	Skipped         bool    // nothing was changed, since the gradient was not finite in float16
	LossScale       float64 // factor of the loss in float16; 0: not scaled
	Logged          bool    // MeanLoss is set: a line of the log
	MeanLoss        float64 // mean Loss since the last line of the log
	Evaluated       bool    // EvalLoss is set
	EvalLoss        float64 // loss on the Eval data set after the step
	Saved           string  // the checkpoint written after the step, "" for none
}

// nullable is a float whose NaN and infinities survive JSON: null, "inf", "-inf".
type nullable float64

func (n nullable) MarshalJSON() ([]byte, error) {
	f := float64(n)
	switch {
	case math.IsNaN(f):
		return []byte("null"), nil
	case math.IsInf(f, 1):
		return []byte(`"inf"`), nil
	case math.IsInf(f, -1):
		return []byte(`"-inf"`), nil
	}
	return json.Marshal(f)
}

func (n *nullable) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "null":
		*n = nullable(math.NaN())
	case `"inf"`:
		*n = nullable(math.Inf(1))
	case `"-inf"`:
		*n = nullable(math.Inf(-1))
	default:
		return json.Unmarshal(b, (*float64)(n))
	}
	return nil
}

type plainStep StepRecord

type stepJSON struct {
	*plainStep
	Loss, GradNorm, MeanLoss, EvalLoss nullable
}

// MarshalJSON writes numbers that are not finite as null, "inf" and "-inf".
func (r StepRecord) MarshalJSON() ([]byte, error) {
	p := plainStep(r)
	return json.Marshal(stepJSON{&p, nullable(r.Loss), nullable(r.GradNorm), nullable(r.MeanLoss), nullable(r.EvalLoss)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *StepRecord) UnmarshalJSON(b []byte) error {
	v := stepJSON{plainStep: (*plainStep)(r)}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	r.Loss, r.GradNorm, r.MeanLoss, r.EvalLoss = float64(v.Loss), float64(v.GradNorm), float64(v.MeanLoss), float64(v.EvalLoss)
	return nil
}

type plainRun RunInfo

type runJSON struct {
	*plainRun
	Loss, MeanLoss, EvalLoss nullable
}

// MarshalJSON writes numbers that are not finite as null, "inf" and "-inf".
func (r RunInfo) MarshalJSON() ([]byte, error) {
	p := plainRun(r)
	return json.Marshal(runJSON{&p, nullable(r.Loss), nullable(r.MeanLoss), nullable(r.EvalLoss)})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *RunInfo) UnmarshalJSON(b []byte) error {
	v := runJSON{plainRun: (*plainRun)(r)}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	r.Loss, r.MeanLoss, r.EvalLoss = float64(v.Loss), float64(v.MeanLoss), float64(v.EvalLoss)
	return nil
}
