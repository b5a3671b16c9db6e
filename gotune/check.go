package gotune

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// stderr is where Check and Must write.
var stderr io.Writer = os.Stderr

// Check ends the program if err is not nil: it prints what went wrong and what
// to do, without a stack, and exits with code 1, so that the notebook marks the
// cell as failed.
func Check(err error) {
	if err == nil {
		return
	}
	current().sync()
	fmt.Fprintln(stderr, plainText(strings.TrimRight(err.Error(), "\n")))
	exit(1)
}

// Must returns v, or ends the program like [Check] if err is not nil:
//
//	info := gotune.Must(run.Train())
func Must[T any](v T, err error) T {
	Check(err)
	return v
}

// endWord is how a headline names the end of a verb that failed.
func endWord(err error) string {
	if errors.Is(err, ErrInterrupted) || errors.Is(err, errStillStopping) || errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	return "failed"
}

// do runs a verb that shows its progress and then its result. A verb that the
// user interrupted in a cell ends the program: later lines of the cell need
// what it did not get.
func do[T any](ctx context.Context, q request, show func(T) (html, text string)) (T, error) {
	return doView(ctx, q, newProgress(q.what), show)
}

// A finishingView can be brought to an end.
type finishingView interface {
	view
	finish(err error)
}

func doView[T any](ctx context.Context, q request, v finishingView, show func(T) (html, text string)) (T, error) {
	var reply T
	s := current()
	stopped, err := call(ctx, q, &reply, v)
	v.finish(err)
	if err == nil && show != nil {
		s.show(show(reply))
	}
	s.sync()
	if stopped && ctx.Value(cellKey{}) != nil {
		endInterrupted(q.what, err)
	}
	return reply, err
}

// endInterrupted says in a line what an interrupt led to, and exits with code 1.
func endInterrupted(what string, err error) {
	line := what + ": interrupted"
	var e *Error
	switch {
	case errors.Is(err, errStillStopping):
		line += "; the engine is still stopping it"
	case errors.As(err, &e) && e.Kind == KindInterrupted && e.Found != "":
		line += ": " + e.Found
	case errors.As(err, &e) && e.Kind != KindInterrupted:
		line += ": " + e.Error()
	}
	fmt.Fprintln(stderr, plainText(line))
	exit(1)
}

// quoted names an object: model "base".
func quoted(kind, name string) string { return kind + " " + fmt.Sprintf("%q", name) }
