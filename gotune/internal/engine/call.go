package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/hub"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// A call is one request under way. Its context ends when the caller cancels or
// goes away. The work of a run goes on by a call of its own, see [call.detach].
type call struct {
	context.Context
	engine  *Engine
	request *wire.Request
	stream  *wire.Stream // nil for a detached call
	job     *job
	emit    func(event string, data any) // sends an event; a caller that is gone needs none
}

// detach returns a call that outlives c and whose events go to emit.
func (c *call) detach(ctx context.Context, emit func(event string, data any)) *call {
	return &call{Context: ctx, engine: c.engine, request: c.request, job: &job{verb: c.job.verb, start: time.Now()}, emit: emit}
}

// A job is what status says of a call.
type job struct {
	verb  string
	start time.Time

	mu       sync.Mutex
	object   string
	progress wire.Progress
	begun    time.Time // of the task
	sent     time.Time // when the last progress event went out
}

func (j *job) name() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.object
}

func (j *job) info() gotune.JobInfo {
	j.mu.Lock()
	defer j.mu.Unlock()
	return gotune.JobInfo{Verb: j.verb, Object: j.object, Task: j.progress.Task, Done: j.progress.Done, Total: j.progress.Total,
		Seconds: time.Since(j.start).Seconds()}
}

// about names the object of the call, for status and the log.
func (c *call) about(object string) {
	c.job.mu.Lock()
	defer c.job.mu.Unlock()
	c.job.object = object
}

// progressEvery is the shortest time between two progress events of a task.
const progressEvery = 200 * time.Millisecond

// progress tells the caller how far a task is. Between the first and the last
// event of a task those that come too fast are dropped. The time left is
// extrapolated from the task's start.
func (c *call) progress(p wire.Progress) {
	j := c.job
	j.mu.Lock()
	now := time.Now()
	first := p.Task != j.progress.Task
	if first {
		j.begun = now
	} else if p.ETA == 0 && p.Done > 0 && p.Total > p.Done {
		p.ETA = now.Sub(j.begun).Seconds() * float64(p.Total-p.Done) / float64(p.Done)
	}
	j.progress = p
	last := p.Total > 0 && p.Done >= p.Total
	skip := !first && !last && now.Sub(j.sent) < progressEvery
	if !skip {
		j.sent = now
	}
	j.mu.Unlock()
	if !skip {
		c.emit(wire.EventProgress, p)
	}
}

// log tells the caller one line.
func (c *call) log(text string) {
	c.emit(wire.EventLog, wire.Log{Text: text})
}

// path is a path of the caller's, absolute.
func (c *call) path(p string) string {
	if p == "" || filepath.IsAbs(p) || c.request.Dir == "" {
		return filepath.Clean(p)
	}
	return filepath.Join(c.request.Dir, p)
}

// hub is the Hub as the caller's environment describes it.
func (c *call) hub() *hub.Client {
	h := hub.FromEnv(c.request.Getenv)
	h.OnRetry = func(r hub.Retry) {
		c.log(fmt.Sprintf("%s %s: %s; again in %v", r.Op, r.Object, r.Cause, r.Wait.Round(100*time.Millisecond)))
	}
	return h
}
