package gotune

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// A Control is something that was done to a run while it was under way, from a
// cell, another notebook or a terminal. The run's record keeps it.
type Control struct {
	_ struct{}

	Time    time.Time // when it held
	Step    int       // steps done by then; a new rate holds from the next step on
	What    string    // ControlPause, ControlResume, ControlRate, ControlSample or ControlStop
	Old     float64   `json:",omitempty"` // of ControlRate: the peak learning rate before
	New     float64   `json:",omitempty"` // of ControlRate: the peak learning rate from the next step on
	Seconds float64   `json:",omitempty"` // of ControlResume: how long the run was paused
	Prompt  string    `json:",omitempty"` // of ControlSample
	Text    string    `json:",omitempty"` // of ControlSample: what the model wrote
	Note    string    `json:",omitempty"` // why, where it was not a verb of that name
}

// Kinds of controls.
const (
	ControlPause  = "pause"
	ControlResume = "resume"
	ControlRate   = "learning rate"
	ControlSample = "sample"
	ControlStop   = "stop"
)

// Pause holds the run at the end of its step and of the evaluation and the
// checkpoint that are due then, and returns once it is held. Its memory stays, so
// that it goes on at once, but the device is free for other verbs: generate,
// load, look at data. [Trainer.Resume] goes on; Stop and an interrupt of the
// training cell work too. Only the Name matters.
//
// A run that is paused already or not under way is ErrInvalid. Interrupting the
// cell before the run is held leaves it alone.
func (t Trainer) Pause() (RunInfo, error) { return t.PauseContext(inCell) }

// PauseContext is [Trainer.Pause] for programs.
func (t Trainer) PauseContext(ctx context.Context) (RunInfo, error) {
	return t.control(ctx, wire.VerbRunPause, "pause", named{t.Name})
}

// Resume lets a paused run go on. One that is not paused is ErrInvalid; a run
// that was stopped goes on by Train. Only the Name matters.
func (t Trainer) Resume() (RunInfo, error) { return t.ResumeContext(inCell) }

// ResumeContext is [Trainer.Resume] for programs.
func (t Trainer) ResumeContext(ctx context.Context) (RunInfo, error) {
	return t.control(ctx, wire.VerbRunResume, "resume", named{t.Name})
}

// SetLearningRate gives the run another peak learning rate from its next step
// on, and returns once it holds. The schedule keeps its shape and its place:
// with "constant" every step has the rate lr, with "cosine" the rest of the
// curve is that of a run whose LearningRate is lr. Checkpoints keep it: a run
// that goes on from a later one has the new rate, one that goes back to an
// earlier one has the old, and says so. The literal's LearningRate stays what
// the run began with. Only the Name matters.
//
// A rate that is not above 0 and below 1, or that the schedule can't have, and a
// run that is not under way are ErrInvalid.
func (t Trainer) SetLearningRate(lr float64) (RunInfo, error) {
	return t.SetLearningRateContext(inCell, lr)
}

// SetLearningRateContext is [Trainer.SetLearningRate] for programs.
func (t Trainer) SetLearningRateContext(ctx context.Context, lr float64) (RunInfo, error) {
	if !(lr > 0 && lr < 1) {
		return RunInfo{}, &Error{Kind: KindInvalid, Op: "set the learning rate of " + quoted("run", t.Name), Found: jsonText(lr),
			Wanted: "a number above 0 and below 1, e.g. 2e-4"}
	}
	return t.control(ctx, wire.VerbRunSetLR, "set the learning rate of", struct {
		Name         string
		LearningRate float64
	}{t.Name, lr})
}

// Sample is [Trainer.Generate] for a run that is under way, and keeps prompt and
// answer in the run's record, at the step they are from. The run trains on
// meanwhile, unless it is paused: its steps and the answer's tokens take turns.
// A run that is not under way is ErrInvalid.
func (t Trainer) Sample(prompt string, s Sampling) (Generation, error) {
	return t.SampleContext(inCell, prompt, s)
}

