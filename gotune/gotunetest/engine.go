// Package gotunetest has an engine for tests that trains nothing: it listens at
// a real socket, answers what the test scripted, and records what it was asked.
//
//	func TestMine(t *testing.T) {
//		e := gotunetest.Start(t)
//		e.Reply("dataset.load", gotune.DatasetInfo{Rows: 3})
//		info, err := gotune.Dataset{Source: "rows.jsonl"}.Load()
//		…
//		if got := e.Requests(); len(got) != 1 || got[0].Verb != "dataset.load" { … }
//	}
//
// Start sets GOTUNE_SOCKET for the test, so the verbs of package gotune reach
// this engine and no other. Such a test can't be parallel.
//
// The verbs and the types of their replies are: dataset.load (DatasetInfo),
// dataset.rows (Rows), dataset.lengths (Lengths), model.load (ModelInfo),
// model.unload (StatusInfo), model.generate, run.generate and run.sample
// (Generation), run.train, run.attach, run.stop, run.pause, run.resume,
// run.setlr and run.record (RunInfo), run.save (SaveInfo), run.merge
// (MergeInfo), push (PushInfo), doctor (DoctorInfo), status and free
// (StatusInfo).
package gotunetest

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// An Engine answers the verbs of package gotune by script.
type Engine struct {
	path     string
	mu       sync.Mutex
	handlers map[string]Handler
	requests []Request
}

// A Request is what the engine was asked.
type Request struct {
	Verb string            // e.g. "run.train"
	Dir  string            // the caller's folder
	Env  map[string]string // what it sent along of its environment
	Args json.RawMessage   // the verb's arguments
}

// Decode reads the arguments into v. A field that v lacks is an error.
func (r Request) Decode(v any) error {
	return (&wire.Request{Verb: r.Verb, Args: r.Args}).Decode(v)
}

// A Handler answers one request: it sends events by s and returns the reply or
// an error, best a *gotune.Error. ctx ends when the caller cancels or is gone.
type Handler func(ctx context.Context, r Request, s *Stream) (any, error)

// A Stream sends events to the caller, before the reply.
type Stream struct{ s *wire.Stream }

// Progress says how far a task is, e.g. "quantize", 12, 35, "tensors".
func (s *Stream) Progress(task string, done, total int64, unit string) error {
	return s.s.Send(wire.EventProgress, wire.Progress{Task: task, Done: done, Total: total, Unit: unit})
}

// Log sends a line for the user.
func (s *Stream) Log(line string) error { return s.s.Send(wire.EventLog, wire.Log{Text: line}) }

// Step sends a step of a run.
func (s *Stream) Step(r gotune.StepRecord) error { return s.s.Send(wire.EventStep, r) }

// Control sends what was done to a run, such as a pause.
func (s *Stream) Control(c gotune.Control) error { return s.s.Send(wire.EventControl, c) }

// Token sends the next piece of a generated text.
func (s *Stream) Token(text string) error {
	return s.s.Send(wire.EventToken, wire.Token{Text: text})
}

// Cancelled is closed when the caller asks to stop gracefully.
func (s *Stream) Cancelled() <-chan struct{} { return s.s.Cancelled() }

// Gone is closed when the caller has hung up.
func (s *Stream) Gone() <-chan struct{} { return s.s.Gone() }

// Start starts an engine for the rest of the test and sets GOTUNE_SOCKET to it.
func Start(t testing.TB) *Engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "gotunetest") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{path: filepath.Join(dir, "engine.sock"), handlers: map[string]Handler{}}
	l, err := wire.Listen(e.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx, e.handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("GOTUNE_SOCKET", e.path)
	return e
}

// Socket returns where the engine listens.
func (e *Engine) Socket() string { return e.path }

// Handle makes h answer the verb from now on.
func (e *Engine) Handle(verb string, h Handler) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handlers[verb] = h
}

// Reply makes the engine answer the verb with reply from now on.
func (e *Engine) Reply(verb string, reply any) {
	e.Handle(verb, func(context.Context, Request, *Stream) (any, error) { return reply, nil })
}

