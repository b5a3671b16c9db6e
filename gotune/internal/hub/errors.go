package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// The kinds of failure a caller may want to tell apart with errors.Is.
// ErrRepoNotFound, ErrRevisionNotFound and ErrEntryNotFound are all ErrNotFound.
var (
	ErrNotFound         = errors.New("not found on the Hub")
	ErrRepoNotFound     = fmt.Errorf("repository %w", ErrNotFound)
	ErrRevisionNotFound = fmt.Errorf("revision %w", ErrNotFound)
	ErrEntryNotFound    = fmt.Errorf("file %w", ErrNotFound)
	ErrUnauthorized     = errors.New("token missing or not valid")
	ErrForbidden        = errors.New("token lacks the right")
	ErrGated            = errors.New("access must be granted first")
	ErrOffline          = errors.New("offline mode")
	ErrNetwork          = errors.New("the Hub can't be reached")
	ErrServer           = errors.New("the Hub failed")
	ErrRateLimited      = errors.New("too many requests")
	ErrConflict         = errors.New("conflict on the Hub")
	ErrRefused          = errors.New("the Hub refused the request")
	ErrCorrupt          = errors.New("the data differ from what the Hub announced")
	ErrProtocol         = errors.New("the answer is not the Hub's")
	ErrInvalid          = errors.New("not valid")
	ErrDisk             = errors.New("the disk refused")
)

// An Error is what every function of this package returns on failure.
type Error struct {
	Op     string // what was done, e.g. "download"
	Object string // to what, e.g. "config.json of model meta-llama/Llama-2-7b-hf@main"
	Found  string // what was there instead
	Wanted string // what was expected; may be empty
	Next   string // what the user can do; may be empty
	Kind   error  // one of the Err… values
	Status int    // HTTP status; 0 when there was no answer
	Err    error  // cause; may be nil
}

// Error joins the fields to "hub: OP OBJECT: FOUND; wanted WANTED: NEXT".
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "hub: %s %s: %s", e.Op, e.Object, e.Found)
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

// statusError turns an answer that is no success into an Error. It reads and
// closes the body.
func (c *Client) statusError(op, object string, resp *http.Response) *Error {
	msg := c.serverMessage(resp)
	code := resp.Header.Get("X-Error-Code")
	e := &Error{Op: op, Object: object, Status: resp.StatusCode, Found: resp.Status}
	if msg != "" {
		e.Found += " (" + msg + ")"
	}
	switch {
	case code == "RepoNotFound" && resp.StatusCode == http.StatusUnauthorized:
		e.Kind, e.Next = ErrRepoNotFound, "check the name; a private or gated repository needs a token: set HF_TOKEN"
	case code == "RepoNotFound":
		e.Kind, e.Next = ErrRepoNotFound, "check the name OWNER/NAME and whether it is a model or a data set; a private one needs a token that may read it"
	case code == "RevisionNotFound":
		e.Kind, e.Next = ErrRevisionNotFound, `use a branch, tag or commit that the repository has; the default is "main"`
	case code == "EntryNotFound":
		e.Kind, e.Next = ErrEntryNotFound, "look at the repository's file list for the right name"
	case code == "GatedRepo":
		e.Kind, e.Next = ErrGated, "accept the licence on the repository's page, then use a token of that account in HF_TOKEN"
	case resp.StatusCode == http.StatusUnauthorized:
		e.Kind = ErrUnauthorized
		e.Next = "set HF_TOKEN to a valid token (the Hub's page Settings, Access Tokens)"
		if !c.Token.IsZero() {
			e.Next = "the token in use is not valid or has expired: make a new one on the Hub's page Settings, Access Tokens, and set HF_TOKEN"
		}
	case resp.StatusCode == http.StatusForbidden:
		e.Kind, e.Next = ErrForbidden, "use a token with write access to this owner's repositories"
	case resp.StatusCode == http.StatusNotFound:
		e.Kind, e.Next = ErrNotFound, "check the name"
	case resp.StatusCode == http.StatusConflict, resp.StatusCode == http.StatusPreconditionFailed:
		e.Kind, e.Next = ErrConflict, "somebody else changed it: look at the repository, then try again"
	case resp.StatusCode == http.StatusTooManyRequests:
		e.Kind, e.Next = ErrRateLimited, "wait some minutes; requests with a token have higher limits"
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusRequestTimeout:
		e.Kind, e.Next = ErrServer, "try again later"
	default:
		e.Kind, e.Next = ErrRefused, "the message says what the Hub wants"
	}
	return e
}

// serverMessage is the Hub's own explanation, one short printable line without
// the token.
func (c *Client) serverMessage(resp *http.Response) string {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
	msg := resp.Header.Get("X-Error-Message")
	if msg == "" {
		msg = bodyMessage(body)
	}
	return c.clean(msg)
}

// clean makes a text from outside fit for an error message.
func (c *Client) clean(msg string) string {
	if t := c.Token.Reveal(); t != "" {
		msg = strings.ReplaceAll(msg, t, c.Token.String())
	}
	msg = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(msg, "?"))
	if r := []rune(msg); len(r) > 300 {
		msg = string(r[:300]) + "…"
	}
	return strings.TrimSpace(msg)
}

// transportError turns a failure without an answer into an Error. The address is
// shown without its query, which may hold a signature.
func (c *Client) transportError(op, object string, err error) *Error {
	host := ""
	var ue *url.Error
	if errors.As(err, &ue) {
		if u, perr := url.Parse(ue.URL); perr == nil {
			host = u.Host
		}
		err = ue.Err
	}
	if errors.Is(err, context.Canceled) {
		return &Error{Op: op, Object: object, Found: "interrupted", Kind: context.Canceled, Err: err}
	}
	found := c.clean(err.Error())
	if host != "" {
		found = "no answer from " + host + ": " + found
	}
	return &Error{Op: op, Object: object, Found: found, Kind: ErrNetwork, Err: err,
		Next: "check the network and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only what is in the cache is used"}
}

// diskError reports a failed file operation.
func diskError(op, object string, err error) *Error {
	e := &Error{Op: op, Object: object, Found: err.Error(), Kind: ErrDisk, Err: err,
		Next: "make room or choose another cache folder with HF_HOME"}
	return e
}

// invalid reports a bad argument or name.
func invalid(op, object, found, wanted string) *Error {
	return &Error{Op: op, Object: object, Found: found, Wanted: wanted, Kind: ErrInvalid}
}
