package gotune

import (
	"fmt"
	"io"
	"testing"
	"time"
)

// An output is drawn at most four times a second, however often there is
// something new; and not again when nothing is.
func TestLivePace(t *testing.T) {
	g := newFakeGoNB(t)
	s := openScreen(g.out, g.back, io.Discard)
	l := s.live(0)
	var drawn []time.Time
	for i, end := 0, time.Now().Add(1600*time.Millisecond); time.Now().Before(end); i++ {
		if l.due() {
			drawn = append(drawn, time.Now())
			l.draw(fmt.Sprint("<p>", i, "</p>"), "x")
		}
		time.Sleep(2 * time.Millisecond)
	}
	for i, at := range drawn[1:] {
		if wait := at.Sub(drawn[i]); wait < 250*time.Millisecond {
			t.Errorf("update %d came %v after the one before, want 250 ms or more", i+1, wait)
		}
	}
	if len(drawn) < 3 {
		t.Errorf("%d updates in 1.6 s", len(drawn))
	}
	l.draw("<p>last</p>", "x")
	l.draw("<p>last</p>", "x")
	s.sync()
	if got, want := len(g.displays()), len(drawn)+1; got != want {
		t.Errorf("%d displays, want %d: what is there already is not sent again", got, want)
	}
}
