package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/events"
)

// inBackground trains a run as another notebook would, until the test ends.
func inBackground(t *testing.T, r gotune.Trainer) (ended chan gotune.RunInfo) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan gotune.RunInfo, 1)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		info, err := r.TrainContext(ctx)
		if err != nil && !errors.Is(err, gotune.ErrInterrupted) {
			t.Errorf("run %s: %v", r.Name, err)
		}
		ended <- info
	}()
	t.Cleanup(func() { cancel(); <-gone })
	return ended
}

// waitStep waits until a run has done so many steps.
func waitStep(t *testing.T, e *Engine, name string, step int) {
	t.Helper()
	for range 6000 {
		if r, err := e.run(name); err == nil && r != nil && r.info().Step >= step {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("run %s did not reach step %d", name, step)
}

// endless is a run that no test waits for, and its bare literal, which is what
// another notebook has.
func endless(name string) (run, bare gotune.Trainer) {
	run = testRun(name)
	run.MaxSteps, run.SaveSteps, run.LogSteps = 100000, -1, 1
	return run, gotune.Trainer{Name: name}
}

// refused wants an ErrInvalid that says all of that.
func refused(t *testing.T, what string, err error, says ...string) {
	t.Helper()
	if !errors.Is(err, gotune.ErrInvalid) {
		t.Errorf("%s: %v, want ErrInvalid", what, err)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%s: %v\nlacks %q", what, err, s)
		}
	}
}

// journalled are the controls in a run's journal, as text.
func journalled(t *testing.T, dir string) (out []string) {
	t.Helper()
	lines, damaged, err := events.ReadJournal(journalPath(dir))
	if err != nil || len(damaged) > 0 {
		t.Fatal(err, damaged)
	}
	for _, l := range lines {
		if l.Kind == events.KindControl {
			var c gotune.Control
			if err := json.Unmarshal(l.Data, &c); err != nil || c.Time.IsZero() {
				t.Fatalf("%s: %v", l.Data, err)
			}
			out = append(out, fmt.Sprintf("%s %g %g", c.What, c.Old, c.New))
		}
	}
	return out
}

// All controls on one run, from other connections than the one that trains it.
func TestControls(t *testing.T) {
	dir, e := startEngine(t)
	run, bare := endless("long")
	_, err := bare.Pause()
	if !errors.Is(err, gotune.ErrNotFound) {
		t.Errorf("pause without a run: %v", err)
	}
	ended := inBackground(t, run)
	waitStep(t, e, "long", 1)

	_, err = bare.Resume()
	refused(t, "resume of a run that trains", err, `resume run "long"`, "not paused", "Pause()")
	info, err := bare.Pause()
	if err != nil || info.State != gotune.RunPaused || len(info.Controls) != 1 || info.Controls[0].Step != info.Step {
		t.Fatalf("pause: %+v, %v", info, err)
	}
	_, err = bare.Pause()
	refused(t, "second pause", err, "paused already", fmt.Sprintf("step %d of 100000", info.Step), "Resume()")

	// The device is free for others, the run's memory stays, and it is not idle.
	if g, err := testBase.Generate("Hi", gotune.Sampling{MaxNewTokens: 4}); err != nil || g.Tokens == 0 {
		t.Errorf("generate during a pause: %+v, %v", g, err)
	}
	if _, err := gotune.Free(); !errors.Is(err, gotune.ErrBusy) || !strings.Contains(err.Error(), "is paused") {
		t.Errorf("free during a pause: %v", err)
	}
	if _, err := testRun("other").Train(); !errors.Is(err, gotune.ErrBusy) || !strings.Contains(err.Error(), `"long" is paused`) {
		t.Errorf("another run during a pause: %v", err)
	}
	if s, err := gotune.Status(); err != nil || len(s.Runs) != 1 || s.Runs[0].State != gotune.RunPaused || s.Runs[0].Step != info.Step || e.idle() != 0 {
		t.Errorf("status: %+v, idle for %v, %v", s.Runs, e.idle(), err)
	}

	// A rate and a sample, while it is paused.
	if i, err := bare.SetLearningRate(1e-3); err != nil || i.State != gotune.RunPaused || i.Step != info.Step {
		t.Errorf("set the rate: %+v, %v", i, err)
	}
	g, err := bare.Sample("What does strings.TrimSpace do?", gotune.Sampling{MaxNewTokens: 4})
	if err != nil || g.Base || g.Tokens == 0 {
		t.Errorf("sample: %+v, %v", g, err)
	}
	info, err = bare.Resume()
	if err != nil || info.State != gotune.RunRunning || info.Controls[len(info.Controls)-1].Seconds <= 0 {
		t.Errorf("resume: %+v, %v", info, err)
	}
	held := info.Controls[0].Step
	waitStep(t, e, "long", held+2)

	// While it trains.
	if g, err := bare.Sample("Hi", gotune.Sampling{MaxNewTokens: 2, Base: true}); err != nil || !g.Base {
		t.Errorf("sample while it trains: %+v, %v", g, err)
	}
	if i, err := bare.SetLearningRate(5e-4); err != nil || i.State != gotune.RunRunning {
		t.Errorf("set the rate while it trains: %+v, %v", i, err)
	}
	if i, err := bare.Stop(); err != nil || i.State != gotune.RunStopped {
		t.Errorf("stop: %+v, %v", i, err)
	}
	followed := <-ended
	info, err = bare.Record()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"pause 0 0", "learning rate 0.0002 0.001", "sample 0 0", "resume 0 0", "sample 0 0", "learning rate 0.001 0.0005", "stop 0 0"}
	if got := journalled(t, filepath.Join(dir, "results", "long")); !slices.Equal(got, want) {
		t.Errorf("journal has %q, want %q", got, want)
	}
	if len(info.Controls) != len(want) || len(followed.Controls) != len(want) {
		t.Fatalf("%d controls in the record, %d followed, want %d", len(info.Controls), len(followed.Controls), len(want))
	}
	if s := info.Controls[2]; s.Text != g.Text || s.Prompt == "" || s.Step != held {
		t.Errorf("the record has the sample %+v, want the answer %q", s, g.Text)
	}
	if stop := info.Controls[6]; stop.Step != info.Step || stop.Step != info.Records[len(info.Records)-1].Step {
		t.Errorf("the record has the stop after step %d, and the run stopped at %d with the record of step %d", stop.Step, info.Step, info.Records[len(info.Records)-1].Step)
	}
	changed := info.Controls[5].Step
	for _, r := range info.Records {
		want := 2e-4
		if r.Step > held {
			want = 1e-3
		}
		if r.Step > changed {
			want = 5e-4
		}
		if r.LearningRate != want {
			t.Errorf("step %d has the rate %g, want %g", r.Step, r.LearningRate, want)
		}
	}
	for what, do := range map[string]func() error{
		"pause":  func() error { _, err := bare.Pause(); return err },
		"resume": func() error { _, err := bare.Resume(); return err },
		"rate":   func() error { _, err := bare.SetLearningRate(1e-4); return err },
		"sample": func() error { _, err := bare.Sample("Hi", gotune.Sampling{}); return err },
	} {
		refused(t, what+" of a run that has ended", do(), "has ended (stopped, step", "a run under way")
	}
	_, err = bare.SetLearningRate(2)
	refused(t, "a rate of 2", err, "above 0 and below 1")

	// Another engine reads the same from the journal.
	old, err := readRun(e, "long", filepath.Join(dir, "results", "long"))
	if err != nil || len(old.controls) != len(want) || old.state.State != gotune.RunStopped {
		t.Errorf("read back: %d controls, %s, %v", len(old.controls), old.state.State, err)
	}
}

