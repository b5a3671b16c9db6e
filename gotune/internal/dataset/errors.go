package dataset

import (
	"errors"
	"fmt"
	"strings"
)

// The kinds of failure a caller may want to tell apart with errors.Is. Failures
// of the Hub carry package hub's kinds.
var (
	ErrNotFound = errors.New("no such data set")
	ErrFormat   = errors.New("unknown format")
	ErrCorrupt  = errors.New("damaged file")
	ErrTooLarge = errors.New("larger than allowed")
	ErrSplit    = errors.New("no such split")
	ErrColumn   = errors.New("no such column")
	ErrEmpty    = errors.New("no rows")
	ErrNullText = errors.New("rows without text")
	ErrConfig   = errors.New("configuration not clear")
)

// An Error is what the functions of this package return on failure.
type Error struct {
	Op     string // what was done, e.g. "read"
	Object string // to what, e.g. "data/train.jsonl, line 12"
	Found  string // what was there instead
	Wanted string // what was expected; may be empty
	Next   string // what the user can do; may be empty
	Kind   error  // one of the Err… values
	Err    error  // cause; may be nil
}

// Error joins the fields to "dataset: OP OBJECT: FOUND; wanted WANTED: NEXT".
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "dataset: %s %s: %s", e.Op, e.Object, e.Found)
	if e.Wanted != "" {
		fmt.Fprintf(&b, "; wanted %s", e.Wanted)
	}
	if e.Next != "" {
		fmt.Fprintf(&b, ": %s", e.Next)
	}
	return b.String()
}

// Unwrap gives the kind and the cause to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// corrupt reports a file that is not what its format says.
func corrupt(object, found, wanted string) *Error {
	return &Error{Op: "read", Object: object, Found: found, Wanted: wanted, Kind: ErrCorrupt,
		Next: "the file may be cut or damaged: get it again"}
}

// names joins at most 20 names for a message.
func names(ss []string) string {
	if len(ss) == 0 {
		return "none"
	}
	if len(ss) > 20 {
		return strings.Join(ss[:20], ", ") + fmt.Sprintf(", … %d more", len(ss)-20)
	}
	return strings.Join(ss, ", ")
}
