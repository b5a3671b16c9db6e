package gotune

import (
	"math"
	"path/filepath"
	"reflect"
)

// A Trainer is a fine-tuning run: its configuration, the record stored with it,
// and the handle for it. It is a literal: [Trainer.Train] does the work, once;
// training a finished run again shows its record, and an interrupted one goes on
// from its last checkpoint.
//
// The fields have the names, meanings and defaults of the usual training
// arguments (learning_rate is LearningRate) where there are any.
type Trainer struct {
	_ struct{}

	// Name is the run's identity, as for [Dataset]. A literal with nothing but a
	// Name attaches to a run that exists.
	Name string

	// Model is what to fine-tune; its weights stay frozen.
	Model Model

	// Dataset is what to train on.
	Dataset Dataset

	// Eval is what to measure the loss on while training. Zero: nothing.
	Eval Dataset

	// LoRA is the adapter to train.
	LoRA LoRA

	// OutputDir gets the checkpoints, the record of the run and its TensorBoard
	// files (runs/). Default "results/" and the name.
	OutputDir string

	// Epochs is how often to go through the data. Default 1; fractions work.
	Epochs float64

	// MaxSteps ends the run after that many optimizer steps, whatever Epochs
	// says. 0 and -1: Epochs decides.
	MaxSteps int

	// BatchSize is the number of examples a step takes from the data at a time.
	// Default 4.
	BatchSize int

	// EvalBatchSize is the same for evaluation. Default 4.
	EvalBatchSize int

	// GradAccum is the number of batches whose gradients are added up for one
	// step. Default 1.
	GradAccum int

	// GradientCheckpointing says what each layer keeps for the backward pass: "save"
	// (or "off") its results, fast; "recompute" (or "on") its input, and it is computed
	// again; "offload" its input in the host's memory, the leanest. "auto", the
	// default, takes the fastest that fits into the memory, for each layer.
	GradientCheckpointing string

	// FP8 has the frozen model's matrix products of a training step in 8-bit floats (e4m3,
	// one scale for each tensor), for GPUs of compute capability 8.9 and newer (L4, RTX
	// 4090, H100): "forward" those of the forward pass, "both" the gradients' too. It is
	// faster and changes the numbers: gradients differ by some percent from those in 16
	// bits. Where layers keep their results and there is room it takes a byte of memory
	// for each of those weights more, and with "recompute" and "offload" none. Adapters,
	// evaluation and generation stay as they are. Default: no.
	FP8 string

	// MaxGradNorm is the length the gradient is clipped to. Default 0.3; -1: no
	// clipping.
	MaxGradNorm float64

	// LearningRate is the step size of the optimizer at the schedule's top.
	// Default 2e-4.
	LearningRate float64

	// WeightDecay is AdamW's decoupled decay of the adapter's weights. Default 0.
	WeightDecay float64

	// Optim is the optimizer: "paged_adamw_32bit" (the default), "adamw_torch",
	// "paged_adamw_8bit", "adamw_8bit" or "sgd".
	Optim string

	// LRScheduler is the schedule of the learning rate, by its transformers
	// name: "constant" (the default), "constant_with_warmup", "linear",
	// "cosine", "cosine_with_restarts", "cosine_with_min_lr", "polynomial",
	// "inverse_sqrt", "warmup_stable_decay".
	LRScheduler string

	// WarmupRatio is the share of all steps in which the rate rises from 0.
	// "constant" has no warm-up, whatever this says.
	WarmupRatio float64

	// WarmupSteps is the same as a number; it wins over WarmupRatio.
	WarmupSteps int

	// GroupByLength puts examples of about the same length in a batch, which
	// saves padding and gives the loss curve its saw-teeth.
	GroupByLength bool

	// Packing puts several short examples in one row of MaxSeqLength tokens.
	// They do not see each other.
	Packing bool

	// Parity repeats the original walkthrough bug for bug, to compare with its
	// numbers: the pad token is EOS and masks every EOS in the labels (the model
	// never learns to stop), and each text gets a second BOS. Otherwise labels
	// come from lengths, there is one BOS, and data in which no EOS is
	// supervised is refused.
	Parity bool

	// SaveSteps is the number of steps between checkpoints. Default 25; -1: only
	// at the end.
	SaveSteps int

	// LogSteps is the number of steps between two lines of the log, whose loss is
	// the mean over them. Default 25. The charts have every step.
	LogSteps int

	// EvalSteps is the number of steps between evaluations. Default 0: at each
	// end of an epoch.
	EvalSteps int

	// SaveTotalLimit is the number of checkpoints to keep, the newest ones.
	// Default 0: all.
	SaveTotalLimit int

	// MaxSeqLength is the number of tokens an example is cut to. Default 1024, or
	// what the model can take if that is less.
	MaxSeqLength int

	// Seed starts every random choice: the adapter's weights, the order of the
	// rows, dropout. Default 42. A run with the same seed gives the same numbers.
	Seed int64

	// NoTensorBoard leaves out the TensorBoard files.
	NoTensorBoard bool

	// NoResume starts over instead of going on from the last checkpoint in
	// OutputDir. The checkpoints there are then replaced.
	NoResume bool
}

