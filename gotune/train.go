package gotune

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// Train fine-tunes the model and returns when the run is done, stopped or
// failed. Progress, the loss chart and the latest numbers show as it works. The
// run itself lives in the engine: closing the notebook does not stop it, and
// training a run that is under way or done shows it from its beginning.
//
// Interrupting the cell stops the run at its next step with a checkpoint, and
// ends the program with code 0; running the cell again goes on from there.
//
// Errors: ErrConflict if the name belongs to a run of another config,
// ErrNotFound if a bare literal names none, ErrBusy if another run has the
// engine, ErrInvalid for a config or data that can't work, ErrMemory if it would
// not fit.
func (t Trainer) Train() (RunInfo, error) { return t.TrainContext(inCell) }

// TrainContext is Train for programs: when ctx ends, the run is stopped with a
// checkpoint, and the error is ErrInterrupted.
func (t Trainer) TrainContext(ctx context.Context) (RunInfo, error) {
	t, err := t.Resolved()
	if err != nil {
		return RunInfo{}, err
	}
	return t.follow(ctx, wire.VerbRunTrain, "train", struct{ Trainer Trainer }{t})
}

// Attach shows a run that exists, under way or finished, and returns when it
// has ended. Only the Name matters. Interrupting the cell leaves the run alone.
func (t Trainer) Attach() (RunInfo, error) { return t.AttachContext(inCell) }

// AttachContext is Attach for programs.
func (t Trainer) AttachContext(ctx context.Context) (RunInfo, error) {
	return t.follow(ctx, wire.VerbRunAttach, "attach to", named{t.Name})
}

// named is the arguments of verbs that need a run's name only.
type named struct{ Name string }

// follow shows a run's steps until it ends.
func (t Trainer) follow(ctx context.Context, verb, do string, args any) (RunInfo, error) {
	what := do + " " + quoted("run", t.Name)
	v := newTrainView(what, t.Name)
	var info RunInfo
	stopped, err := call(ctx, request{verb: verb, what: what, args: args, detach: verb == wire.VerbRunAttach}, &info, v)
	if len(info.Records) == 0 {
		info.Records = v.records
	}
	if len(info.Controls) == 0 {
		info.Controls = v.controls
	}
	s := current()
	switch {
	case err == nil:
		v.conclude(info)
		s.show(info.html(), info.text(!v.headed))
		err = info.failure(what)
	default:
		v.finish(err)
	}
	s.sync()
	if stopped && ctx.Value(cellKey{}) != nil {
		endTraining(s, t.Name, info, err)
	}
	if stopped && err == nil && info.State == RunStopped {
		err = &Error{Kind: KindInterrupted, Op: what, Found: info.stopText(), Next: "Train again goes on from there"}
	}
	return info, err
}

// conclude replaces the live block by a headline.
func (v *trainView) conclude(info RunInfo) {
	line := v.name + ": " + info.stateText()
	v.live.finish(`<div><b>`+escape(v.name)+`</b>: `+escape(info.stateText())+`</div>`+v.logHTML(-1), line)
}

// finish replaces the live block by how it ended and keeps what was seen.
func (v *trainView) finish(err error) {
	if len(v.records) == 0 {
		v.progressView.finish(err)
		return
	}
	state := endWord(err)
	switch {
	case errors.Is(err, errDetached):
		state = "goes on in the engine"
	case errors.Is(err, errStillStopping):
		state = "still stopping; the engine writes a checkpoint"
	}
	info := RunInfo{Name: v.name, Records: v.records, Controls: v.controls}
	v.live.finish(`<div><b>`+escape(v.name)+`</b>: `+escape(state)+`</div>`+info.chart()+info.log().html(), v.name+": "+state)
}

// endTraining ends a cell that was interrupted: the run is safe, so the cell is
// no failure, but its later lines must not run.
func endTraining(s *screen, name string, info RunInfo, err error) {
	line := ""
	switch {
	case errors.Is(err, errDetached):
		line = fmt.Sprintf("%s goes on in the engine; gotune.Trainer{Name: %q}.Stop() stops it", name, name)
	case errors.Is(err, errStillStopping):
		line = name + ": the engine is ending its step and writing a checkpoint; run the cell again to go on from there"
	case err == nil && info.State == RunDone:
		line = name + ": done before the interrupt"
	case err == nil || errors.Is(err, ErrInterrupted):
		line = name + ": " + info.stopText() + "; run the cell again to go on from there"
	default:
		fmt.Fprintln(stderr, plainText(err.Error()))
		exit(1)
		return
	}
	s.show("<div>"+escape(line)+"</div>", line+"\n")
	s.sync()
	exit(0)
}

