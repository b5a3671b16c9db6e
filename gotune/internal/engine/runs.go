package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/events"
)

// runs are the runs that this engine knows by now: those it trained or was
// asked about. Others lie on disk, where the index finds them.
type runs struct {
	mu     sync.Mutex
	byName map[string]*run
}

// running is the run under way, nil for none.
func (s *runs) running() *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.byName {
		if r.active() {
			return r
		}
	}
	return nil
}

func (s *runs) all() []*run {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*run
	for _, n := range s.names() {
		out = append(out, s.byName[n])
	}
	return out
}

// names are sorted. The caller holds mu.
func (s *runs) names() []string {
	var out []string
	for n := range s.byName {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// index is where a run's output folder is noted under its name.
func (e *Engine) index(name string) string {
	return filepath.Join(e.options.StateDir, "runs", fileName(name)+".json")
}

type indexed struct{ Name, OutputDir string }

// remember notes where a run lies.
func (e *Engine) remember(t gotune.Trainer) error {
	b, err := json.Marshal(indexed{t.Name, t.OutputDir})
	if err != nil {
		return err
	}
	return writeFile(e.index(t.Name), b)
}

// run returns the run of that name: one this engine knows, or one on disk. It
// is nil if there is none.
func (e *Engine) run(name string) (*run, error) {
	e.runs.mu.Lock()
	defer e.runs.mu.Unlock()
	if r := e.runs.byName[name]; r != nil {
		return r, nil
	}
	b, err := os.ReadFile(e.index(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var at indexed
	if err := json.Unmarshal(b, &at); err != nil {
		return nil, fmt.Errorf("index of run %s: %w; delete %s", quote(name), err, e.index(name))
	}
	r, err := readRun(e, name, at.OutputDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // its folder was removed
	} else if err != nil {
		return nil, err
	}
	e.runs.byName[name] = r
	return r, nil
}

// find is run, for a name that must mean something.
func (e *Engine) find(name string) (*run, error) {
	r, err := e.run(name)
	if err != nil || r != nil {
		return r, err
	}
	e.runs.mu.Lock()
	known := e.runs.names()
	e.runs.mu.Unlock()
	err = notFound("run", name, known)
	var g *gotune.Error
	if errors.As(err, &g) && len(known) == 0 {
		g.Found, g.Next = "no run of that name", "run the cell that trains it"
	}
	return nil, err
}

// journalPath is a run's journal in its output folder.
func journalPath(dir string) string { return filepath.Join(dir, "journal.jsonl") }

// readRun reads a run from its journal.
func readRun(e *Engine, name, dir string) (*run, error) {
	lines, _, err := events.ReadJournal(journalPath(dir))
	if err != nil {
		return nil, err
	}
	r := &run{engine: e, done: closedChan(), changed: make(chan struct{})}
	for _, l := range lines {
		switch l.Kind {
		case events.KindConfig:
			r.config = gotune.Trainer{}
			r.state.State, r.state.Error = "", nil // it went on
			if err := json.Unmarshal(l.Data, &r.config); err != nil {
				return nil, fmt.Errorf("journal of run %s: %w", quote(name), err)
			}
		case events.KindState:
			var info gotune.RunInfo
			if json.Unmarshal(l.Data, &info) == nil {
				r.state = info
			}
		}
	}
	if r.config.Name != name {
		return nil, fmt.Errorf("journal %s: %w: it is of run %s, not %s", journalPath(dir), fs.ErrNotExist, quote(r.config.Name), quote(name))
	}
	r.controls = replayControls(lines)
	r.records = events.Replay(lines, events.KindStep, func(s gotune.StepRecord) int { return s.Step })
	r.state.Trainer = r.config
	if s := r.state.State; s == gotune.RunRunning || s == gotune.RunPaused || s == "" {
		r.state.State = gotune.RunStopped // the engine ended under it; its checkpoints are there
	}
	if n := len(r.records); n > 0 {
		r.state.Step, r.state.TotalSteps, r.state.Epoch = r.records[n-1].Step, r.records[n-1].TotalSteps, r.records[n-1].Epoch
	}
	return r, nil
}

// trainer completes a literal: absolute paths, and what its bare nouns mean.
func (c *call) trainer(t gotune.Trainer) (gotune.Trainer, error) {
	t, err := t.Resolved()
	if err != nil || t.Bare() {
		return t, err
	}
	t.OutputDir = c.path(t.OutputDir)
	if t.Model, err = c.namedModel(t.Model); err != nil {
		return t, err
	}
	if t.Dataset, err = c.namedDataset(t.Dataset); err != nil {
		return t, err
	}
	if t.Eval != (gotune.Dataset{}) {
		t.Eval, err = c.namedDataset(t.Eval)
	}
	return t, err
}

func (c *call) namedModel(m gotune.Model) (gotune.Model, error) {
	if !m.Bare() {
		m.Source = c.absolute(m.Source)
		return m, nil
	}
	l, err := c.engine.models.find(c, m.Name)
	if err != nil {
		return m, err
	}
	return l.config, nil
}

func (c *call) namedDataset(d gotune.Dataset) (gotune.Dataset, error) {
	if !d.Bare() {
		d.Source = c.absolute(d.Source)
		return d, nil
	}
	l, err := c.engine.datasets.find(c, d.Name)
	if err != nil {
		return d, err
	}
	return l.config, nil
}

// same says whether two configs are of one run. NoResume is a wish of the
// moment, not of the run.
func same(a, b gotune.Trainer) bool {
	a.NoResume, b.NoResume = false, false
	return reflect.DeepEqual(a, b)
}

// runTrain trains, or attaches to the run that is there.
func (e *Engine) runTrain(c *call, a struct{ Trainer gotune.Trainer }) (gotune.RunInfo, error) {
	c.about(a.Trainer.Name)
	t, err := c.trainer(a.Trainer)
	if err != nil {
		return gotune.RunInfo{}, err
	}
	r, err := e.run(t.Name)
	if err != nil {
		return gotune.RunInfo{}, err
	}
	switch {
	case r == nil && t.Bare():
		_, err := e.find(t.Name)
		return gotune.RunInfo{}, err
	case r != nil && !t.Bare() && !same(r.config, t):
		return gotune.RunInfo{}, conflict("run", t.Name, r.config, t)
	case r != nil && t.Bare():
		t = r.config
	}
	if r == nil || !r.active() && (r.info().State != gotune.RunDone || t.NoResume) {
		if r, err = e.start(c, t); err != nil {
			return gotune.RunInfo{}, err
		}
	}
	return r.follow(c)
}

func (e *Engine) runAttach(c *call, a struct{ Name string }) (gotune.RunInfo, error) {
	c.about(a.Name)
	r, err := e.find(a.Name)
	if err != nil {
		return gotune.RunInfo{}, err
	}
	return r.follow(c)
}

func (e *Engine) runStop(c *call, a struct{ Name string }) (gotune.RunInfo, error) {
	c.about(a.Name)
	r, err := e.find(a.Name)
	if err != nil {
		return gotune.RunInfo{}, err
	}
	r.stop("")
	select {
	case <-r.done:
	case <-c.Done():
	}
	return r.info(), nil
}

// runRecord returns a run with its records, by name or by output folder.
func (e *Engine) runRecord(c *call, a struct{ Name, OutputDir string }) (gotune.RunInfo, error) {
	c.about(a.Name + a.OutputDir)
	if a.Name != "" {
		r, err := e.find(a.Name)
		if err != nil {
			return gotune.RunInfo{}, err
		}
		return r.withRecords(), nil
	}
	dir := c.path(a.OutputDir)
	for _, r := range e.runs.all() {
		if r.config.OutputDir == dir {
			return r.withRecords(), nil
		}
	}
	name, err := journalName(dir)
	if err != nil {
		return gotune.RunInfo{}, err
	}
	r, err := readRun(e, name, dir)
	if err != nil {
		return gotune.RunInfo{}, err
	}
	return r.withRecords(), nil
}

// journalName is the name of the run whose output folder dir is.
func journalName(dir string) (string, error) {
	lines, _, err := events.ReadJournal(journalPath(dir))
	if err != nil {
		return "", &gotune.Error{Kind: gotune.KindNotFound, Object: "run in " + dir, Found: err.Error(), Wanted: "the output folder of a run", Next: "correct OutputDir"}
	}
	for i := len(lines) - 1; i >= 0; i-- {
		var t gotune.Trainer
		if lines[i].Kind == events.KindConfig && json.Unmarshal(lines[i].Data, &t) == nil {
			return t.Name, nil
		}
	}
	return "", fmt.Errorf("journal in %s names no run", dir)
}

// start begins a run in the background. It refuses while another has the device.
func (e *Engine) start(c *call, t gotune.Trainer) (*run, error) {
	e.runs.mu.Lock()
	defer e.runs.mu.Unlock()
	for _, o := range e.runs.byName {
		if o.active() {
			if o.config.Name == t.Name {
				return o, nil // another cell was faster
			}
			return nil, busy("run "+quote(t.Name), o)
		}
		if o.config.OutputDir == t.OutputDir && o.config.Name != t.Name {
			return nil, &gotune.Error{Kind: gotune.KindConflict, Object: "run " + quote(t.Name), Found: "run " + quote(o.config.Name) + " has its output in " + t.OutputDir,
				Wanted: "a folder of its own", Next: "give the run another OutputDir"}
		}
	}
	if name, err := journalName(t.OutputDir); err == nil && name != t.Name {
		return nil, &gotune.Error{Kind: gotune.KindConflict, Object: "run " + quote(t.Name), Found: "run " + quote(name) + " has its output in " + t.OutputDir,
			Wanted: "a folder of its own", Next: "give the run another OutputDir, or remove that folder"}
	}
	old := e.runs.byName[t.Name]
	if old != nil {
		old.release()
	}
	r := newRun(e, t, old)
	e.runs.byName[t.Name] = r
	go r.work(c)
	return r, nil
}

// fileName makes a file's name of any run's name, one to one.
func fileName(name string) string {
	return strings.NewReplacer("%", "%25", "/", "%2F", "\x00", "%00").Replace(strings.ReplaceAll(name, ".", "%2E"))
}

func quote(s string) string { return strconv.Quote(s) }

func stepText(i gotune.RunInfo) string {
	if i.TotalSteps == 0 {
		return "preparing"
	}
	return fmt.Sprintf("step %d of %d", i.Step, i.TotalSteps)
}

func closedChan() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// writeFile writes a small file whole or not at all.
func writeFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
