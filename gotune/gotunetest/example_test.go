package gotunetest_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/gotunetest"
)

// sweep is what a user might test: it trains with two rates and keeps the better.
func sweep(base gotune.Trainer) (best string, err error) {
	low := 0.0
	for name, rate := range map[string]float64{"slow": 1e-4, "fast": 1e-3} {
		t := base
		t.Name, t.LearningRate = name, rate
		info, err := t.Train()
		if err != nil {
			return "", err
		}
		if best == "" || info.Loss < low {
			best, low = info.Name, info.Loss
		}
	}
	return best, nil
}

func TestUserCode(t *testing.T) {
	var out strings.Builder
	gotune.SetOutput(&out)
	defer gotune.SetOutput(os.Stdout)
	e := gotunetest.Start(t)
	e.Handle("run.train", gotunetest.Run(3, 2.5, 2))
	base := gotune.Trainer{Model: gotune.Model{Source: "embedded"}, Dataset: gotune.Dataset{Source: "embedded"}}
	if _, err := sweep(base); err != nil {
		t.Fatal(err)
	}
	rates := map[float64]bool{}
	for _, r := range e.Requests() {
		var args struct{ Trainer gotune.Trainer }
		if err := r.Decode(&args); err != nil {
			t.Fatal(err)
		}
		rates[args.Trainer.LearningRate] = true
	}
	if !rates[1e-4] || !rates[1e-3] {
		t.Errorf("trained with the rates %v", rates)
	}
	if !strings.Contains(out.String(), "3.0000 → 2.0000") {
		t.Errorf("the output does not have the losses:\n%s", out.String())
	}
}

func TestUnscriptedVerb(t *testing.T) {
	gotunetest.Start(t)
	_, err := gotune.Free()
	if !errors.Is(err, gotune.ErrNotFound) || !strings.Contains(err.Error(), "script it") {
		t.Errorf("Free() = %v", err)
	}
}