// Names that Optim and LRScheduler may have.
var (
	optimizers = []string{"paged_adamw_32bit", "adamw_torch", "paged_adamw_8bit", "adamw_8bit", "sgd"}
	schedulers = []string{"constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts",
		"cosine_with_min_lr", "polynomial", "inverse_sqrt", "warmup_stable_decay"}
)

// Bare says whether the literal has nothing but a Name, and so stands for a run
// that exists.
func (t Trainer) Bare() bool { return reflect.DeepEqual(t, Trainer{Name: t.Name}) }

// Resolved returns t with its defaults filled in, those of its Model, Dataset,
// Eval and LoRA too. The error names the first field that can't be right, what
// it holds and what it should hold. A bare literal comes back unchanged.
func (t Trainer) Resolved() (Trainer, error) {
	c := checker{where: "Trainer"}
	c.name("Name", t.Name)
	if t.Bare() {
		return t, c.result()
	}
	t.fillDefaults()
	t.checkNumbers(&c)
	c.oneOf("GradientCheckpointing", t.GradientCheckpointing, "auto", "save", "recompute", "offload", "off", "on")
	c.oneOf("FP8", t.FP8, "", "forward", "both")
	c.oneOf("Optim", t.Optim, optimizers...)
	c.oneOf("LRScheduler", t.LRScheduler, schedulers...)
	if t.Packing && t.GroupByLength {
		c.fail("GroupByLength", true, "false with Packing, since packed rows have one length", "remove one of the two")
	}
	if t.Packing && t.Parity {
		c.fail("Packing", true, "false with Parity, which repeats a run without packing", "remove one of the two")
	}
	var err error
	t.Model, err = t.Model.Resolved()
	c.merge(err)
	t.Dataset, err = t.Dataset.Resolved()
	c.merge(err)
	if t.Eval != (Dataset{}) {
		t.Eval, err = t.Eval.Resolved()
		if err != nil {
			e := *AsError("check", err)
			e.Object = "Eval as " + e.Object
			err = &e
		}
		c.merge(err)
	} else if t.EvalSteps != 0 {
		c.fail("EvalSteps", t.EvalSteps, "0, since there is no Eval data set", "give Eval a data set, or remove EvalSteps")
	}
	t.LoRA, err = t.LoRA.Resolved()
	c.merge(err)
	return t, c.result()
}

func (t *Trainer) fillDefaults() {
	defaulted(&t.OutputDir, filepath.Join("results", fileName(t.Name)))
	defaulted(&t.Epochs, 1)
	if t.MaxSteps == -1 {
		t.MaxSteps = 0
	}
	defaulted(&t.BatchSize, 4)
	defaulted(&t.EvalBatchSize, 4)
	defaulted(&t.GradAccum, 1)
	defaulted(&t.GradientCheckpointing, "auto")
	defaulted(&t.MaxGradNorm, 0.3)
	defaulted(&t.LearningRate, 2e-4)
	defaulted(&t.Optim, optimizers[0])
	defaulted(&t.LRScheduler, schedulers[0])
	defaulted(&t.SaveSteps, 25)
	defaulted(&t.LogSteps, 25)
	defaulted(&t.MaxSeqLength, 1024)
	defaulted(&t.Seed, 42)
}

func (t *Trainer) checkNumbers(c *checker) {
	if !(t.Epochs > 0) || math.IsInf(t.Epochs, 0) {
		c.fail("Epochs", t.Epochs, "a positive number", "")
	}
	if !(t.LearningRate > 0 && t.LearningRate < 1) {
		c.fail("LearningRate", t.LearningRate, "a number above 0 and below 1, e.g. 2e-4", "")
	}
	if !(t.MaxGradNorm > 0 || t.MaxGradNorm == -1) {
		c.fail("MaxGradNorm", t.MaxGradNorm, "a positive number, or -1 for no clipping", "")
	}
	if t.SaveSteps < -1 {
		c.fail("SaveSteps", t.SaveSteps, "a positive number, or -1 for the end only", "")
	}
	c.inRange("WeightDecay", t.WeightDecay, 0, 1)
	c.inRange("WarmupRatio", t.WarmupRatio, 0, 1)
	for _, f := range []struct {
		name       string
		value, low int
	}{
		{"MaxSteps", t.MaxSteps, 0}, {"BatchSize", t.BatchSize, 1}, {"EvalBatchSize", t.EvalBatchSize, 1},
		{"GradAccum", t.GradAccum, 1}, {"WarmupSteps", t.WarmupSteps, 0}, {"LogSteps", t.LogSteps, 1},
		{"EvalSteps", t.EvalSteps, 0}, {"SaveTotalLimit", t.SaveTotalLimit, 0}, {"MaxSeqLength", t.MaxSeqLength, 8},
	} {
		c.atLeast(f.name, f.value, f.low)
	}
}

// fileName makes a file's name of any name: other than letters, digits, '.',
// '_' and '-' become '-'.
func fileName(name string) string {
	b := []byte(name)
	for i, r := range b {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '_' || r == '-') {
			b[i] = '-'
		}
	}
	if len(b) > 0 && b[0] == '.' {
		b[0] = '-'
	}
	return string(b)
}
