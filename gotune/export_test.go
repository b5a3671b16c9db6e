package gotune

import (
	"io"
	"testing"
	"time"
)

// UseNotebook shows everything in the notebook at the pipes for the test.
func UseNotebook(t *testing.T, g *FakeGoNB) {
	swap(t, openScreen(g.out, g.back, io.Discard))
}

// UseTerminal shows everything as on a terminal for the test.
func UseTerminal(t *testing.T, w io.Writer) { swap(t, &screen{w: w, terminal: true}) }

// UseText shows everything as text for the test.
func UseText(t *testing.T, w io.Writer) { swap(t, openScreen("", "", w)) }

func swap(t *testing.T, s *screen) {
	theScreen.Lock()
	defer theScreen.Unlock()
	old := theScreen.screen
	theScreen.screen = s
	t.Cleanup(func() {
		theScreen.Lock()
		defer theScreen.Unlock()
		theScreen.screen = old
	})
}

// CatchExit records exit codes and what goes to standard error.
func CatchExit(t *testing.T, errs io.Writer) *[]int {
	var codes []int
	oldExit, oldErr := exit, stderr
	exit, stderr = func(code int) { codes = append(codes, code) }, errs
	t.Cleanup(func() { exit, stderr = oldExit, oldErr })
	return &codes
}

// ShortGrace makes a cell wait for a graceful stop that long only.
func ShortGrace(t *testing.T, d time.Duration) {
	oldCell, oldProgram := cellGrace, programGrace
	cellGrace, programGrace = d, d
	t.Cleanup(func() { cellGrace, programGrace = oldCell, oldProgram })
}

// Names for the tests outside.
type (
	FakeGoNB = fakeGoNB
	Display  = gonbDisplay
)

var (
	NewFakeGoNB   = newFakeGoNB
	Changes       = changes
	TemplateParts = templateParts
)

// Displays returns what was shown so far.
func (g *FakeGoNB) Displays() []Display { return g.displays() }

// Final returns the outputs as a saved notebook has them: the last state of each.
func (g *FakeGoNB) Final() []Display {
	var out []Display
	at := map[string]int{}
	for _, d := range g.displays() {
		if i, ok := at[d.DisplayID]; ok && d.DisplayID != "" {
			out[i] = d
			continue
		}
		at[d.DisplayID] = len(out)
		out = append(out, d)
	}
	return out
}
