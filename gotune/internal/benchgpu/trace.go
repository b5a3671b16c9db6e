package main

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gomlx/compute"
)

// tracer is a backend that notes how long each program's calls take. Queued calls
// return at once: times mean something while cuda.AwaitCalls is on.
type tracer struct {
	compute.Backend
	mu      sync.Mutex
	calls   map[string]*callStats
	compile time.Duration
}

type callStats struct {
	name  string
	n     int
	total time.Duration
}

func newTracer(be compute.Backend) *tracer {
	return &tracer{Backend: be, calls: map[string]*callStats{}}
}

// Builder returns a builder whose executables are timed under the first word of
// name, which also names the module in XLA's dumps.
func (t *tracer) Builder(name string) compute.Builder {
	name, _, _ = strings.Cut(name, " ")
	return &tracedBuilder{t.Backend.Builder(name), t, name}
}

type tracedBuilder struct {
	compute.Builder
	tracer *tracer
	name   string
}

// Compile times the compilation.
func (b *tracedBuilder) Compile() (compute.Executable, error) {
	start := time.Now()
	e, err := b.Builder.Compile()
	b.tracer.mu.Lock()
	b.tracer.compile += time.Since(start)
	b.tracer.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return &tracedExecutable{e, b.tracer, b.name}, nil
}

type tracedExecutable struct {
	compute.Executable
	tracer *tracer
	name   string
}

// Execute times the call.
func (e *tracedExecutable) Execute(in []compute.Buffer, donate []bool, d compute.DeviceNum) ([]compute.Buffer, error) {
	start := time.Now()
	out, err := e.Executable.Execute(in, donate, d)
	took := time.Since(start)
	e.tracer.mu.Lock()
	defer e.tracer.mu.Unlock()
	s := e.tracer.calls[e.name]
	if s == nil {
		s = &callStats{name: e.name}
		e.tracer.calls[e.name] = s
	}
	s.n++
	s.total += took
	return out, err
}

// reset forgets the calls so far and returns what compiling took until now.
func (t *tracer) reset() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls = map[string]*callStats{}
	c := t.compile
	t.compile = 0
	return c
}

// summary lists the programs by their time, the longest first.
func (t *tracer) summary() (list []callStats) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.calls {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b callStats) int { return int(b.total - a.total) })
	return list
}
