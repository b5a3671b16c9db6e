package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Version is the protocol's version. Client and engine must have the same.
const Version = 1

// Verbs of the engine; the package doc lists their arguments and replies.
const (
	VerbPing             = "ping"
	VerbDoctor           = "doctor"
	VerbStatus           = "status"
	VerbFree             = "free"
	VerbShutdown         = "shutdown"
	VerbDatasetLoad      = "dataset.load"
	VerbDatasetRows      = "dataset.rows"
	VerbDatasetLengths   = "dataset.lengths"
	VerbModelLoad        = "model.load"
	VerbModelUnload      = "model.unload"
	VerbModelGenerate    = "model.generate"
	VerbModelGenerateAll = "model.generateall"
	VerbRunTrain         = "run.train"
	VerbRunAttach        = "run.attach"
	VerbRunStop          = "run.stop"
	VerbRunPause         = "run.pause"
	VerbRunResume        = "run.resume"
	VerbRunSetLR         = "run.setlr"
	VerbRunSample        = "run.sample"
	VerbRunRecord        = "run.record"
	VerbRunSave          = "run.save"
	VerbRunGenerate      = "run.generate"
	VerbRunGenerateAll   = "run.generateall"
	VerbRunMerge         = "run.merge"
	VerbPush             = "push"
)

// Events that may come before the reply.
const (
	EventProgress = "progress" // data: Progress
	EventStep     = "step"     // data: gotune.StepRecord
	EventControl  = "control"  // data: gotune.Control
	EventToken    = "token"    // data: Token
	EventLog      = "log"      // data: Log
)

// EnvNames are the environment variables a client sends along, since the
// engine's own environment is that of whoever started it.
var EnvNames = []string{"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"}

// A Request is the first line of a connection.
type Request struct {
	V    int               `json:"v"`              // protocol version
	Verb string            `json:"verb"`           // what to do
	Dir  string            `json:"dir,omitempty"`  // the caller's folder; relative paths start there
	Env  map[string]Secret `json:"env,omitempty"`  // EnvNames that are set
	Args json.RawMessage   `json:"args,omitempty"` // the verb's arguments, an object
}

// Decode reads the arguments into v, a pointer to a struct. An unknown field is
// an error of kind invalid: a newer client than the engine would otherwise be
// obeyed in part.
func (r *Request) Decode(v any) error {
	args := r.Args
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	d := json.NewDecoder(bytes.NewReader(args))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &Error{Kind: "invalid", Op: r.Verb, Object: "arguments", Found: err.Error(),
			Wanted: "the fields this engine knows", Next: restartHint}
	}
	return nil
}

// Getenv returns the caller's value of an environment variable.
func (r *Request) Getenv(name string) string { return r.Env[name].Reveal() }

// A Message is one line from the server: an event, the reply or an error.
type Message struct {
	Event string          `json:"event,omitempty"`
	Data  json.RawMessage `json:"data,omitempty"`  // of an event
	Reply json.RawMessage `json:"reply,omitempty"` // ends the stream
	Error *Error          `json:"error,omitempty"` // ends the stream
}

// control is a line from the client after its request.
type control struct {
	Cancel bool `json:"cancel"`
}

// Progress is the data of a progress event.
type Progress struct {
	Task  string  `json:"task"`            // e.g. "download", "quantize", "compile"
	Done  int64   `json:"done"`            // so far
	Total int64   `json:"total,omitempty"` // 0: not known
	Unit  string  `json:"unit,omitempty"`  // "tensors", "bytes", "rows", "steps", "files"
	Note  string  `json:"note,omitempty"`  // what is being worked on, e.g. a file name
	ETA   float64 `json:"eta_s,omitempty"` // seconds left, 0: not known
}

// Token is the data of a token event: text to append to the generation.
type Token struct {
	Text string `json:"text"`
}

// Log is the data of a log event: one line for the user.
type Log struct {
	Text string `json:"text"`
}

// Pong is the reply to ping and shutdown.
type Pong struct {
	Version  string `json:"version"`  // of the engine's build
	Protocol int    `json:"protocol"` // Version
	PID      int    `json:"pid"`
}

// An Error is a failure as it crosses the wire; gotune.Error has the same fields.
type Error struct {
	Kind   string `json:"kind"`
	Op     string `json:"op,omitempty"`
	Object string `json:"object,omitempty"`
	Found  string `json:"found,omitempty"`
	Wanted string `json:"wanted,omitempty"`
	Next   string `json:"next,omitempty"`
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s %s: have %s, want %s: %s", e.Kind, e.Op, e.Object, e.Found, e.Wanted, e.Next)
}

const restartHint = "run %gotune restart-engine in a cell, or `gotune stop` in a terminal, then try again"

// VersionError reports a client and an engine of different protocol versions.
func VersionError(client, engine int) *Error {
	e := &Error{Kind: "invalid", Op: "connect", Object: "the engine",
		Found: fmt.Sprintf("protocol %d", engine), Wanted: fmt.Sprintf("protocol %d, which this client speaks", client)}
	if engine < client {
		e.Object, e.Next = "the engine is older than the client", restartHint
	} else {
		e.Object, e.Next = "the client is older than the engine", "update package gotune (go get github.com/gotune/gotune), or "+restartHint
	}
	return e
}

// WriteRequest writes r as one line, secrets included.
func WriteRequest(w io.Writer, r Request) error {
	env := make(map[string]string, len(r.Env))
	for k, v := range r.Env {
		env[k] = v.Reveal()
	}
	return writeLine(w, struct {
		V    int               `json:"v"`
		Verb string            `json:"verb"`
		Dir  string            `json:"dir,omitempty"`
		Env  map[string]string `json:"env,omitempty"`
		Args json.RawMessage   `json:"args,omitempty"`
	}{r.V, r.Verb, r.Dir, env, r.Args})
}