// failure is the error of a run that failed.
func (r RunInfo) failure(what string) error {
	if r.State != RunFailed {
		return nil
	}
	if r.Error != nil {
		return r.Error
	}
	return &Error{Kind: KindInternal, Op: what, Found: "the run failed", Next: "the engine's log, " + logPath() + ", may say why"}
}

// stopText says where a run stopped.
func (r RunInfo) stopText() string {
	text := "stopped"
	if r.Step > 0 {
		text = fmt.Sprintf("stopped at step %d of %d", r.Step, r.TotalSteps)
	}
	if n := len(r.Checkpoints); n > 0 {
		text += ", checkpoint " + r.Checkpoints[n-1]
	}
	return text
}

// stateText is the run's end in a line.
func (r RunInfo) stateText() string {
	switch r.State {
	case RunDone:
		return fmt.Sprintf("done, %s in %s", plural(r.Step, "step"), secondsText(r.Seconds))
	case RunStopped:
		return r.stopText()
	case RunFailed:
		return fmt.Sprintf("failed at step %d of %d", r.Step, r.TotalSteps)
	}
	return fmt.Sprintf("%s, step %d of %d", r.State, r.Step, r.TotalSteps)
}

// chart is the run's loss as a picture of its own.
func (r RunInfo) chart() string {
	curves := []curve{newCurve(r.Name, r.Records, r.Controls, 0)}
	if len(curves[0].raw) == 0 {
		return ""
	}
	return card(lossChart(cardStyle, curves, r.Step), lossAlt(curves))
}

// facts are the numbers of the run as a whole.
func (r RunInfo) facts() table {
	loss := lossText(r.Loss)
	if logged := loggedOnly(r.Records); len(logged) > 1 && logged[0].Logged && logged[len(logged)-1].Logged {
		loss = lossText(logged[0].MeanLoss) + " → " + lossText(logged[len(logged)-1].MeanLoss)
	}
	mean, eval := "", ""
	if finite(r.MeanLoss) {
		mean = lossText(r.MeanLoss) + " over all steps"
	}
	if finite(r.EvalLoss) && r.EvalLoss != 0 {
		eval = lossText(r.EvalLoss)
	}
	speed := ""
	if r.TokensPerSecond > 0 {
		speed = fmt.Sprintf("%s, %s tokens", speedText(r.TokensPerSecond), countText(r.Tokens))
	}
	trained := ""
	if r.Params > 0 {
		trained = fmt.Sprintf("%s of %s weights (%.3g %%)", paramsText(r.TrainableParams), paramsText(r.Params), 100*float64(r.TrainableParams)/float64(r.Params))
	}
	memory := r.Fit
	if r.PeakBytes > 0 {
		memory = strings.Trim(sizeText(r.PeakBytes)+" at most; "+r.Fit, "; ")
	}
	resumed := ""
	if r.ResumedFrom > 0 {
		resumed = fmt.Sprintf("the checkpoint of step %d", r.ResumedFrom)
	}
	t := facts("", "run", r.Name, "state", r.stateText(), "loss", loss, "mean loss", mean, "evaluation", eval, "speed", speed,
		"trained", trained, "memory", memory, "went on from", resumed, "settings", changes(r.Trainer), "folder", r.OutputDir,
		"TensorBoard", r.TensorBoardDir)
	t.rows = append(t.rows, controlRows(r.Controls)...)
	for _, n := range r.Notes {
		t.rows = append(t.rows, []string{"note", n})
	}
	return t
}

// html is the final output of a run, which needs nothing but itself.
func (r RunInfo) html() string {
	return r.chart() + r.log().html() + r.facts().html()
}

// log is the run's log as a table of a screen's length.
func (r RunInfo) log() table {
	return finalTable(shownLog(r.Records), r.Controls)
}

// text is the final output in text; whole adds the log.
func (r RunInfo) text(whole bool) string {
	if !whole {
		return "\n" + r.facts().text()
	}
	var b strings.Builder
	if logged := loggedOnly(r.Records); len(logged) > 0 {
		b.WriteString(logHead)
		for _, rec := range shownLog(r.Records) {
			b.WriteString(logLine(rec))
		}
		b.WriteString("\n")
	}
	return b.String() + r.facts().text()
}
