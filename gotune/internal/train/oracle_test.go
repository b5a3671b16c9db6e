package train

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// TestTrajectoryRates plans each of the golden training runs and holds warm-up
// and the rate of every step against transformers.Trainer: 1e-12 relative.
func TestTrajectoryRates(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(oracle.Dir(t, "lora"), "*", "trajectory.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no trajectories: %v", err)
	}
	for _, f := range files {
		run := filepath.Base(filepath.Dir(f))
		var golden struct {
			Steps  int `json:"steps"`
			Warmup int `json:"warmup_steps"`
			Hyper  struct {
				LR       float64 `json:"lr"`
				Batch    int     `json:"batch"`
				Accum    int     `json:"accum"`
				Schedule string  `json:"sched"`
				Ratio    float64 `json:"warmup_ratio"`
			} `json:"hyper"`
			Trainer struct {
				Rates []float64 `json:"learning_rate"`
			} `json:"trainer"`
		}
		oracle.JSON(t, &golden, "lora", run, "trajectory.json")
		h := golden.Hyper
		examples := corpus(golden.Steps*h.Batch*h.Accum, 1)
		plan, err := NewPlan(Config{BatchSize: h.Batch, GradAccum: h.Accum, LearningRate: h.LR, Schedule: h.Schedule, WarmupRatio: h.Ratio,
			Buckets: batch.BucketOptions{Most: 1}}, examples, nil)
		if err != nil {
			t.Fatal(err)
		}
		if plan.Steps != golden.Steps || plan.Warmup != golden.Warmup || len(golden.Trainer.Rates) != golden.Steps {
			t.Errorf("%s: %d steps, %d of warm-up; want %d, %d (%d rates)", run, plan.Steps, plan.Warmup, golden.Steps, golden.Warmup, len(golden.Trainer.Rates))
			continue
		}
		for i, want := range golden.Trainer.Rates {
			if got := plan.LearningRate(i); math.Abs(got-want) > 1e-12*want {
				t.Errorf("%s: step %d has rate %.17g, want %.17g", run, i, got, want)
			}
		}
	}
}
