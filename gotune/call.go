package gotune

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// A view shows one verb at work.
type view interface {
	event(m *wire.Message) // an event came
	tick()                 // called some times a second
	stopping()             // the user asked to stop, and the engine was told
}

// A request is one verb on its way to the engine.
type request struct {
	verb    string // of package wire
	what    string // for people, e.g. `load model "base"`
	args    any
	noStart bool // do not start an engine for it
	detach  bool // an interrupt only stops watching
}

type cellKey struct{}

// inCell is the context of the verbs without one: SIGINT, which is how a
// notebook interrupts a cell, stops them gracefully and ends the program.
var inCell = context.WithValue(context.Background(), cellKey{}, true)

// exit ends the program; tests look at it instead.
var exit = os.Exit

// Times that a graceful stop may take. GoNB kills a cell five seconds after its
// interrupt, and the engine goes on stopping by itself.
var (
	cellGrace    = 4 * time.Second
	programGrace = 2 * time.Minute
)

// errStillStopping is what call returns when a stop takes longer than the grace.
var errStillStopping = errors.New("still stopping")

// errDetached is what call returns when an interrupt only ended the watching.
var errDetached = errors.New("left alone")

// call sends the request, shows its events in v, and reads the reply. stopped
// says that the user or ctx asked to stop; err is then what the engine answered.
func call(ctx context.Context, q request, reply any, v view) (stopped bool, err error) {
	var interrupts chan os.Signal // nil, never ready, outside a cell
	if ctx.Value(cellKey{}) != nil {
		interrupts = make(chan os.Signal, 2)
		signal.Notify(interrupts, os.Interrupt)
		defer signal.Stop(interrupts)
	}
	c, err := connect(ctx, q)
	if err != nil {
		return false, err
	}
	defer c.Close()
	l := loop{c: c, q: q, v: v, reply: reply, interrupts: interrupts, done: ctx.Done(), messages: make(chan incoming, 64)}
	go l.read()
	err = l.run()
	if errors.Is(err, errStillStopping) && ctx.Err() != nil {
		err = ctx.Err()
	}
	return l.stopped, err
}

type incoming struct {
	m   *wire.Message
	err error
}

// A loop waits for what comes first: a message, an interrupt, the clock.
type loop struct {
	c          *wire.Call
	q          request
	v          view
	reply      any
	interrupts chan os.Signal
	done       <-chan struct{}
	messages   chan incoming
	giveUp     <-chan time.Time
	stopped    bool
}

func (l *loop) read() {
	for {
		m, err := l.c.Next()
		l.messages <- incoming{m, err}
		if err != nil || m.Event == "" {
			return
		}
	}
}

func (l *loop) run() error {
	clock := time.NewTicker(updateEvery)
	defer clock.Stop()
	for {
		select {
		case in := <-l.messages:
			if in.err == nil && in.m.Event != "" {
				l.v.event(in.m)
				continue
			}
			return l.end(in)
		case <-l.interrupts:
			if l.stopped {
				exit(130)
				return errStillStopping
			}
			if l.q.detach {
				l.stopped = true
				return errDetached
			}
			grace := programGrace
			if current().nb != nil {
				grace = cellGrace
			}
			l.stop(grace)
		case <-l.done:
			l.done = nil
			if l.q.detach {
				return errStillStopping
			}
			if !l.stopped {
				l.stop(programGrace)
			}
		case <-l.giveUp:
			return errStillStopping
		case <-clock.C:
			l.v.tick()
		}
	}
}

func (l *loop) stop(grace time.Duration) {
	l.stopped = true
	_ = l.c.Cancel()
	l.giveUp = time.After(grace)
	l.v.stopping()
}

// end reads the reply, or says why there is none.
func (l *loop) end(in incoming) error {
	switch {
	case in.err == io.EOF || in.err == io.ErrUnexpectedEOF || in.err != nil && isClosed(in.err):
		return &Error{Kind: KindInternal, Op: l.q.what, Found: "the engine ended before it answered",
			Next: "its log, " + logPath() + ", may say why; run the cell again: it starts a new engine, and a training run goes on from its last checkpoint"}
	case in.err != nil:
		return &Error{Kind: KindInternal, Op: l.q.what, Found: in.err.Error(), Next: restartNext}
	case in.m.Error != nil:
		e := fromWire(in.m.Error)
		if e.Op == "" || e.Op == l.q.verb {
			e.Op = l.q.what
		}
		if strings.HasSuffix(e.Op, e.Object) {
			e.Object = "" // named already
		}
		return e
	}
	if err := json.Unmarshal(in.m.Reply, l.reply); err != nil {
		return &Error{Kind: KindInternal, Op: l.q.what, Object: "the engine's reply", Found: err.Error(), Next: restartNext}
	}
	return nil
}

const restartNext = "client and engine may be of different versions: run %gotune restart-engine, or `gotune stop` in a terminal, then try again"

// connect sends the request, to an engine that it starts if none listens.
func connect(ctx context.Context, q request) (*wire.Call, error) {
	args, err := wire.Marshal(q.args)
	if err != nil {
		return nil, &Error{Kind: KindInvalid, Op: q.what, Found: err.Error(), Wanted: "numbers that are finite"}
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, AsError(q.what, err)
	}
	wq := wire.Request{Verb: q.verb, Dir: dir, Env: environment(), Args: args}
	path := wire.SocketPath()
	c, err := wire.Dial(path, wq)
	if errors.Is(err, wire.ErrNoServer) && !q.noStart {
		if err := startEngine(ctx, path); err != nil {
			return nil, err
		}
		c, err = wire.Dial(path, wq)
	}
	switch {
	case errors.Is(err, wire.ErrNoServer):
		return nil, &Error{Kind: KindNotFound, Op: q.what, Object: "the engine", Found: "nobody listens at " + path}
	case err != nil:
		return nil, &Error{Kind: KindIO, Op: q.what, Object: "the engine", Found: err.Error()}
	}
	return c, nil
}

// environment is what the engine should know of this program's.
func environment() map[string]wire.Secret {
	env := map[string]wire.Secret{}
	for _, name := range wire.EnvNames {
		if v := os.Getenv(name); v != "" {
			env[name] = wire.NewSecret(v)
		}
	}
	return env
}

// logPath is where the engine that this package starts writes its log.
func logPath() string { return filepath.Join(filepath.Dir(wire.SocketPath()), "engine.log") }
