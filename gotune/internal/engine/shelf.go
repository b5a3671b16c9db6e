package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gotune/gotune/gotune"
)

// A shelf holds objects by name: data sets, models. Making one takes time, and
// whoever asks for it meanwhile waits for the first maker.
type shelf[C comparable, V any] struct {
	kind string // "model", for errors
	mu   sync.Mutex
	m    map[string]*item[C, V]
}

type item[C comparable, V any] struct {
	config C
	ready  chan struct{} // closed when value or err is there
	value  V
	err    error
}

// get returns the object of that name and whether it was there before. With
// another config it is a conflict. Without one there it is made.
func (s *shelf[C, V]) get(ctx context.Context, name string, config C, make func() (V, error)) (V, bool, error) {
	var zero V
	for {
		s.mu.Lock()
		it := s.m[name]
		if it == nil {
			it = &item[C, V]{config: config, ready: newReady()}
			if s.m == nil {
				s.m = map[string]*item[C, V]{}
			}
			s.m[name] = it
			s.mu.Unlock()
			s.fill(name, it, make)
			return it.value, false, it.err
		}
		s.mu.Unlock()
		if it.config != config {
			return zero, false, conflict(s.kind, name, it.config, config)
		}
		select {
		case <-it.ready:
		case <-ctx.Done():
			return zero, false, context.Cause(ctx)
		}
		if it.err == nil {
			return it.value, true, nil
		}
		// The first maker failed or gave up, and its item is gone: this one tries again.
	}
}

func newReady() chan struct{} { return make(chan struct{}) }

// fill makes the value; an item that failed leaves the shelf.
func (s *shelf[C, V]) fill(name string, it *item[C, V], make func() (V, error)) {
	done := false
	defer func() {
		if !done { // a panic goes on to Handle, but nobody may wait for ever
			it.err = fmt.Errorf("%s %q: making it failed", s.kind, name)
		}
		if it.err != nil {
			s.mu.Lock()
			delete(s.m, name)
			s.mu.Unlock()
		}
		close(it.ready)
	}()
	it.value, it.err = make()
	done = true
}

// find returns the object that a bare literal means.
func (s *shelf[C, V]) find(ctx context.Context, name string) (V, error) {
	var zero V
	s.mu.Lock()
	it := s.m[name]
	s.mu.Unlock()
	if it == nil {
		return zero, s.notFound(name)
	}
	select {
	case <-it.ready:
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	}
	return it.value, it.err
}

// remove takes the object off the shelf and returns it.
func (s *shelf[C, V]) remove(name string) (V, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.m[name]
	var zero V
	if it == nil {
		return zero, false
	}
	select {
	case <-it.ready:
	default:
		return zero, false // still being made
	}
	delete(s.m, name)
	return it.value, it.err == nil
}

// all returns the finished objects in the order of their names.
func (s *shelf[C, V]) all() []V {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []V
	for _, n := range s.names() {
		it := s.m[n]
		select {
		case <-it.ready:
			if it.err == nil {
				out = append(out, it.value)
			}
		default:
		}
	}
	return out
}

// names are the names on the shelf, sorted. The caller holds mu.
func (s *shelf[C, V]) names() []string {
	var out []string
	for n := range s.m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func (s *shelf[C, V]) notFound(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return notFound(s.kind, name, s.names())
}

// notFound says that a bare name means nothing, and which names there are.
func notFound(kind, name string, known []string) error {
	e := &gotune.Error{Kind: gotune.KindNotFound, Object: fmt.Sprintf("%s %q", kind, name), Found: "nothing of that name is loaded",
		Wanted: "a " + kind + " that an earlier cell loaded", Next: "run the cell that loads it, or give the literal its Source"}
	if len(known) > 0 {
		e.Wanted = "one of " + strings.Join(known, ", ")
		if n := gotune.Nearest(name, known); n != "" {
			e.Next = fmt.Sprintf("did you mean %q?", n)
		}
	}
	return e
}

// conflict says that a name is in use with another config, and shows both.
func conflict(kind, name string, have, want any) error {
	return &gotune.Error{Kind: gotune.KindConflict, Object: fmt.Sprintf("%s %q", kind, name), Found: configText(have), Wanted: configText(want),
		Next: "choose a new Name, or unload the old one first"}
}

func configText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}
