package gotune

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// progressView shows the tasks of a verb: a bar each in a notebook, a line on a
// terminal that is written over, else a line for each task that is done.
type progressView struct {
	s       *screen
	what    string
	live    *live
	tasks   []*taskState
	latest  *taskState // the one that was heard of last
	logs    []string
	began   time.Time
	dirty   bool
	stopped bool
}

// A taskState is the latest progress of one task.
type taskState struct {
	wire.Progress
	began, said time.Time
	finished    bool
}

// Progress shows up in a notebook after firstDraw, so that quick verbs do not
// flicker; in text a task says something every sayEvery.
const (
	firstDraw = 300 * time.Millisecond
	sayEvery  = 10 * time.Second
)

func newProgress(what string) *progressView {
	s := current()
	return &progressView{s: s, what: what, live: s.live(firstDraw), began: time.Now()}
}

func (p *progressView) event(m *wire.Message) {
	p.take(m)
	p.tick()
}

// take notes what a message says and draws nothing: views that show progress
// among other things draw it in their own block.
func (p *progressView) take(m *wire.Message) {
	switch m.Event {
	case wire.EventProgress:
		var pr wire.Progress
		if json.Unmarshal(m.Data, &pr) == nil {
			p.progress(pr)
		}
	case wire.EventLog:
		var l wire.Log
		if json.Unmarshal(m.Data, &l) == nil {
			p.logs = append(p.logs, l.Text)
			p.dirty = true
			p.s.print(plainText(l.Text) + "\n")
		}
	}
}

func (p *progressView) progress(pr wire.Progress) {
	var t *taskState
	for _, known := range p.tasks {
		if known.Task == pr.Task {
			t = known
		}
	}
	if t == nil {
		t = &taskState{began: time.Now(), said: time.Now()}
		p.tasks = append(p.tasks, t)
	}
	t.Progress = pr
	p.latest = t
	p.dirty = true
	finished := pr.Total > 0 && pr.Done >= pr.Total
	switch {
	case finished && !t.finished:
		p.s.print(plainText(fmt.Sprintf("%s: %s in %s", pr.Task, amountText(pr.Done, 0, pr.Unit), secondsText(time.Since(t.began).Seconds()))) + "\n")
	case !finished && p.s.terminal:
		p.s.status(t.line())
	case !finished && time.Since(t.said) >= sayEvery:
		t.said = time.Now()
		p.s.print(plainText(t.line()) + "\n")
	}
	t.finished = finished
}

// left is the time the task still takes, in seconds; 0 if not known.
func (t *taskState) left() float64 {
	elapsed := time.Since(t.began).Seconds()
	if t.ETA > 0 || t.Total <= 0 || t.Done <= 0 || elapsed < 1 {
		return t.ETA
	}
	return elapsed * float64(t.Total-t.Done) / float64(t.Done)
}

func (t *taskState) line() string {
	line := t.Task + ": " + amountText(t.Done, t.Total, t.Unit)
	if left := t.left(); left > 0 {
		line += ", " + secondsText(left) + " left"
	}
	if t.Note != "" {
		line += " (" + t.Note + ")"
	}
	return line
}

func (p *progressView) tick() {
	if p.dirty && p.live.due() {
		p.dirty = false
		p.live.draw(p.html(), p.what+" …")
	}
}

// stopping is drawn at once: GoNB may kill the program soon.
func (p *progressView) stopping() {
	p.stopped = true
	if p.s.nb != nil {
		p.live.draw(p.html(), p.what+": stopping")
		p.s.sync()
	}
	p.s.print("stopping … (interrupt again to leave at once)\n")
}

// html is the whole block: title, a bar a task, the latest lines of the log.
func (p *progressView) html() string {
	state := " …"
	if p.stopped {
		state = ": stopping …"
	}
	return "<div>" + escape(p.what+state) + "</div>" + p.bars() + p.logHTML(4)
}

func (p *progressView) bars() string {
	if len(p.tasks) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("<table><tbody>")
	for _, t := range p.tasks {
		left := ""
		if l := t.left(); l > 0 && !t.finished {
			left = secondsText(l) + " left"
		}
		b.WriteString(`<tr><td style="text-align:left">` + escape(t.Task) + `</td><td>` + bar(t.Done, t.Total) +
			`</td><td style="text-align:right">` + escape(amountText(t.Done, t.Total, t.Unit)) +
			`</td><td style="text-align:right">` + escape(left) +
			`</td><td style="text-align:left">` + escape(oneLine(t.Note, 60)) + `</td></tr>`)
	}
	b.WriteString("</tbody></table>")
	return b.String()
}

// bar is the browser's own progress bar, right in light and dark.
func bar(done, total int64) string {
	if total <= 0 {
		return `<progress style="width:16em"></progress>`
	}
	return fmt.Sprintf(`<progress style="width:16em" max="%d" value="%d"></progress>`, total, min(max(done, 0), total))
}

// logHTML is the last n lines of the log; n < 0: all.
func (p *progressView) logHTML(n int) string {
	logs := p.logs
	if n >= 0 {
		logs = logs[max(0, len(logs)-n):]
	}
	if len(logs) == 0 {
		return ""
	}
	return `<div style="white-space:pre-wrap">` + escape(strings.Join(logs, "\n")) + `</div>`
}

// finish replaces the bars by a headline, and the log in full.
func (p *progressView) finish(err error) {
	state := fmt.Sprintf(": done in %s", secondsText(time.Since(p.began).Seconds()))
	if err != nil {
		state = ": " + endWord(err)
	}
	drawn := p.live.finish("<div>"+escape(p.what+state)+"</div>"+p.logHTML(-1), p.what+state)
	if !drawn && len(p.logs) > 0 && p.s.nb != nil {
		p.s.show(p.logHTML(-1), strings.Join(p.logs, "\n"))
	}
}
