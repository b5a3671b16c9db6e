package train

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// TestSchedulesOracle holds every schedule against transformers.get_scheduler:
// relative tolerance 1e-12.
func TestSchedulesOracle(t *testing.T) {
	var golden struct {
		Schedules []struct {
			Name   string    `json:"name"`
			LR     float64   `json:"base_lr"`
			Warmup int       `json:"warmup_steps"`
			Total  int       `json:"total_steps"`
			Args   Args      `json:"kwargs"`
			Want   []float64 `json:"lr"`
		} `json:"schedules"`
	}
	oracle.JSON(t, &golden, "optim", "schedulers.json")
	if len(golden.Schedules) == 0 {
		t.Fatal("schedulers.json holds no schedules")
	}
	for _, g := range golden.Schedules {
		s, err := NewSchedule(g.Name, g.LR, g.Warmup, g.Total, g.Args)
		if err != nil {
			t.Errorf("%s: %v", g.Name, err)
			continue
		}
		for i, want := range g.Want {
			// Rates that are 0 but for rounding are compared on the base rate's scale.
			if got := s(i); math.Abs(got-want) > 1e-12*math.Max(math.Abs(want), 1e-4*g.LR) {
				t.Errorf("%s %v, warm-up %d: step %d has rate %.17g, want %.17g", g.Name, g.Args, g.Warmup, i, got, want)
				break
			}
		}
	}
}

// TestSchedulesByHand covers what the golden file lacks, from the formulas of
// transformers/optimization.py.
func TestSchedulesByHand(t *testing.T) {
	for _, tt := range []struct {
		name   string
		warmup int
		args   Args
		step   int
		want   float64 // for a rate of 1 and 100 steps
	}{
		{"cosine_with_min_lr", 0, Args{"min_lr_rate": 0.1}, 100, 0.1},
		{"cosine_with_min_lr", 0, Args{"min_lr_rate": 0.1}, 50, 0.55},
		{"cosine_warmup_with_min_lr", 10, Args{"min_lr": 0.2}, 0, 0.1},
		{"cosine_warmup_with_min_lr", 10, Args{"min_lr": 0.2}, 99, 0.2},
		{"cosine_warmup_with_min_lr", 11, Args{"min_lr": 0.2, "warmup_lr_rate": 0.5}, 0, 0.5},
		{"cosine_warmup_with_min_lr", 11, Args{"min_lr": 0.2, "warmup_lr_rate": 0.5}, 10, 1},
		{"warmup_stable_decay", 10, Args{"num_decay_steps": 20, "decay_type": "1-sqrt"}, 85, 0.5},
		{"warmup_stable_decay", 10, Args{"num_decay_steps": 20, "decay_type": "linear", "min_lr_ratio": 0.1}, 90, 0.55},
		{"warmup_stable_decay", 10, Args{"num_decay_steps": 20, "warmup_type": "1-sqrt"}, 0, 0},
		{"warmup_stable_decay", 4, Args{"num_decay_steps": 20, "warmup_type": "1-sqrt"}, 3, 0.5},
		{"warmup_stable_decay", 10, Args{"num_decay_steps": 20, "warmup_type": "cosine"}, 5, 0.5},
		{"warmup_stable_decay", 0, Args{"num_decay_steps": 20, "num_stable_steps": 10, "min_lr_ratio": 0.3}, 40, 0.3},
		{"inverse_sqrt", 0, Args{"timescale": 10}, 30, 0.5},
		{"polynomial", 100, nil, 100, 1e-7},
	} {
		s, err := NewSchedule(tt.name, 1, tt.warmup, 100, tt.args)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := s(tt.step); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("%s %v, warm-up %d: step %d has rate %.15g, want %g", tt.name, tt.args, tt.warmup, tt.step, got, tt.want)
		}
	}
}

func TestScheduleErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		lr   float64
		args Args
		want string
	}{
		{"exponential", 1, nil, "cosine_with_restarts"},
		{"constant", math.NaN(), nil, "finite rate"},
		{"cosine", 1, Args{"power": 2}, `no argument "power"`},
		{"constant", 1, Args{"power": 2}, "wanted none"},
		{"cosine", 1, Args{"num_cycles": "two"}, "wanted a number"},
		{"polynomial", 1e-8, nil, "lr_end"},
		{"cosine_with_min_lr", 1, nil, "min_lr or min_lr_rate must be set"},
		{"cosine_with_min_lr", 1, Args{"min_lr": 0.1, "min_lr_rate": 0.1}, "both"},
		{"warmup_stable_decay", 1, nil, "num_decay_steps must be set"},
		{"warmup_stable_decay", 1, Args{"num_decay_steps": 3, "decay_type": "square"}, "wanted linear, cosine or 1-sqrt"},
		{"inverse_sqrt", 1, Args{"timescale": 0}, "timescale"},
	} {
		if _, err := NewSchedule(tt.name, tt.lr, 0, 10, tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %v: error %v, want one with %q", tt.name, tt.args, err, tt.want)
		}
	}
}

func ExampleNewSchedule() {
	s, err := NewSchedule("cosine", 2e-4, 3, 100, nil)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%.2e %.2e %.2e %.2e\n", s(0), s(3), s(51), s(99))
	// Output: 0.00e+00 2.00e-04 1.02e-04 5.24e-08
}
