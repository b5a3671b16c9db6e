package engine

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"sync"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/events"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// A run is one training run, under way or ended. Its work is in a goroutine of
// its own ([run.work]); any number of callers follow it ([run.follow]).
type run struct {
	engine *Engine
	config gotune.Trainer // resolved, paths absolute
	done   chan struct{}  // closed when the work has ended
	ctx    context.Context
	cancel context.CancelFunc // ends ctx: stop after the current step
	orders chan order         // to the loop, which takes them between two steps
	lent   sync.RWMutex       // held by those who read the adapter in training

	mu       sync.Mutex
	stopping bool
	stopNote string         // who asked for the stop
	state    gotune.RunInfo // without Records and Controls
	records  []gotune.StepRecord
	controls []gotune.Control
	journal  *events.Journal // while the work goes on
	changed  chan struct{}   // closed and replaced when there is something new
	progress wire.Progress

	progressed int // progress reports so far

	logs    []string
	adapter *lora.Adapter            // once trained, or read back
	live    *layerwise.Trainer       // while training
	tuned   *layerwise.DeviceAdapter // the adapter on the device, for sampling
}

// newRun makes a run that is about to start; old is what is known of earlier
// parts of it, or nil.
func newRun(e *Engine, t gotune.Trainer, old *run) *run {
	r := &run{engine: e, config: t, done: make(chan struct{}), changed: make(chan struct{}), orders: make(chan order)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	nan := math.NaN()
	r.state = gotune.RunInfo{Name: t.Name, State: gotune.RunRunning, Trainer: t, OutputDir: t.OutputDir, Loss: nan, MeanLoss: nan, EvalLoss: nan}
	if old != nil && !t.NoResume {
		earlier := old.withRecords()
		r.records, r.controls = earlier.Records, earlier.Controls
	}
	return r
}

// active says whether the work goes on.
func (r *run) active() bool {
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// stop asks the work to end after the current step, with a checkpoint. why is
// for the record, "" for the verb Stop.
func (r *run) stop(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.active() || r.stopping {
		return
	}
	r.stopping, r.stopNote = true, why
	r.cancel()
}

func appendNew(notes []string, note string) []string {
	for _, n := range notes {
		if n == note {
			return notes
		}
	}
	return append(notes, note)
}

// info is the run's state without its records and controls.
func (r *run) info() gotune.RunInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

func (r *run) withRecords() gotune.RunInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	info := r.state
	info.Records = append([]gotune.StepRecord(nil), r.records...)
	info.Controls = append([]gotune.Control(nil), r.controls...)
	return info
}

// update changes the state and wakes those who follow.
func (r *run) update(f func(*gotune.RunInfo)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.state)
	r.wake()
}

// wake tells followers that there is something new. The caller holds mu.
func (r *run) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// emit takes the events of the run's own call.
func (r *run) emit(event string, data any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch v := data.(type) {
	case wire.Progress:
		r.progress = v
		r.progressed++
	case wire.Log:
		r.logs = append(r.logs, v.Text)
	}
	r.wake()
}

// news is what a follower has not seen yet.
type news struct {
	records  []gotune.StepRecord
	controls []gotune.Control
	logs     []string
	progress *wire.Progress
	changed  <-chan struct{}
}

// A cursor is how far a follower has read.
type cursor struct{ records, controls, logs, progressed int }

func (r *run) since(c *cursor) news {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.records > len(r.records) {
		c.records = len(r.records) // the run went back to a checkpoint
	}
	c.controls = min(c.controls, len(r.controls))
	n := news{records: slices.Clone(r.records[c.records:]), controls: slices.Clone(r.controls[c.controls:]), logs: r.logs[c.logs:], changed: r.changed}
	if c.progressed < r.progressed {
		p := r.progress
		n.progress = &p
	}
	c.records, c.controls, c.logs, c.progressed = len(r.records), len(r.controls), len(r.logs), r.progressed
	return n
}

// follow sends the caller the run's history, then what is new until the run
// ends. A caller that cancels stops the run and still gets its end; one that
// goes away does not.
func (r *run) follow(c *call) (gotune.RunInfo, error) {
	var at cursor
	cancelled := c.stream.Cancelled()
	for {
		ended := !r.active() // before reading, so that nothing of an ended run is missed
		n := r.since(&at)
		if n.progress != nil {
			c.emit(wire.EventProgress, *n.progress)
		}
		for _, l := range n.logs {
			c.log(l)
		}
		n.tell(c)
		if ended {
			info := r.info()
			if info.Error != nil {
				return info, info.Error
			}
			return info, nil
		}
		select {
		case <-n.changed:
		case <-r.done:
		case <-cancelled:
			cancelled = nil
			r.stop("interrupted from a cell")
		case <-c.stream.Gone():
			return r.info(), wire.ErrGone
		}
	}
}

// tell sends steps and controls in their order.
func (n *news) tell(c *call) {
	controls := n.controls
	for _, s := range n.records {
		for len(controls) > 0 && controls[0].Step < s.Step {
			c.emit(wire.EventControl, controls[0])
			controls = controls[1:]
		}
		c.emit(wire.EventStep, s)
	}
	for _, done := range controls {
		c.emit(wire.EventControl, done)
	}
}

// usesModel says whether the run's model is the one of that name.
func (r *run) usesModel(name string) bool { return r.config.Model.Name == name }

// release frees the adapter's device memory and returns how much that was. It
// comes back when it is needed.
func (r *run) release() (freed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tuned != nil {
		freed = r.tuned.Bytes()
		r.tuned.Free()
		r.tuned = nil
	}
	return freed
}

// end notes the outcome.
func (r *run) end(state string, err error) {
	r.update(func(i *gotune.RunInfo) {
		i.State = state
		if err != nil {
			e := *asGotune(wire.VerbRunTrain, err)
			if e.Object == "" {
				e.Object = "run " + quote(r.config.Name)
			}
			i.State, i.Error = gotune.RunFailed, &e
			if e.Kind == gotune.KindInterrupted {
				i.State, i.Error = gotune.RunStopped, nil
			}
		}
		if i.State == gotune.RunStopped && r.stopping { // only now, as the step under way when it was asked still counts
			r.controlLocked(gotune.Control{What: gotune.ControlStop, Step: r.stepLocked(), Note: r.stopNote})
		}
	})
}

// stateLine is the run's state as its journal keeps it.
func (r *run) stateLine() json.RawMessage {
	b, err := json.Marshal(r.info())
	if err != nil {
		return json.RawMessage(`{}`)
	}
	return b
}
