package gotune

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// An Error says what went wrong with what, what was found, what was wanted and
// what to do next. Empty fields are left out when it prints:
//
//	load model "base": the name is in use with a different config
//		have {"Name":"base","Source":"embedded"}
//		want {"Name":"base","Source":"NousResearch/Llama-2-7b-chat-hf"}
//		hint: choose a new Name, or Unload() the old one
//
// Programs compare by kind: errors.Is(err, gotune.ErrNotFound).
type Error struct {
	Kind   Kind   `json:"kind"`             // what sort of failure
	Op     string `json:"op,omitempty"`     // the operation, e.g. "train"
	Object string `json:"object,omitempty"` // what it was about, e.g. `run "llama-2-7b-miniguanaco"` or "Trainer.LearningRate"
	Found  string `json:"found,omitempty"`  // what is there
	Wanted string `json:"wanted,omitempty"` // what should be there
	Next   string `json:"next,omitempty"`   // what the user can do
}

// A Kind is a sort of failure that a program may branch on.
type Kind string

// Kinds of errors.
const (
	KindConflict    Kind = "conflict"    // a name is in use with another config
	KindNotFound    Kind = "notfound"    // no such name, file, row, column, repository
	KindBusy        Kind = "busy"        // another job has the engine
	KindInvalid     Kind = "invalid"     // a config or a file that can't be right
	KindIO          Kind = "io"          // reading or writing failed
	KindMemory      Kind = "memory"      // does not fit into the memory there is
	KindNetwork     Kind = "network"     // the Hub was not reached
	KindAuth        Kind = "auth"        // the Hub wants a token, or another one
	KindInterrupted Kind = "interrupted" // stopped by the user
	KindInternal    Kind = "internal"    // a bug in gotune
)

// Sentinels for errors.Is: they match any Error of their kind.
var (
	ErrConflict    = &Error{Kind: KindConflict}
	ErrNotFound    = &Error{Kind: KindNotFound}
	ErrBusy        = &Error{Kind: KindBusy}
	ErrInvalid     = &Error{Kind: KindInvalid}
	ErrIO          = &Error{Kind: KindIO}
	ErrMemory      = &Error{Kind: KindMemory}
	ErrNetwork     = &Error{Kind: KindNetwork}
	ErrAuth        = &Error{Kind: KindAuth}
	ErrInterrupted = &Error{Kind: KindInterrupted}
	ErrInternal    = &Error{Kind: KindInternal}
)

// says is the first line's text for each kind.
var says = map[Kind]string{
	KindConflict:    "the name is in use with a different config",
	KindNotFound:    "not found",
	KindBusy:        "the engine is busy",
	KindInvalid:     "not valid",
	KindIO:          "reading or writing failed",
	KindMemory:      "not enough memory",
	KindNetwork:     "no connection",
	KindAuth:        "access denied",
	KindInterrupted: "interrupted",
	KindInternal:    "internal error",
}

// Error returns one line for the operation, the object and the kind, then a
// line each for what was found (have), what was wanted (want) and what to do
// (hint).
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(e.Op + " " + e.Object))
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if text, ok := says[e.Kind]; ok {
		b.WriteString(text)
	} else {
		b.WriteString(string(e.Kind))
	}
	for _, line := range []struct{ label, text string }{{"have ", e.Found}, {"want ", e.Wanted}, {"hint: ", e.Next}} {
		if line.text != "" {
			b.WriteString("\n\t" + line.label + strings.ReplaceAll(line.text, "\n", "\n\t\t"))
		}
	}
	return b.String()
}

// Fields returns the fields as plain strings, in which form they cross the wire.
func (e *Error) Fields() (kind, op, object, found, wanted, next string) {
	return string(e.Kind), e.Op, e.Object, e.Found, e.Wanted, e.Next
}

// Is says whether target is the sentinel of e's kind.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && *t == Error{Kind: e.Kind}
}

// AsError returns err as an *Error: the one it wraps, or a new one whose kind
// is read off well-known errors (a missing file, a full disk, a context that
// ended). Found is then err's text. It returns nil for nil.
func AsError(op string, err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var we *wire.Error
	if errors.As(err, &we) {
		return fromWire(we)
	}
	e = &Error{Kind: KindInternal, Op: op, Found: err.Error()}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Kind = KindInterrupted
	case errors.Is(err, fs.ErrNotExist):
		e.Kind = KindNotFound
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.Next = KindIO, "free some disk space, then run the cell again: nothing half-written is kept"
	case errors.Is(err, fs.ErrPermission):
		e.Kind = KindIO
	case errors.Is(err, syscall.ENOMEM):
		e.Kind = KindMemory
	}
	return e
}

func fromWire(e *wire.Error) *Error {
	return &Error{Kind: Kind(e.Kind), Op: e.Op, Object: e.Object, Found: e.Found, Wanted: e.Wanted, Next: e.Next}
}
