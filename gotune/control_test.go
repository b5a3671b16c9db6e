package gotune_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/gotunetest"
)

// controlled is what was done to the scripted run.
func controlled() []gotune.Control {
	at := func(minute int) time.Time { return time.Date(2026, 1, 2, 15, minute, 5, 0, time.Local) }
	return []gotune.Control{
		{Time: at(0), Step: 0, What: gotune.ControlPause},
		{Time: at(1), Step: 0, What: gotune.ControlResume, Seconds: 60},
		{Time: at(4), Step: 12, What: gotune.ControlPause},
		{Time: at(4), Step: 12, What: gotune.ControlRate, Old: 2e-4, New: 1e-3},
		{Time: at(5), Step: 12, What: gotune.ControlSample, Prompt: "What is\na slice?", Text: "A <b>view</b> \x1b[2J", Note: "adapter off"},
		{Time: at(9), Step: 12, What: gotune.ControlResume, Seconds: 305},
		{Time: at(12), Step: 20, What: gotune.ControlStop, Note: "interrupted from a cell"},
	}
}

// controlledRun is a run of 20 steps with those controls.
func controlledRun() gotune.RunInfo {
	info := gotune.RunInfo{Name: "run1", State: gotune.RunStopped, OutputDir: "/nb/results/run1", Step: 20, TotalSteps: 40, Loss: 1.5, MeanLoss: math.NaN(),
		EvalLoss: math.NaN(), Seconds: 20, Controls: controlled()}
	for i := range 20 {
		r := gotune.StepRecord{Step: i + 1, TotalSteps: 40, Loss: 2 - float64(i)/40, LearningRate: 2e-4, GradNorm: 0.3, TokensPerSecond: 1000, ETA: float64(39 - i), Seconds: float64(i + 1)}
		if r.Step > 12 {
			r.LearningRate = 1e-3
		}
		if r.Step%5 == 0 {
			r.Logged, r.MeanLoss = true, r.Loss
		}
		info.Records = append(info.Records, r)
	}
	return info
}

// followed sends the run as the engine does: steps and controls in their order.
func followed(_ context.Context, _ gotunetest.Request, s *gotunetest.Stream) (any, error) {
	info := controlledRun()
	controls := info.Controls
	for _, r := range info.Records {
		for len(controls) > 0 && controls[0].Step < r.Step {
			if err := s.Control(controls[0]); err != nil {
				return nil, err
			}
			controls = controls[1:]
		}
		if err := s.Step(r); err != nil {
			return nil, err
		}
	}
	for _, c := range controls {
		if err := s.Control(c); err != nil {
			return nil, err
		}
	}
	info.Records, info.Controls = nil, nil
	return info, nil
}

// scriptControls makes an engine answer the verbs that control a run.
func scriptControls(t *testing.T) *gotunetest.Engine {
	e := gotunetest.Start(t)
	e.Handle("run.attach", followed)
	e.Reply("run.record", controlledRun())
	after := func(n int, state string) gotune.RunInfo {
		return gotune.RunInfo{Name: "run1", State: state, Step: controlled()[n-1].Step, TotalSteps: 40, Controls: controlled()[:n]}
	}
	e.Reply("run.pause", after(3, gotune.RunPaused))
	e.Reply("run.setlr", after(4, gotune.RunPaused))
	e.Reply("run.resume", after(6, gotune.RunRunning))
	e.Handle("run.sample", gotunetest.Text("A <b>view</b>", " of an array."))
	return e
}

func everyControl() error {
	bare := gotune.Trainer{Name: "run1"}
	var errs []error
	add := func(_ any, err error) { errs = append(errs, err) }
	add(bare.Pause())
	add(bare.SetLearningRate(1e-3))
	add(bare.Sample("What is a slice?", gotune.Sampling{}))
	add(bare.Resume())
	add(bare.Attach())
	add(bare.Show())
	add(nil, gotune.Plot(gotune.PlotOptions{}, bare))
	return errors.Join(errs...)
}

func TestControlText(t *testing.T) {
	e := scriptControls(t)
	var out bytes.Buffer
	gotune.UseText(t, &out)
	if err := everyControl(); err != nil {
		t.Fatal(err)
	}
	golden(t, "controls.txt", out.String())
	var verbs []string
	for _, r := range e.Requests() {
		verbs = append(verbs, r.Verb)
		if r.Verb == "run.setlr" {
			var args struct {
				Name         string
				LearningRate float64
			}
			if err := r.Decode(&args); err != nil || args.Name != "run1" || args.LearningRate != 1e-3 {
				t.Errorf("run.setlr was asked for %+v, %v", args, err)
			}
		}
	}
	if want := "[run.pause run.setlr run.sample run.resume run.attach run.record run.record]"; fmt.Sprint(verbs) != want {
		t.Errorf("asked %v, want %s", verbs, want)
	}
}

