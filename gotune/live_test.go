package gotune_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/gotunetest"
)

// While a run evaluates, the engine tells the progress of that: it is a line in
// the live block, and takes neither the chart's place nor the block's height.
func TestProgressBesideChart(t *testing.T) {
	e := gotunetest.Start(t)
	g := gotune.NewFakeGoNB(t)
	gotune.UseNotebook(t, g)
	e.Handle("run.train", func(_ context.Context, _ gotunetest.Request, s *gotunetest.Stream) (any, error) {
		pause := func() { time.Sleep(300 * time.Millisecond) } // an update of the page
		pause()
		if err := s.Progress("compile", 1, 2, "graphs"); err != nil {
			return nil, err
		}
		for i := 1; i <= 4; i++ {
			pause()
			if err := errors.Join(s.Step(gotune.StepRecord{Step: i, TotalSteps: 4, Loss: 1, Evaluated: i == 2, EvalLoss: 1.5}), s.Progress("evaluate", int64(i), 10, "rows")); err != nil {
				return nil, err
			}
			pause()
			if err := s.Progress("evaluate", int64(i)+1, 10, "rows"); err != nil {
				return nil, err
			}
		}
		return gotune.RunInfo{Name: "run1", State: gotune.RunDone, Step: 4, TotalSteps: 4}, nil
	})
	if _, err := run.Train(); err != nil {
		t.Fatal(err)
	}
	var live []string
	for _, d := range g.Displays() {
		if html, _ := d.Data["text/html"].(string); strings.Contains(html, "Page reloaded?") {
			live = append(live, html)
		}
	}
	if len(live) < 6 {
		t.Fatalf("%d live updates, want one for each pause", len(live))
	}
	charted, evaluating := false, false
	for i, html := range live {
		if !strings.Contains(html, "min-height:590px") {
			t.Errorf("update %d of %d has no height of its own: %.200s", i, len(live), html)
		}
		has := strings.Contains(html, "<svg")
		if charted && !has {
			t.Errorf("update %d of %d has lost the chart: %.200s", i, len(live), html)
		}
		charted = charted || has
		evaluating = evaluating || has && strings.Contains(html, " of 10 rows")
		checkBalanced(t, html)
	}
	if !charted || !evaluating {
		t.Errorf("a chart came: %v, with the evaluation below: %v", charted, evaluating)
	}
	if last := live[len(live)-1]; !strings.Contains(last, ">evaluation</th>") || !strings.Contains(last, ">1.5000</td>") {
		t.Errorf("the table lacks the evaluation: %.600s", last)
	}
}

// The log of a long run is thinned, but keeps its evaluations.
func TestFinalLogKeepsEvaluations(t *testing.T) {
	e := gotunetest.Start(t)
	info := gotune.RunInfo{Name: "run1", State: gotune.RunDone, Step: 400, TotalSteps: 400}
	for step := 1; step <= 400; step++ {
		r := gotune.StepRecord{Step: step, TotalSteps: 400, Loss: 1, Logged: step%10 == 0, MeanLoss: 1}
		if step%130 == 0 {
			r.Evaluated, r.EvalLoss = true, 2+float64(step)/1000
		}
		info.Records = append(info.Records, r)
	}
	e.Reply("run.record", info)
	g := gotune.NewFakeGoNB(t)
	gotune.UseNotebook(t, g)
	if _, err := (gotune.Trainer{Name: "run1"}).Show(); err != nil {
		t.Fatal(err)
	}
	shown := g.Final()[0]
	for _, want := range []string{"2.1300", "2.2600", "2.3900"} {
		if !strings.Contains(shown.Data["text/html"].(string), ">"+want+"</td>") || !strings.Contains(shown.Data["text/plain"].(string), "eval loss "+want) {
			t.Errorf("the log lacks the evaluation %s", want)
		}
	}
	if n := strings.Count(shown.Data["text/plain"].(string), "/400 "); n < 10 || n > 15 {
		t.Errorf("%d lines of the log, want about 12", n)
	}
}
