package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/events"
	"github.com/gotune/gotune/gotune/internal/train"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// An order asks a run under way for what can hold between two steps only. Whoever
// gives it waits in [run.order]; the loop takes it in [worker.between]. As nobody
// keeps it in the meantime, a caller that leaves takes it back.
type order struct {
	what   string // gotune.ControlPause, ControlResume or ControlRate
	rate   float64
	answer chan error
}

func (e *Engine) runPause(c *call, a struct{ Name string }) (gotune.RunInfo, error) {
	return e.order(c, a.Name, order{what: gotune.ControlPause})
}

func (e *Engine) runResume(c *call, a struct{ Name string }) (gotune.RunInfo, error) {
	return e.order(c, a.Name, order{what: gotune.ControlResume})
}

func (e *Engine) runSetLR(c *call, a struct {
	Name         string
	LearningRate float64
}) (gotune.RunInfo, error) {
	if !(a.LearningRate > 0 && a.LearningRate < 1) {
		return gotune.RunInfo{}, &gotune.Error{Kind: gotune.KindInvalid, Object: "run " + quote(a.Name), Found: fmt.Sprint(a.LearningRate),
			Wanted: "a learning rate above 0 and below 1", Next: "give one, e.g. 2e-4"}
	}
	return e.order(c, a.Name, order{what: gotune.ControlRate, rate: a.LearningRate})
}

// order gives a run an order and waits until it holds.
func (e *Engine) order(c *call, name string, o order) (gotune.RunInfo, error) {
	c.about(name)
	r, err := e.find(name)
	if err != nil {
		return gotune.RunInfo{}, err
	}
	if err := r.refuse(o.what); err != nil {
		return gotune.RunInfo{}, err
	}
	c.progress(wire.Progress{Task: "wait", Note: "for the end of the step under way"})
	o.answer = make(chan error, 1)
	select {
	case r.orders <- o:
		err = <-o.answer
	case <-r.done:
		err = r.refuse(o.what)
	case <-c.Done():
		err = context.Cause(c)
	}
	if err != nil {
		return gotune.RunInfo{}, err
	}
	info := r.withRecords()
	info.Records = nil
	return info, nil
}

// runSample is runGenerate for a run under way, and notes the answer in its
// record.
func (e *Engine) runSample(c *call, a struct {
	Name     string
	Prompt   string
	Sampling gotune.Sampling
}) (gotune.Generation, error) {
	c.about(a.Name)
	r, err := e.find(a.Name)
	if err != nil {
		return gotune.Generation{}, err
	}
	if err := r.refuse(gotune.ControlSample); err != nil {
		return gotune.Generation{}, err
	}
	step := r.info().Step
	g, err := c.ask(r, a.Prompt, a.Sampling)
	if err != nil {
		return g, err
	}
	note := ""
	if g.Base {
		note = "adapter off"
	}
	r.control(gotune.Control{What: gotune.ControlSample, Step: step, Prompt: a.Prompt, Text: g.Text, Note: note})
	return g, nil
}

// ask lets the run's model answer, in training or trained. An adapter in
// training stays on the device until the answer is there.
func (c *call) ask(r *run, prompt string, s gotune.Sampling) (gotune.Generation, error) {
	l, _, err := c.model(r.config.Model)
	if err != nil {
		return gotune.Generation{}, err
	}
	if s.Base {
		return c.generate(l, nil, prompt, s)
	}
	r.lent.RLock()
	defer r.lent.RUnlock()
	ad, err := r.onDevice(l)
	if err != nil {
		return gotune.Generation{}, err
	}
	return c.generate(l, ad, prompt, s)
}

// refuse says why the run can't be controlled so now; nil if it can.
func (r *run) refuse(what string) error {
	r.mu.Lock()
	info, stopping, ready := r.state, r.stopping, r.live != nil && r.state.TotalSteps > 0
	r.mu.Unlock()
	e := &gotune.Error{Kind: gotune.KindInvalid, Object: "run " + quote(info.Name), Wanted: "a run under way"}
	switch paused := info.State == gotune.RunPaused; {
	case !r.active():
		e.Found = "it has ended (" + info.State + ", " + stepText(info) + ")"
		e.Next = map[string]string{
			gotune.ControlPause:  "Train() goes on with a run that was stopped",
			gotune.ControlResume: "Train() goes on with a run that was stopped",
			gotune.ControlRate:   "a new run takes the rate from its LearningRate",
			gotune.ControlSample: "Generate() asks a trained run",
		}[what]
	case stopping:
		e.Found, e.Next = "it is stopping ("+stepText(info)+")", "Train() goes on with it once it has stopped"
	case what == gotune.ControlPause && paused:
		e.Found, e.Wanted, e.Next = "it is paused already ("+stepText(info)+")", "a run that trains", "Resume() lets it go on"
	case what == gotune.ControlResume && !paused:
		e.Found, e.Wanted, e.Next = "it is not paused ("+stepText(info)+")", "a paused run", "Pause() holds it"
	case what == gotune.ControlSample && !ready:
		e.Found, e.Next = "it is still preparing", "try again when it trains, or ask the model itself"
	default:
		return nil
	}
	return e
}