// Fail makes the engine answer the verb with an error from now on.
func (e *Engine) Fail(verb string, err error) {
	e.Handle(verb, func(context.Context, Request, *Stream) (any, error) { return nil, err })
}

// Requests returns what the engine was asked so far, in order.
func (e *Engine) Requests() []Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Request(nil), e.requests...)
}

func (e *Engine) handle(ctx context.Context, q *wire.Request, s *wire.Stream) (any, error) {
	if q.Verb == wire.VerbPing {
		return wire.Pong{Version: "gotunetest", Protocol: wire.Version, PID: os.Getpid()}, nil
	}
	r := Request{Verb: q.Verb, Dir: q.Dir, Env: map[string]string{}, Args: q.Args}
	for name := range q.Env {
		r.Env[name] = q.Getenv(name)
	}
	e.mu.Lock()
	e.requests = append(e.requests, r)
	h := e.handlers[q.Verb]
	e.mu.Unlock()
	if h == nil {
		return nil, &gotune.Error{Kind: gotune.KindNotFound, Op: q.Verb, Object: "this verb's script",
			Wanted: "a call of Reply, Handle or Fail for it", Next: "script it before the test uses it"}
	}
	return h(ctx, r, &Stream{s})
}

// Run is a handler for run.train, run.attach and run.record: it sends a step
// for each loss and replies that the run is done. A caller that cancels in the
// middle gets a run that stopped there.
func Run(losses ...float64) Handler {
	return func(ctx context.Context, r Request, s *Stream) (any, error) {
		var args struct {
			Trainer         gotune.Trainer
			Name, OutputDir string
		}
		if err := r.Decode(&args); err != nil {
			return nil, err
		}
		info := gotune.RunInfo{Name: args.Name, State: gotune.RunDone, Trainer: args.Trainer, TotalSteps: len(losses)}
		if args.Trainer.Name != "" {
			info.Name = args.Trainer.Name
		}
		info.OutputDir = filepath.Join(r.Dir, "results", info.Name)
		for i, loss := range losses {
			if errors.Is(context.Cause(ctx), wire.ErrCancelled) {
				info.State = gotune.RunStopped
				info.Checkpoints = append(info.Checkpoints, filepath.Join(info.OutputDir, "checkpoint"))
				break
			}
			step := gotune.StepRecord{Step: i + 1, TotalSteps: len(losses), Epoch: float64(i+1) / float64(len(losses)), Loss: loss, LearningRate: 2e-4,
				GradNorm: 0.3, Tokens: 1000, Supervised: 1000, Seconds: float64(i + 1), TokensPerSecond: 1000, ETA: float64(len(losses) - i - 1),
				Logged: true, MeanLoss: loss}
			if err := s.Step(step); err != nil {
				return nil, err
			}
			info.Step, info.Loss, info.Seconds, info.Epoch = step.Step, loss, step.Seconds, step.Epoch
			info.MeanLoss += (loss - info.MeanLoss) / float64(i+1)
			info.Tokens += int64(step.Tokens)
			info.Records = append(info.Records, step)
		}
		info.TokensPerSecond = 1000
		return info, nil
	}
}

// Text is a handler for model.generate, run.generate and run.sample: it sends the pieces
// one by one and replies with the whole text.
func Text(pieces ...string) Handler {
	return func(ctx context.Context, r Request, s *Stream) (any, error) {
		var args struct {
			Model        gotune.Model
			Name, Prompt string
			Sampling     gotune.Sampling
		}
		if err := r.Decode(&args); err != nil {
			return nil, err
		}
		g := gotune.Generation{Prompt: args.Prompt, Rendered: "<s>[INST] " + args.Prompt + " [/INST]", Stop: "eos", PromptTokens: 8,
			Seconds: 1, TokensPerSecond: float64(len(pieces)), Base: args.Sampling.Base, Sampling: args.Sampling}
		for _, p := range pieces {
			if ctx.Err() != nil {
				g.Stop = "interrupted"
				break
			}
			if err := s.Token(p); err != nil {
				return nil, err
			}
			g.Text += p
			g.Tokens++
		}
		return g, nil
	}
}