// A rate that was set holds after a stop, also one in a pause just after a
// checkpoint, and the numbers are those of a run without one, bit for bit.
func TestRateSurvivesStop(t *testing.T) {
	dir, _ := startEngine(t)
	control := func(name string, stop bool) {
		t.Helper()
		run, bare := testRun(name), gotune.Trainer{Name: name}
		run.SaveSteps, run.LRScheduler = 1, "cosine"
		r := holdAfter(t, run, 2)
		if _, err := bare.SetLearningRate(2e-3); err != nil {
			t.Fatal(err)
		}
		if stop {
			if i, err := bare.Stop(); err != nil || i.State != gotune.RunStopped || i.Step != 2 {
				t.Fatalf("stop in a pause: %+v, %v", i, err)
			}
			<-r
			if i, err := run.Train(); err != nil || i.ResumedFrom != 2 || strings.Contains(fmt.Sprint(i.Notes), "learning rate") {
				t.Fatalf("going on: %+v, %v", i, err)
			}
			return
		}
		if _, err := bare.Resume(); err != nil {
			t.Fatal(err)
		}
		if i := <-r; i.State != gotune.RunDone {
			t.Fatalf("run %s: %+v", name, i)
		}
	}
	control("whole", false)
	control("broken", true)
	sameAdapter(t, 6, filepath.Join(dir, "results", "whole"), filepath.Join(dir, "results", "broken"))
	a, errA := gotune.Trainer{Name: "whole"}.Record()
	b, errB := gotune.Trainer{Name: "broken"}.Record()
	if errA != nil || errB != nil || len(b.Records) != 6 {
		t.Fatal(errA, errB, len(b.Records))
	}
	for i := range a.Records {
		if a.Records[i].LearningRate != b.Records[i].LearningRate || a.Records[i].Loss != b.Records[i].Loss {
			t.Errorf("step %d: rates %g and %g, losses %g and %g", i+1, a.Records[i].LearningRate, b.Records[i].LearningRate, a.Records[i].Loss, b.Records[i].Loss)
		}
	}
	if a.Records[2].LearningRate <= 1e-3 {
		t.Errorf("step 3 has the rate %g", a.Records[2].LearningRate)
	}
}

