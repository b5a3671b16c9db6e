package train

import (
	"errors"
	"fmt"
	"math"

	"github.com/gotune/gotune/gotune/internal/batch"
)

// Config is what the loop needs to know. Numbers that are 0 take their default.
type Config struct {
	// Epochs is the number of passes over the examples, fractions allowed.
	// Default 1. Not looked at if MaxSteps is positive.
	Epochs float64

	// MaxSteps is the number of steps, over as many epochs as they need. 0 or
	// less: Epochs decides.
	MaxSteps int

	// BatchSize is the rows of a micro-batch. Default 4.
	BatchSize int

	// EvalBatchSize is the rows of a batch of evaluation. Default BatchSize.
	EvalBatchSize int

	// GradAccum is the micro-batches of a step. Default 1.
	GradAccum int

	// LearningRate is the peak rate. 0 trains nothing, which is allowed.
	LearningRate float64

	// Schedule names the learning-rate schedule, see [NewSchedule]. Default
	// "constant".
	Schedule string

	// ScheduleArgs are the schedule's lr_scheduler_kwargs.
	ScheduleArgs Args

	// WarmupSteps is the length of the warm-up. If 0, it is
	// ceil(WarmupRatio·steps).
	WarmupSteps int
	WarmupRatio float64

	// GroupByLength puts rows of similar length into one batch, see
	// [batch.LengthGrouped].
	GroupByLength bool

	// LogSteps, EvalSteps and SaveSteps are the distances between lines of the
	// log, evaluations and checkpoints. 0: only after the last step.
	LogSteps, EvalSteps, SaveSteps int

	// Seed fixes the order of the examples.
	Seed int64

	// Pad is the id written on padding.
	Pad int32

	// Buckets bounds the lengths of batches, see [batch.Buckets]. Its Price is in tokens
	// of the whole run.
	Buckets batch.BucketOptions

	// MaxSkipped ends the run with an error after so many skipped steps in a
	// row. Default 20.
	MaxSkipped int
}

// resolve fills defaults and checks ranges.
func (c Config) resolve() (Config, error) {
	fill := func(p *int, def int) {
		if *p == 0 {
			*p = def
		}
	}
	if c.Epochs == 0 {
		c.Epochs = 1
	}
	fill(&c.BatchSize, 4)
	fill(&c.EvalBatchSize, c.BatchSize)
	fill(&c.GradAccum, 1)
	fill(&c.MaxSkipped, 20)
	if c.Schedule == "" {
		c.Schedule = "constant"
	}
	var errs []error
	bad := func(wrong bool, field string, got any, want string) {
		if wrong {
			errs = append(errs, fmt.Errorf("train: %s is %v, wanted %s", field, got, want))
		}
	}
	bad(!(c.Epochs > 0) || math.IsInf(c.Epochs, 0), "Epochs", c.Epochs, "a positive number")
	bad(c.BatchSize < 1, "BatchSize", c.BatchSize, "at least 1")
	bad(c.EvalBatchSize < 1, "EvalBatchSize", c.EvalBatchSize, "at least 1")
	bad(c.GradAccum < 1, "GradAccum", c.GradAccum, "at least 1")
	bad(!(c.LearningRate >= 0) || math.IsInf(c.LearningRate, 0), "LearningRate", c.LearningRate, "a finite number, not negative")
	bad(c.WarmupSteps < 0, "WarmupSteps", c.WarmupSteps, "0 or more")
	bad(!(c.WarmupRatio >= 0 && c.WarmupRatio <= 1), "WarmupRatio", c.WarmupRatio, "a number from 0 to 1")
	bad(c.LogSteps < 0, "LogSteps", c.LogSteps, "0 (at the end only) or more")
	bad(c.EvalSteps < 0, "EvalSteps", c.EvalSteps, "0 (at the end only) or more")
	bad(c.SaveSteps < 0, "SaveSteps", c.SaveSteps, "0 (at the end only) or more")
	bad(c.MaxSkipped < 0, "MaxSkipped", c.MaxSkipped, "at least 1")
	return c, errors.Join(errs...)
}
