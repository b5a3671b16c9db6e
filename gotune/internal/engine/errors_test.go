package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// A lack of memory says who else holds the GPU's, when it is known.
func TestOutOfMemoryNamesHolders(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	full := fmt.Errorf("step 3: %w", fmt.Errorf("layerwise: run head: %w (RESOURCE_EXHAUSTED)", layerwise.ErrOutOfMemory))
	refused := &gotune.Error{Kind: gotune.KindMemory, Op: "train", Found: "a step takes 20 GiB", Wanted: "at most 15 GiB", Next: "set BatchSize 2"}
	for _, tt := range []struct {
		name, users string
		err         error
		found, next string
	}{
		{"a step", "GPU-aa, 1, some trainer, 14800", full, "other programs hold 14.5 GiB of the 15.0 GiB of Tesla T4 (some trainer, process 1: 14.5 GiB)", "end those programs"},
		{"a plan", "GPU-aa, 1, some trainer, 14800", refused, "a step takes 20 GiB; other programs hold 14.5 GiB", "set BatchSize 2; or end those programs"},
		{"nobody else", fmt.Sprintf("GPU-aa, %d, gotune, 14800", os.Getpid()), full, "RESOURCE_EXHAUSTED)", ""},
		{"a small one", "GPU-aa, 1, Xorg, 100", refused, "a step takes 20 GiB", "set BatchSize 2"},
	} {
		script := "#!/bin/sh\ncase $1 in\n--query-gpu=*) echo 'GPU-aa, Tesla T4, 15360, 15000, 44, 30.00, 70.00, 3';;\n*) echo '" + tt.users + "';;\nesac\n"
		if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		e := toWire(wire.VerbRunTrain, toGotune(toWire(wire.VerbRunTrain, tt.err))) // as a run's error that a cell is told later
		if e.Kind != string(gotune.KindMemory) || !strings.Contains(e.Found, tt.found) || strings.Count(e.Found, "other programs hold") > 1 ||
			strings.Contains(e.Found, "other programs") != strings.Contains(tt.found, "other programs") || !strings.HasPrefix(e.Next, tt.next) {
			t.Errorf("%s: %+v, want found %q and next %q", tt.name, e, tt.found, tt.next)
		}
	}
}

func toGotune(err error) error { return gotune.AsError("", err) }

// An error of another kind asks nobody.
func TestOtherErrorsNameNoHolders(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if e := toWire(wire.VerbRunTrain, errors.New("a config that is wrong")); strings.Contains(e.Found, "hold") {
		t.Errorf("%+v", e)
	}
}
