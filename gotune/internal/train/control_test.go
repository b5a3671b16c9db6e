package train

import (
	"context"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// atSteps is a Before hook that sets rates after so many steps.
func atSteps(rates map[int]float64) func(context.Context, int) float64 {
	return func(_ context.Context, done int) float64 { return rates[done] }
}

// TestSetRate: the new peak holds from the next step on, on the schedule's
// shape, and nothing else changes.
func TestSetRate(t *testing.T) {
	for _, name := range []string{"constant", "cosine", "linear", "polynomial", "inverse_sqrt"} {
		cfg := config
		cfg.Schedule = name
		plain, s := newBigram(12), newBigram(12)
		if _, err := Run(context.Background(), cfg, plain, corpus(41, 1), nil, nil, Hooks{}); err != nil {
			t.Fatal(err)
		}
		res, err := Run(context.Background(), cfg, s, corpus(41, 1), nil, nil, Hooks{Before: atSteps(map[int]float64{7: 0.1, 12: 1})})
		if err != nil {
			t.Fatal(err)
		}
		want := slices.Clone(plain.rates)
		for peak, steps := range map[float64][]float64{0.1: want[7:12], 1: want[12:]} {
			f, err := res.Plan.Schedule(peak)
			if err != nil {
				t.Fatal(err)
			}
			first := 7
			if peak == 1 {
				first = 12
			}
			for i := range steps {
				steps[i] = f(first + i)
			}
		}
		if !slices.Equal(s.rates, want) {
			t.Errorf("%s: rates\n%v, want\n%v", name, s.rates, want)
		}
		if name == "cosine" && math.Abs(s.rates[7]*5-plain.rates[7]) > 1e-12 {
			t.Errorf("rate %g at a peak of 0.1, and %g at one of 0.5", s.rates[7], plain.rates[7])
		}
		if res.State.LearningRate != 1 {
			t.Errorf("%s: the state has the peak %g, want 1", name, res.State.LearningRate)
		}
	}
}

// TestResumeKeepsRate breaks a run whose rate is set twice, at every checkpoint
// and by an interrupt after every step: the rest equals the unbroken run's, bit
// for bit, whether the change came before the checkpoint or comes after it.
func TestResumeKeepsRate(t *testing.T) {
	before := atSteps(map[int]float64{5: 0.05, 12: 0.8})
	examples := corpus(41, 1)
	whole, all := newBigram(12), &recorder{}
	h := all.hooks(whole)
	h.Before = before
	if _, err := Run(context.Background(), config, whole, examples, nil, nil, h); err != nil {
		t.Fatal(err)
	}
	for stop := 1; stop < 21; stop++ {
		ctx, cancel := context.WithCancel(context.Background())
		s, rec := newBigram(12), &recorder{at: map[int]func(){stop: cancel}}
		h := rec.hooks(s)
		h.Before = before
		if _, err := Run(ctx, config, s, examples, nil, nil, h); err != nil {
			t.Fatal(err)
		}
		for _, k := range rec.saves {
			at := k.snapshot.State.Step
			next, rec2 := newBigram(12), &recorder{}
			copy(next.w, k.weights)
			h := rec2.hooks(next)
			h.Before = before
			if _, err := Run(context.Background(), config, next, examples, nil, &k.snapshot, h); err != nil {
				t.Fatal(err)
			}
			if got, want := timeless(rec2.records), timeless(all.records[at:]); !reflect.DeepEqual(got, want) {
				t.Fatalf("stop at %d, resumed at %d: %+v\nwant %+v", stop, at, got[0], want[0])
			}
			if !slices.Equal(next.w, whole.w) {
				t.Errorf("stop at %d, resumed at %d: weights differ from the unbroken run's", stop, at)
			}
		}
	}
}

// TestPause: a hook that waits holds the run between two steps; ctx ends the
// wait, and a rate set meanwhile is in the checkpoint that the stop writes, even
// if one of that step was there.
func TestPause(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s, rec := newBigram(12), &recorder{}
	h := rec.hooks(s)
	held := 0
	h.Before = func(ctx context.Context, done int) float64 {
		if done != 6 {
			return 0
		}
		held++
		if len(s.rates) != 6 {
			t.Errorf("%d steps when held after 6", len(s.rates))
		}
		cancel()
		<-ctx.Done()
		return 0.125
	}
	res, err := Run(ctx, config, s, corpus(41, 1), nil, nil, h)
	if err != nil || res.Reason != Interrupted || res.State.Step != 6 || held != 1 {
		t.Fatalf("%s at step %d, held %d times, %v", res.Reason, res.State.Step, held, err)
	}
	var saved []string
	for _, k := range rec.saves {
		saved = append(saved, fmt.Sprint(k.snapshot.State.Step, " ", k.snapshot.State.LearningRate))
	}
	if want := []string{"6 0", "6 0.125"}; !slices.Equal(saved, want) {
		t.Errorf("saved %q, want %q", saved, want)
	}
}

func TestImpossibleRate(t *testing.T) {
	cfg := config
	cfg.Schedule, cfg.ScheduleArgs = "polynomial", Args{"lr_end": 0.01}
	for _, peak := range []float64{0.001, -1, math.NaN(), math.Inf(1)} {
		s := newBigram(12)
		_, err := Run(context.Background(), cfg, s, corpus(41, 1), nil, nil, Hooks{Before: atSteps(map[int]float64{3: peak})})
		if err == nil || !strings.Contains(err.Error(), "polynomial") || len(s.rates) != 3 {
			t.Errorf("peak %g: %v after %d steps", peak, err, len(s.rates))
		}
	}
}