// SampleContext is [Trainer.Sample] for programs.
func (t Trainer) SampleContext(ctx context.Context, prompt string, s Sampling) (Generation, error) {
	q, err := t.generation(prompt, s)
	if err != nil {
		return Generation{}, err
	}
	q.verb, q.what = wire.VerbRunSample, "sample from "+quoted("run", t.Name)
	return generate(ctx, q, prompt)
}

// control sends a verb that changes a run under way and shows what it led to.
func (t Trainer) control(ctx context.Context, verb, what string, args any) (RunInfo, error) {
	q := request{verb: verb, what: what + " " + quoted("run", t.Name), args: args}
	return do(ctx, q, func(i RunInfo) (string, string) {
		line := i.Name + ": " + i.stateText()
		if n := len(i.Controls); n > 0 {
			line = i.Name + ", " + i.Controls[n-1].line()
		}
		switch {
		case verb == wire.VerbRunPause:
			line += " until Resume()"
		case i.State == RunPaused:
			line += "; still paused"
		}
		return "<div>" + escape(line) + "</div>", plainText(line) + "\n"
	})
}

// line says what was done, and when: "after step 12: paused".
func (c Control) line() string { return c.place() + ": " + c.text() }

func (c Control) place() string {
	if c.Step == 0 {
		return "before step 1"
	}
	return "after step " + countText(c.Step)
}

// text says what was done.
func (c Control) text() string {
	s := c.What
	switch c.What {
	case ControlPause:
		s = "paused"
	case ControlResume:
		s = "went on"
		if c.Seconds > 0 {
			s += " after a pause of " + secondsText(c.Seconds)
		}
	case ControlRate:
		s = "learning rate " + rateText(c.Old) + " → " + rateText(c.New)
	case ControlSample:
		s = fmt.Sprintf("sampled %q → %q", oneLine(c.Prompt, 60), oneLine(c.Text, 100))
	case ControlStop:
		s = "stopped"
	}
	if c.Note != "" {
		s += " (" + c.Note + ")"
	}
	return s
}

// mark is text for a place with little room.
func (c Control) mark() string {
	switch c.What {
	case ControlPause:
		return "paused"
	case ControlResume:
		return "went on"
	case ControlRate:
		return "rate " + rateText(c.New)
	case ControlSample:
		return "sample"
	case ControlStop:
		return "stopped"
	}
	return c.What
}

// marks joins what was done at one place, each thing once. That a run went on is
// left out where its pause is told.
func marks(controls []Control) string {
	var parts []string
	seen := map[string]bool{}
	for _, c := range controls {
		if m := c.mark(); !seen[m] && !(c.What == ControlResume && seen["paused"]) {
			seen[m] = true
			parts = append(parts, m)
		}
	}
	return strings.Join(parts, ", ")
}

// rowMarks says for each row of a log what was done between the row before and
// this one; what came after the last row is with it. Earlier than after step
// from it leaves out.
func rowMarks(rows []StepRecord, controls []Control, from int) []string {
	out := make([]string, len(rows))
	for i, r := range rows {
		var here []Control
		for _, c := range controls {
			if c.Step >= from && (c.Step < r.Step || i == len(rows)-1) {
				here = append(here, c)
			}
		}
		out[i], from = marks(here), r.Step
	}
	return out
}

// shownControls is the number of controls that a run's facts list.
const shownControls = 20

// controlRows are the controls as facts, the newest of them.
func controlRows(controls []Control) [][]string {
	var rows [][]string
	if n := len(controls) - shownControls; n > 0 {
		rows = append(rows, []string{"by hand", fmt.Sprintf("%d earlier ones are in the record", n)})
		controls = controls[n:]
	}
	for _, c := range controls {
		when := ""
		if !c.Time.IsZero() {
			when = c.Time.Local().Format(", 15:04:05")
		}
		rows = append(rows, []string{"by hand", c.line() + when})
	}
	return rows
}

// isPaused says whether the latest of the controls left the run paused.
func isPaused(controls []Control) bool {
	for i := len(controls) - 1; i >= 0; i-- {
		switch controls[i].What {
		case ControlPause:
			return true
		case ControlResume, ControlStop:
			return false
		}
	}
	return false
}