// control notes what was done to the run: in memory and in its journal.
func (r *run) control(c gotune.Control) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.controlLocked(c)
}

func (r *run) controlLocked(c gotune.Control) {
	c.Time = time.Now().Truncate(time.Millisecond)
	r.controls = append(r.controls, c)
	if r.journal != nil {
		if err := r.journal.Append(events.KindControl, c); err != nil {
			r.state.Notes = appendNew(r.state.Notes, "the journal misses that the run was controlled: "+err.Error())
		}
	}
	r.wake()
}

// stepLocked is the number of steps done, those of an earlier part that this
// one has not gone on from yet included.
func (r *run) stepLocked() int {
	if n := len(r.records); r.state.TotalSteps == 0 && n > 0 {
		return r.records[n-1].Step
	}
	return r.state.Step
}

// between is the loop's place for orders: after each step it takes those that
// wait, and while the run is paused it stays here.
func (w *worker) between(ctx context.Context, done int) (peak float64) {
	var paused time.Time
	for {
		var o order
		if paused.IsZero() {
			select {
			case o = <-w.orders:
			default:
				return peak
			}
		} else {
			select {
			case o = <-w.orders:
			case <-ctx.Done():
				w.setState(gotune.RunRunning, "train")
				return peak
			}
		}
		err := w.refuse(o.what)
		if err == nil {
			switch o.what {
			case gotune.ControlPause:
				paused = time.Now()
				w.setState(gotune.RunPaused, "paused")
				w.control(gotune.Control{What: o.what, Step: done})
			case gotune.ControlResume:
				w.setState(gotune.RunRunning, "train")
				w.control(gotune.Control{What: o.what, Step: done, Seconds: time.Since(paused).Round(time.Millisecond).Seconds()})
				paused = time.Time{}
			case gotune.ControlRate:
				if err = w.setRate(done, o.rate); err == nil {
					peak = o.rate
				}
			}
		}
		o.answer <- err
	}
}

// setRate notes another peak rate, if the schedule can have it.
func (w *worker) setRate(done int, rate float64) error {
	if _, err := w.plan.Schedule(rate); err != nil {
		return &gotune.Error{Kind: gotune.KindInvalid, Object: "run " + quote(w.config.Name), Found: err.Error(),
			Wanted: "a rate that its schedule can have", Next: "give another rate"}
	}
	w.control(gotune.Control{What: gotune.ControlRate, Step: done, Old: w.rate, New: rate})
	w.rate = rate
	return nil
}

// setState changes the run's state, and what status says of its work.
func (w *worker) setState(state, task string) {
	w.update(func(i *gotune.RunInfo) { i.State = state })
	w.call.job.mu.Lock()
	defer w.call.job.mu.Unlock()
	w.call.job.progress.Task = task
}

// settle brings the controls in line with the checkpoint that the run goes on
// from: what came after it is undone with its steps. Rates are the checkpoint's.
func (w *worker) settle(s *train.Snapshot) {
	done := 0
	w.rate = w.config.LearningRate
	if s != nil {
		done = s.State.Step
		if s.State.LearningRate != 0 {
			w.rate = s.State.LearningRate
		}
	}
	w.mu.Lock()
	had := latestRate(w.controls, w.config.LearningRate)
	w.controls = slices.DeleteFunc(w.controls, func(c gotune.Control) bool { return c.Step > done })
	kept := latestRate(w.controls, w.config.LearningRate)
	if leftPaused(w.controls) {
		w.controlLocked(gotune.Control{What: gotune.ControlResume, Step: done, Note: "the engine had ended"})
	}
	if kept != w.rate {
		w.controlLocked(gotune.Control{What: gotune.ControlRate, Step: done, Old: kept, New: w.rate, Note: "back to a checkpoint from before the change"})
	}
	w.mu.Unlock()
	if had != w.rate {
		w.note(fmt.Sprintf("the learning rate is %g again: %g was set after the checkpoint of step %d; SetLearningRate sets it again", w.rate, had, done))
	}
}

// latestRate is the peak rate that holds after the controls.
func latestRate(controls []gotune.Control, rate float64) float64 {
	for _, c := range controls {
		if c.What == gotune.ControlRate {
			rate = c.New
		}
	}
	return rate
}

// leftPaused says whether a pause is the last that happened to the run, as when
// the engine was killed in it.
func leftPaused(controls []gotune.Control) (paused bool) {
	for _, c := range controls {
		switch c.What {
		case gotune.ControlPause:
			paused = true
		case gotune.ControlResume, gotune.ControlStop:
			paused = false
		}
	}
	return paused
}

// replayControls reads a journal's controls. A step that was done again undoes
// those from after it.
func replayControls(lines []events.Line) []gotune.Control {
	var out []gotune.Control
	for _, l := range lines {
		switch l.Kind {
		case events.KindControl:
			var c gotune.Control
			if json.Unmarshal(l.Data, &c) == nil {
				out = append(out, c)
			}
		case events.KindStep:
			var s struct{ Step int }
			if len(out) > 0 && json.Unmarshal(l.Data, &s) == nil {
				out = slices.DeleteFunc(out, func(c gotune.Control) bool { return c.Step >= s.Step })
			}
		}
	}
	return out
}