// The chart has a dashed line with a label at each step where something was
// done, and tells it under the mouse; the table has a column for it.
func TestControlNotebook(t *testing.T) {
	scriptControls(t)
	g := gotune.NewFakeGoNB(t)
	gotune.UseNotebook(t, g)
	if err := everyControl(); err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	for _, d := range g.Final() {
		fmt.Fprintf(&page, "%s\n", d.Data["text/html"])
	}
	lookAt(t, "controls.html", page.String())
	checkBalanced(t, page.String())
	pictures := regexp.MustCompile(`base64,([^"]+)">`).FindAllStringSubmatch(page.String(), -1)
	if len(pictures) != 3 {
		t.Fatalf("%d pictures, want those of Attach, Show and Plot", len(pictures))
	}
	for _, p := range pictures {
		svg, err := base64.StdEncoding.DecodeString(p[1])
		if err != nil {
			t.Fatal(err)
		}
		checkSVG(t, string(svg), true)
		if n := strings.Count(string(svg), "stroke-dasharray"); n != 3 {
			t.Errorf("%d marks, want 3: before step 1, after 12 and 20", n)
		}
		for _, s := range []string{"paused, rate 1.00e-03, sample</text>", ">stopped</text>", "<title>after step 12: paused\nafter step 12: learning rate 2.00e-04 → 1.00e-03\n", "&lt;b&gt;view"} {
			if !strings.Contains(string(svg), s) {
				t.Errorf("the chart lacks %q", s)
			}
		}
	}
	for _, s := range []string{">by hand</th>", ">paused, rate 1.00e-03, sample</td>", ">paused</td>", "after step 20: stopped (interrupted from a cell), 15:12:05"} {
		if !strings.Contains(page.String(), s) {
			t.Errorf("the page lacks %q", s)
		}
	}
}

// The live block of a paused run says so, and one that goes back to a checkpoint
// forgets what came after it.
func TestControlLive(t *testing.T) {
	e := gotunetest.Start(t)
	g := gotune.NewFakeGoNB(t)
	gotune.UseNotebook(t, g)
	info := controlledRun()
	e.Handle("run.attach", func(ctx context.Context, q gotunetest.Request, s *gotunetest.Stream) (any, error) {
		for i, r := range info.Records {
			if err := s.Step(r); err != nil {
				return nil, err
			}
			if i+1 == 12 {
				if err := errors.Join(s.Control(info.Controls[2]), s.Control(info.Controls[3])); err != nil {
					return nil, err
				}
				time.Sleep(600 * time.Millisecond) // two updates of the page
			}
		}
		if err := s.Step(info.Records[9]); err != nil { // back to the checkpoint of step 9
			return nil, err
		}
		return gotune.RunInfo{Name: "run1", State: gotune.RunStopped, Step: 10, TotalSteps: 40}, nil
	})
	got, err := gotune.Trainer{Name: "run1"}.Attach()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Records) != 10 || len(got.Controls) != 0 {
		t.Errorf("%d records and %d controls after going back to step 9, want 10 and none", len(got.Records), len(got.Controls))
	}
	paused := ""
	for _, d := range g.Displays() {
		if html, _ := d.Data["text/html"].(string); strings.Contains(html, "paused until Resume()") {
			paused = html
		}
	}
	for _, s := range []string{"step 12 of 40", ">by hand</th>", "paused, rate 1.00e-03</td>", "stroke-dasharray"} {
		if !strings.Contains(paused, s) {
			t.Errorf("the live block of the paused run lacks %q:\n%.600s", s, paused)
		}
	}
	lookAt(t, "paused.html", paused)
}

func TestControlRefusals(t *testing.T) {
	e := gotunetest.Start(t)
	e.Fail("run.pause", &gotune.Error{Kind: gotune.KindInvalid, Op: "pause", Object: `run "run1"`, Found: "it is paused already", Wanted: "a run that trains", Next: "Resume() lets it go on"})
	bare := gotune.Trainer{Name: "run1"}
	_, err := bare.Pause()
	if want := "pause run \"run1\": not valid\n\thave it is paused already\n\twant a run that trains\n\thint: Resume() lets it go on"; err == nil || err.Error() != want {
		t.Errorf("Pause() = %v, want\n%s", err, want)
	}
	for _, lr := range []float64{0, -1e-4, 1, 5, math.NaN(), math.Inf(1)} {
		if _, err := bare.SetLearningRate(lr); !errors.Is(err, gotune.ErrInvalid) || !strings.Contains(err.Error(), "above 0 and below 1") {
			t.Errorf("SetLearningRate(%g) = %v", lr, err)
		}
	}
	if _, err := bare.Sample("x", gotune.Sampling{TopP: 3}); !errors.Is(err, gotune.ErrInvalid) {
		t.Errorf("Sample with TopP 3: %v", err)
	}
	if n := len(e.Requests()); n != 1 {
		t.Errorf("the engine was asked %d times, want once: what can't be right is not sent", n)
	}
}
