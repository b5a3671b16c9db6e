package engine

import (
	"math"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune"
)

// A run whose layers' inputs and optimizer states go to the host's memory has the
// losses of one that keeps everything, checkpoints and all, and says so in its record.
func TestOffloadedRun(t *testing.T) {
	startEngine(t)
	var want []gotune.StepRecord
	for _, setting := range []string{"save", "offload", "recompute"} {
		run := testRun(setting)
		run.GradientCheckpointing = setting
		r, err := run.Train()
		if err != nil || r.State != gotune.RunDone || len(r.Records) != 6 || len(r.Checkpoints) != 3 {
			t.Fatalf("%s: %+v, %v", setting, r, err)
		}
		if want == nil {
			want = r.Records
		}
		for i, rec := range r.Records {
			if math.Abs(rec.Loss-want[i].Loss) > 1e-4 || math.Abs(rec.GradNorm-want[i].GradNorm) > 1e-3 {
				t.Errorf("%s: step %d has loss %v and norm %v, want %v and %v", setting, i+1, rec.Loss, rec.GradNorm, want[i].Loss, want[i].GradNorm)
			}
		}
		said := map[string]string{"save": "keep their residuals", "offload": "in the host's memory", "recompute": "computed again"}[setting]
		if !strings.Contains(r.Fit, said) {
			t.Errorf("%s: the record says %q", setting, r.Fit)
		}
	}
}
