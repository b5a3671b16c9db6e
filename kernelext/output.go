package kernelext

import (
	"strings"
	"sync"
	"time"
)

const (
	mergeWindow     = 15 * time.Millisecond // adjacent stream messages are gathered into one
	interruptBudget = 1 << 20               // of an interrupted cell's output still shown

	mergeLimit = 64 << 10 // a gathered stream message is sent at this size
	tailLimit  = 64 << 10 // of stderr, kept for the error reply
	holdLimit  = 1 << 20  // of a panic's text, held back for the traceback
)

// outputs is the output of one cell on its way to the clients. Adjacent stream messages are merged: a
// cell that prints line by line would otherwise pass the message rate at which Jupyter's server drops
// output. The text of a panic is held back, since the error that follows it shows it.
type outputs struct {
	kernel *kernel
	cell   *cell

	mu      sync.Mutex
	stream  string // name of the stream in text
	text    strings.Builder
	sent    time.Time // when text was last sent
	timer   *time.Timer
	tail    string // the last of stderr
	held    string // stderr from a panic's first line on
	ending  string // GoNB's line on how the program ended, which the error reply says too
	after   int    // bytes since the cell was interrupted
	dropped bool
	erase   bool // what was shown before text is to go
	toClear bool // the clients were told to, when the next output comes
}

// add takes one message of GoNB's for the cell.
func (o *outputs) add(m *message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var s struct{ Name, Text string }
	if m.kind() != "stream" || m.decode(&s) != nil {
		o.flush()
		if !o.cell.silent || strings.HasPrefix(m.kind(), "comm_") {
			o.toClear = o.toClear && strings.HasPrefix(m.kind(), "comm_")
			o.kernel.relay(m)
		}
		return
	}
	if s.Name == "stderr" {
		before := o.ending
		if o.ending = ""; endingLine.MatchString(s.Text) {
			o.ending, s.Text = s.Text, ""
		}
		s.Text = o.hold(before + s.Text)
	}
	o.write(s.Name, s.Text)
}

// hold keeps stderr's tail, and takes a panic's text out of what is shown.
func (o *outputs) hold(text string) string {
	if text == "" {
		return ""
	}
	o.tail += text
	if len(o.tail) > 2*tailLimit {
		o.tail = o.tail[len(o.tail)-tailLimit:]
	}
	if o.held == "" {
		i := panicStart(text)
		if i < 0 {
			return text
		}
		text, o.held = text[:i], text[i:]
		time.AfterFunc(time.Second, o.release) // the program goes on: it only prints like a panic
		return text
	}
	if o.held += text; len(o.held) > holdLimit {
		text, o.held = o.held, ""
		return text
	}
	return ""
}

// release shows held text after all.
func (o *outputs) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := o.held
	o.held = ""
	o.write("stderr", text)
}

// write gathers stream text.
func (o *outputs) write(name, text string) {
	if text == "" || o.cell.silent || !o.within(len(text)) {
		return
	}
	if o.stream != name {
		o.flush()
		o.stream = name
	}
	if name == "stdout" {
		if rest, ok := cleared(text); ok {
			o.text.Reset()
			o.erase, text = true, rest
		}
	}
	o.text.WriteString(text)
	if time.Since(o.sent) > mergeWindow || o.text.Len() > mergeLimit {
		o.flush()
		return
	}
	if o.timer == nil {
		o.timer = time.AfterFunc(mergeWindow, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.flush()
		})
	}
}

// within says whether the cell may still print: an interrupted one has a budget, since what it printed
// before is many seconds deep in pipes.
func (o *outputs) within(n int) bool {
	o.cell.mu.Lock()
	interrupted := o.cell.interrupted
	o.cell.mu.Unlock()
	if !interrupted {
		return true
	}
	if o.after += n; o.after <= interruptBudget {
		return true
	}
	if !o.dropped {
		o.dropped = true
		o.flush()
		o.kernel.publish("stream", o.cell.header, object{"name": "stderr", "text": "\n[more output of the interrupted cell was dropped]\n"})
	}
	return false
}

// flush sends the gathered text.
func (o *outputs) flush() {
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
	if o.erase {
		o.clear(true)
	}
	if o.text.Len() > 0 {
		o.toClear = false
		o.kernel.publish("stream", o.cell.header, object{"name": o.stream, "text": o.text.String()})
		o.text.Reset()
		o.sent = time.Now()
	}
}

// result shows a magic's result: as the cell's value when the cell is nothing else, as output otherwise.
func (o *outputs) result(r *magicResult, value bool) {
	if o.cell.silent || r == nil {
		return
	}
	content := object{"data": r.bundle(), "metadata": object{}}
	kind := "display_data"
	if value {
		kind = "execute_result"
		content["execution_count"] = o.cell.count
	} else {
		content["transient"] = object{}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flush()
	o.toClear = false
	o.kernel.publish(kind, o.cell.header, content)
}

// finish sends what is left and says how the cell failed, or nil.
func (o *outputs) finish() *cellError {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.cell.outcome(o.tail, o.held)
	if e == nil || e.ename != "panic" {
		o.write("stderr", o.held)
	}
	if e == nil {
		o.write("stderr", o.ending)
	}
	o.held, o.ending = "", ""
	o.flush()
	if o.toClear && e == nil {
		o.clear(false)
	}
	return e
}
