package engine

import (
	"context"
	"errors"
	"strings"

	"github.com/gotune/gotune/cuda/smi"
	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/hub"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// toWire brings any error into the form that crosses the wire: the kind that a
// caller may branch on, what was found and wanted, and what to do next. op is
// filled in where the error names no operation.
func toWire(op string, err error) *wire.Error {
	e := *asGotune(op, err)
	if e.Op == "" {
		e.Op = opNames[op]
	}
	return &wire.Error{Kind: string(e.Kind), Op: e.Op, Object: e.Object, Found: e.Found, Wanted: e.Wanted, Next: e.Next}
}

// opNames are the verbs as a user would say them.
var opNames = map[string]string{
	wire.VerbDoctor: "look at this machine", wire.VerbStatus: "ask for the status", wire.VerbFree: "free memory",
	wire.VerbDatasetLoad: "load", wire.VerbDatasetRows: "read rows of", wire.VerbDatasetLengths: "count the tokens of",
	wire.VerbModelLoad: "load", wire.VerbModelUnload: "unload", wire.VerbModelGenerate: "generate with", wire.VerbModelGenerateAll: "generate with",
	wire.VerbRunTrain: "train", wire.VerbRunAttach: "attach to", wire.VerbRunStop: "stop", wire.VerbRunRecord: "read the record of",
	wire.VerbRunPause: "pause", wire.VerbRunResume: "resume", wire.VerbRunSetLR: "set the learning rate of", wire.VerbRunSample: "sample from",
	wire.VerbRunSave: "save", wire.VerbRunGenerate: "generate with", wire.VerbRunGenerateAll: "generate with", wire.VerbRunMerge: "merge", wire.VerbPush: "push",
}

// subject is what a call is about in an error that names no object itself, "" if
// that is not known.
func subject(verb, name string) string {
	noun, _, _ := strings.Cut(verb, ".")
	noun = map[string]string{"dataset": "data set", "model": "model", "run": "run"}[noun]
	if noun == "" || name == "" {
		return ""
	}
	return noun + " " + quote(name)
}

func asGotune(op string, err error) *gotune.Error {
	var h *hub.Error
	if errors.As(err, &h) {
		return &gotune.Error{Kind: hubKind(h), Op: h.Op, Object: h.Object, Found: h.Found, Wanted: h.Wanted, Next: h.Next}
	}
	switch {
	case errors.Is(err, wire.ErrCancelled), errors.Is(err, wire.ErrGone), errors.Is(err, context.Canceled):
		return &gotune.Error{Kind: gotune.KindInterrupted, Op: opNames[op], Found: "the cell was interrupted", Next: "run the cell again: what was finished is kept"}
	}
	e := *gotune.AsError(opNames[op], err)
	if errors.Is(err, layerwise.ErrOutOfMemory) {
		e.Kind = gotune.KindMemory
	}
	if e.Kind == gotune.KindMemory {
		e = withHolders(e)
	}
	var g *gotune.Error
	if e.Kind == gotune.KindInternal && !errors.As(err, &g) {
		e.Kind = gotune.KindInvalid // the packages below name what is wrong with a file or a config
	}
	return &e
}

// withHolders adds to a lack of memory who else has the GPU's: then it is not the
// model or the batch that is too large.
func withHolders(e gotune.Error) gotune.Error {
	const next = "end those programs, or wait for them, and run the cell again"
	if strings.HasSuffix(e.Next, next) {
		return e // an error that comes by twice
	}
	if h := smi.Holders(smi.Read(context.Background()), pid); h != "" {
		e.Found += "; " + h
		if e.Next != "" {
			e.Next += "; or "
		}
		e.Next += next
	}
	return e
}

// hubKinds are the Hub's kinds of failure in gotune's words, the first that
// fits.
var hubKinds = []struct {
	is   error
	kind gotune.Kind
}{
	{hub.ErrNotFound, gotune.KindNotFound}, {hub.ErrUnauthorized, gotune.KindAuth}, {hub.ErrForbidden, gotune.KindAuth},
	{hub.ErrGated, gotune.KindAuth}, {hub.ErrOffline, gotune.KindNetwork}, {hub.ErrNetwork, gotune.KindNetwork},
	{hub.ErrServer, gotune.KindNetwork}, {hub.ErrRateLimited, gotune.KindNetwork}, {hub.ErrProtocol, gotune.KindNetwork},
	{hub.ErrConflict, gotune.KindConflict}, {hub.ErrDisk, gotune.KindIO}, {hub.ErrCorrupt, gotune.KindIO},
	{hub.ErrRefused, gotune.KindInvalid}, {hub.ErrInvalid, gotune.KindInvalid},
}

func hubKind(err error) gotune.Kind {
	if errors.Is(err, context.Canceled) {
		return gotune.KindInterrupted
	}
	for _, k := range hubKinds {
		if errors.Is(err, k.is) {
			return k.kind
		}
	}
	return gotune.KindInternal
}
