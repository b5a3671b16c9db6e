// Package engine is the resident process behind gotune's notebook cells: it owns
// the device, the data sets, models and runs, and answers the verbs of package
// wire.
//
// A GoNB cell is a new program each time it runs, so nothing that takes time to
// make can live in it. The engine keys what it holds by name: the same config
// under a name attaches to what is there, another one is a conflict that shows
// both, and a literal with nothing but a name attaches or is not found. So every
// verb may be sent again, and "Run All" is safe.
//
// # What outlives what
//
//	a data set, a model   the cell and the kernel; until unload, free or the end of the engine
//	a run                 the engine too: its journal, checkpoints and config lie in its output
//	                      folder, and an index in the user's state folder finds them by name
//	a request             nothing: when its caller goes, what only the caller wanted stops
//
// # Threads
//
// A model's weights serve one call at a time (package layerwise sees to it): a
// training step or one token of a generation, so that a model can be asked while
// it is trained. GoMLX panics while it builds graphs: package layerwise returns
// those as errors, and [Engine.Handle] does the same for whatever is left.
package engine

import (
	"context"
	"fmt"
	"log"
	"runtime/debug"
	"sync"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// Options say how an engine runs.
type Options struct {
	// Socket is where it listens, for its status. LogFile likewise.
	Socket, LogFile string

	// StateDir gets the index of runs. Default: StateDir().
	StateDir string

	// CacheDir gets the embedded files. Default: gotune's folder in the user's cache.
	CacheDir string

	// Idle is the time after which an engine that does nothing ends. 0: never.
	Idle time.Duration

	// Version of the build, for status and doctor.
	Version string
}

// An Engine holds data sets, models and runs, and answers requests about them.
type Engine struct {
	options Options
	started time.Time
	verbs   map[string]verb

	datasets shelf[gotune.Dataset, *dataset]
	models   shelf[gotune.Model, *model]
	runs     runs

	mu      sync.Mutex
	jobs    map[*job]struct{}
	lastUse time.Time
}

// New returns an engine that holds nothing yet.
func New(o Options) *Engine {
	e := &Engine{options: o, started: time.Now(), lastUse: time.Now(), jobs: map[*job]struct{}{}}
	e.datasets.kind, e.models.kind = "data set", "model"
	e.runs.byName = map[string]*run{}
	e.verbs = map[string]verb{
		wire.VerbPing:             handler(e.ping),
		wire.VerbDoctor:           handler(e.doctor),
		wire.VerbStatus:           handler(e.status),
		wire.VerbFree:             handler(e.free),
		wire.VerbDatasetLoad:      handler(e.datasetLoad),
		wire.VerbDatasetRows:      handler(e.datasetRows),
		wire.VerbDatasetLengths:   handler(e.datasetLengths),
		wire.VerbModelLoad:        handler(e.modelLoad),
		wire.VerbModelUnload:      handler(e.modelUnload),
		wire.VerbModelGenerate:    handler(e.modelGenerate),
		wire.VerbModelGenerateAll: handler(e.modelGenerateAll),
		wire.VerbRunTrain:         handler(e.runTrain),
		wire.VerbRunAttach:        handler(e.runAttach),
		wire.VerbRunStop:          handler(e.runStop),
		wire.VerbRunPause:         handler(e.runPause),
		wire.VerbRunResume:        handler(e.runResume),
		wire.VerbRunSetLR:         handler(e.runSetLR),
		wire.VerbRunSample:        handler(e.runSample),
		wire.VerbRunRecord:        handler(e.runRecord),
		wire.VerbRunSave:          handler(e.runSave),
		wire.VerbRunGenerate:      handler(e.runGenerate),
		wire.VerbRunGenerateAll:   handler(e.runGenerateAll),
		wire.VerbRunMerge:         handler(e.runMerge),
		wire.VerbPush:             handler(e.push),
	}
	return e
}

// A verb answers one kind of request.
type verb func(c *call) (any, error)

// handler makes a verb of a function with typed arguments.
func handler[A, R any](f func(c *call, args A) (R, error)) verb {
	return func(c *call) (any, error) {
		var args A
		if err := c.request.Decode(&args); err != nil {
			return nil, err
		}
		return f(c, args)
	}
}

// none is the arguments of a verb that takes none.
type none struct{}

// Handle answers one request; it is a [wire.Handler]. Every error it returns is
// a *wire.Error.
func (e *Engine) Handle(ctx context.Context, q *wire.Request, s *wire.Stream) (reply any, err error) {
	v, ok := e.verbs[q.Verb]
	if !ok {
		return nil, &wire.Error{Kind: string(gotune.KindInvalid), Op: q.Verb, Object: "request", Found: "an unknown verb",
			Wanted: "one that this engine knows", Next: "restart the engine (%gotune restart-engine): the client is newer than it"}
	}
	c := &call{Context: ctx, engine: e, request: q, stream: s, job: &job{verb: q.Verb, start: time.Now()},
		emit: func(event string, data any) { _ = s.Send(event, data) }}
	e.begin(c.job)
	defer e.end(c.job)
	defer func() {
		if p := recover(); p != nil {
			log.Printf("%s: panic: %v\n%s", q.Verb, p, debug.Stack())
			reply, err = nil, toWire(q.Verb, &gotune.Error{Kind: gotune.KindInternal, Found: fmt.Sprintf("panic: %v", p),
				Next: "please report it, with the engine's log (" + e.options.LogFile + ")"})
		}
	}()
	reply, err = v(c)
	if err != nil {
		w := toWire(q.Verb, err)
		if w.Object == "" && w.Op == opNames[q.Verb] {
			w.Object = subject(q.Verb, c.job.name())
		}
		err = w
		log.Printf("%s %s: %v", q.Verb, c.job.name(), err)
	}
	return reply, err
}

func (e *Engine) begin(j *job) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.jobs[j] = struct{}{}
	e.lastUse = time.Now()
}

func (e *Engine) end(j *job) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.jobs, j)
	e.lastUse = time.Now()
}

// idle is how long the engine has had nothing to do.
func (e *Engine) idle() time.Duration {
	running := e.runs.running()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.jobs) > 0 || running != nil {
		return 0
	}
	return time.Since(e.lastUse)
}

// Close stops the runs under way, each with a checkpoint, and waits for them.
func (e *Engine) Close() {
	for _, r := range e.runs.all() {
		r.stop("the engine was asked to end")
		<-r.done
	}
}

func (e *Engine) ping(*call, none) (wire.Pong, error) {
	return wire.Pong{Version: e.options.Version, Protocol: wire.Version, PID: pid}, nil
}