// holdAfter trains a run in the background and holds it after exactly that step.
func holdAfter(t *testing.T, run gotune.Trainer, step int) (ended chan gotune.RunInfo) {
	t.Helper()
	bare := gotune.Trainer{Name: run.Name}
	for range 8 {
		ended = inBackground(t, run)
		info, err := bare.Pause() // taken before the first step
		for errors.Is(err, gotune.ErrNotFound) || err != nil && run.NoResume {
			time.Sleep(time.Millisecond)
			info, err = bare.Pause()
		}
		for err == nil && info.Step < step {
			if _, err = bare.Resume(); err == nil {
				info, err = bare.Pause()
			}
		}
		if err == nil && info.Step == step {
			return ended
		}
		if _, err := bare.Stop(); err != nil {
			t.Fatal(err)
		}
		<-ended
		run.NoResume = true // a step too far: from the beginning
	}
	t.Fatalf("run %s can't be held after step %d", run.Name, step)
	return nil
}

// The engine is killed in a pause, after the rate was set and before a
// checkpoint had it: the run goes on from the checkpoint with the old rate, says
// so, and is not paused.
func TestKilledInPause(t *testing.T) {
	dir, e := startEngine(t)
	run := testRun("killed")
	run.MaxSteps = 3
	if _, err := run.Train(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "results", "killed")
	j, err := events.OpenJournal(journalPath(out))
	if err != nil {
		t.Fatal(err)
	}
	// What a run of 6 steps leaves that is killed after step 4 with a checkpoint of step 3.
	longer := run
	longer.MaxSteps = 6
	config, err := longer.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	config.OutputDir = out
	now := time.Now()
	for _, l := range []struct {
		kind string
		data any
	}{
		{events.KindConfig, config},
		{events.KindControl, gotune.Control{What: gotune.ControlPause, Step: 3, Time: now}},
		{events.KindControl, gotune.Control{What: gotune.ControlRate, Step: 3, Time: now, Old: 2e-4, New: 1e-3}},
		{events.KindControl, gotune.Control{What: gotune.ControlResume, Step: 3, Time: now, Seconds: 1}},
		{events.KindStep, gotune.StepRecord{Step: 4, TotalSteps: 6, Loss: 1, LearningRate: 1e-3}},
		{events.KindControl, gotune.Control{What: gotune.ControlRate, Step: 4, Time: now, Old: 1e-3, New: 2e-3}},
		{events.KindControl, gotune.Control{What: gotune.ControlPause, Step: 4, Time: now}},
	} {
		if err := j.Append(l.kind, l.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	e.runs.mu.Lock()
	delete(e.runs.byName, "killed") // a new engine knows the journal only
	e.runs.mu.Unlock()
	info, err := gotune.Trainer{Name: "killed"}.Record()
	if err != nil || info.State != gotune.RunStopped || len(info.Controls) != 5 {
		t.Fatalf("read back: %s, %d controls, %v", info.State, len(info.Controls), err)
	}
	info, err = longer.Train()
	if err != nil || info.State != gotune.RunDone || info.ResumedFrom != 3 {
		t.Fatalf("going on: %+v, %v", info, err)
	}
	if notes := fmt.Sprint(info.Notes); !strings.Contains(notes, "the learning rate is 0.0002 again: 0.002 was set after the checkpoint of step 3") {
		t.Errorf("notes are %q", notes)
	}
	for _, r := range info.Records {
		if r.LearningRate != 2e-4 {
			t.Errorf("step %d has the rate %g", r.Step, r.LearningRate)
		}
	}
	for range 2 { // as it is in memory, then from the journal
		rec, err := gotune.Trainer{Name: "killed"}.Record()
		if err != nil || len(rec.Records) != 6 {
			t.Fatal(len(rec.Records), err)
		}
		last := rec.Controls[len(rec.Controls)-1]
		if len(rec.Controls) != 4 || last.What != gotune.ControlRate || last.Old != 1e-3 || last.New != 2e-4 || last.Step != 3 || last.Note == "" {
			t.Errorf("controls are %+v", rec.Controls)
		}
		e.runs.mu.Lock()
		delete(e.runs.byName, "killed")
		e.runs.mu.Unlock()
	}
}

// Two notebooks watch one run from different times: both see all its steps.
func TestTwoNotebooks(t *testing.T) {
	_, e := startEngine(t)
	run, bare := testRun("shared"), gotune.Trainer{Name: "shared"}
	run.MaxSteps, run.SaveSteps, run.LRScheduler = 30, -1, "polynomial"
	trained := holdAfter(t, run, 1)
	_, err := bare.SetLearningRate(1e-9) // polynomial ends at 1e-7
	refused(t, "a rate below the schedule's last", err, `set the learning rate of run "shared"`, "polynomial", "1e-07")
	watch := func() chan gotune.RunInfo {
		ch := make(chan gotune.RunInfo, 1)
		go func() {
			info, err := bare.AttachContext(context.Background())
			if err != nil {
				t.Error(err)
			}
			ch <- info
		}()
		return ch
	}
	first := watch()
	if _, err := bare.Resume(); err != nil {
		t.Fatal(err)
	}
	waitStep(t, e, "shared", 5)
	again := inBackground(t, run) // Run All in a second notebook
	second := watch()
	for who, ch := range map[string]chan gotune.RunInfo{"the trainer": trained, "the first watcher": first, "the second trainer": again, "the second watcher": second} {
		info := <-ch
		if info.State != gotune.RunDone || len(info.Records) != 30 || len(info.Controls) < 2 {
			t.Errorf("%s: %s, %d steps, %d controls", who, info.State, len(info.Records), len(info.Controls))
		}
		for i, r := range info.Records {
			if r.Step != i+1 {
				t.Errorf("%s: record %d is of step %d", who, i, r.Step)
			}
		}
	}
}

// Whoever asks for a pause waits for the step under way, and can take it back;
// a run that ends first refuses it.
func TestWaitForStep(t *testing.T) {
	_, e := startEngine(t)
	r := newRun(e, testRun("slow"), nil) // its loop never comes to the end of a step
	e.runs.mu.Lock()
	e.runs.byName["slow"] = r
	e.runs.mu.Unlock()
	bare := gotune.Trainer{Name: "slow"}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := bare.PauseContext(ctx); !errors.Is(err, gotune.ErrInterrupted) {
		t.Errorf("a pause that was taken back: %v", err)
	}
	select {
	case o := <-r.orders:
		t.Errorf("the run still gets the order to %s", o.what)
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := bare.Sample("Hi", gotune.Sampling{}); !errors.Is(err, gotune.ErrInvalid) || !strings.Contains(err.Error(), "still preparing") {
		t.Errorf("sample before the first step: %v", err)
	}
	paused := make(chan error, 1)
	go func() { _, err := bare.Pause(); paused <- err }()
	time.Sleep(20 * time.Millisecond)
	r.stop("")
	_, err := bare.SetLearningRate(1e-4)
	refused(t, "a rate while it stops", err, "it is stopping")
	r.end(gotune.RunStopped, nil)
	close(r.done)
	refused(t, "a pause of a run that ended meanwhile", <-paused, "has ended")
	if n := len(r.withRecords().Controls); n != 1 || r.info().State != gotune.RunStopped {
		t.Errorf("%d controls, state %s: want the stop only", n, r.info().State)
	}
}
