package gotune

import (
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// A screen is where verbs show what they do: the outputs of a notebook's cell,
// or a stream of text.
type screen struct {
	mu       sync.Mutex
	nb       *notebook // nil: text only
	w        io.Writer
	terminal bool // w is one, so that a line can be written over
	pending  int  // width of the unfinished line on a terminal
}

var theScreen struct {
	sync.Mutex
	*screen
}

// current returns the program's screen, made when first needed.
func current() *screen {
	theScreen.Lock()
	defer theScreen.Unlock()
	if theScreen.screen == nil {
		theScreen.screen = openScreen(os.Getenv("GONB_PIPE"), os.Getenv("GONB_PIPE_BACK"), os.Stdout)
	}
	return theScreen.screen
}

// openScreen shows in the notebook at the pipes, or as text on w.
func openScreen(pipe, back string, w io.Writer) *screen {
	s := &screen{w: w}
	if pipe != "" {
		if nb, err := openNotebook(pipe, back); err == nil {
			s.nb = nb
			return s
		}
	}
	if f, ok := w.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		s.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return s
}

// SetOutput makes all verbs show what they do as plain text on w, whether the
// program runs in a notebook or not. io.Discard makes them silent.
func SetOutput(w io.Writer) {
	theScreen.Lock()
	defer theScreen.Unlock()
	theScreen.screen = openScreen("", "", w)
}

// show adds a finished output: HTML to a notebook, else the text.
func (s *screen) show(html, text string) {
	if s.nb != nil && s.nb.show("", html, text) {
		return
	}
	s.write(text)
}

// print writes text to a text screen and nothing to a notebook.
func (s *screen) print(text string) {
	if s.nb == nil {
		s.write(text)
	}
}

func (s *screen) write(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wipe()
	_, _ = io.WriteString(s.w, text)
}

// wipe clears the line that status wrote. The caller holds s.mu.
func (s *screen) wipe() {
	if s.pending > 0 {
		_, _ = io.WriteString(s.w, "\r"+strings.Repeat(" ", s.pending)+"\r")
		s.pending = 0
	}
}

// status writes a line on a terminal that the next output replaces.
func (s *screen) status(line string) {
	if !s.terminal {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wipe()
	line = oneLine(plainText(line), 100)
	_, _ = io.WriteString(s.w, line)
	s.pending = len([]rune(line))
}

// sync returns when nothing shown can be lost any more.
func (s *screen) sync() {
	if s.nb != nil {
		s.nb.sync()
		return
	}
	s.mu.Lock()
	s.wipe()
	s.mu.Unlock()
}

// updateEvery is the least time between two updates of an output in a notebook.
const updateEvery = 250 * time.Millisecond

// A live is an output of a notebook that is drawn again and again. On a text
// screen it draws nothing.
type live struct {
	s     *screen
	id    string
	last  time.Time
	begun bool
	delay time.Duration // before the first drawing
	drawn string        // what the notebook has
}

// live begins an output that appears with its first update after the delay.
func (s *screen) live(delay time.Duration) *live {
	l := &live{s: s, delay: delay, last: time.Now()}
	if s.nb != nil {
		l.id = s.nb.newID()
	}
	return l
}

// due says whether an update would be drawn now.
func (l *live) due() bool {
	wait := updateEvery
	if !l.begun {
		wait = l.delay
	}
	return l.s.nb != nil && time.Since(l.last) >= wait
}

// finish draws the last state, if anything was drawn before, and says whether.
func (l *live) finish(html, text string) bool {
	if !l.begun {
		return false
	}
	l.draw(html, text)
	return true
}

func (l *live) draw(html, text string) {
	l.last, l.begun = time.Now(), true
	if html == l.drawn || l.s.nb == nil {
		return
	}
	l.drawn = html
	l.s.nb.show(l.id, html, text)
}
