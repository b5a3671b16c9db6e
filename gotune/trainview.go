package gotune

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// trainView shows a run: in a notebook one block of fixed height with the loss
// chart and the latest lines of the log, drawn in place; in text a line for
// each line of the log, and on a terminal the state of the run below them.
type trainView struct {
	*progressView
	name     string
	records  []StepRecord
	controls []Control
	headed   bool // the log's head was printed
}

// liveRows is the number of records that the live table shows.
const liveRows = 6

func newTrainView(what, name string) *trainView {
	return &trainView{progressView: newProgress(what), name: name}
}

// print writes text to a text screen.
func (p *progressView) print(text string) { p.s.print(text) }

func (v *trainView) event(m *wire.Message) {
	switch m.Event {
	case wire.EventStep:
		var r StepRecord
		if json.Unmarshal(m.Data, &r) != nil {
			return
		}
		v.add(r)
		v.tick()
	case wire.EventControl:
		var c Control
		if json.Unmarshal(m.Data, &c) != nil {
			return
		}
		v.addControl(c)
		v.tick()
	default:
		v.take(m)
		v.tick()
	}
}

// addControl takes what was done to the run.
func (v *trainView) addControl(c Control) {
	v.controls = append(v.controls, c)
	v.dirty = true
	if len(v.records) == 0 {
		v.logs = append(v.logs, c.line())
	}
	v.print("           " + plainText(c.line()) + "\n")
}

// add takes a step. One that was there already, from before a checkpoint that
// the run went back to, is replaced with all that followed it.
func (v *trainView) add(r StepRecord) {
	for len(v.records) > 0 && v.records[len(v.records)-1].Step >= r.Step {
		v.records = v.records[:len(v.records)-1]
	}
	for len(v.controls) > 0 && v.controls[len(v.controls)-1].Step >= r.Step {
		v.controls = v.controls[:len(v.controls)-1]
	}
	v.records = append(v.records, r)
	v.dirty, v.latest = true, nil
	if r.Logged || r.Evaluated {
		if !v.headed && v.s.nb == nil {
			v.headed = true
			v.print(logHead)
		}
		v.print(logLine(r))
	}
	v.s.status(fmt.Sprintf("%s %s step %d of %d  loss %s  %s  %s left", v.name, textBar(r.Step, r.TotalSteps, 20),
		r.Step, r.TotalSteps, lossText(r.Loss), speedText(r.TokensPerSecond), secondsText(r.ETA)))
}

// textBar is a bar of n characters.
func textBar(done, total, n int) string {
	full := 0
	if total > 0 {
		full = min(n, done*n/total)
	}
	return strings.Repeat("█", full) + strings.Repeat("░", n-full)
}

func (v *trainView) tick() {
	if v.dirty && v.live.due() {
		v.dirty = false
		v.live.draw(v.html(), v.text())
	}
}

func (v *trainView) stopping() {
	v.stopped = true
	if v.s.nb != nil {
		v.live.draw(v.html(), v.text())
		v.s.sync()
	}
	if len(v.records) == 0 {
		v.print("stopping … (interrupt again to leave at once)\n")
		return
	}
	v.print("stopping: the engine ends its step and writes a checkpoint … (interrupt again to leave at once)\n")
}

// text is the state in a line.
func (v *trainView) text() string {
	if len(v.records) == 0 {
		return v.what + " …"
	}
	r := v.records[len(v.records)-1]
	return fmt.Sprintf("%s: step %d of %d, loss %s, %s left", v.name, r.Step, r.TotalSteps, lossText(r.Loss), secondsText(r.ETA))
}

// html is the live block: of one height from the first bar of loading to the last
// step, so that nothing below it moves.
func (v *trainView) html() string {
	body := v.progressView.html()
	if len(v.records) > 0 {
		body = v.charted()
	}
	return onPage(`<div style="min-height:` + liveHeight + `">` + body +
		`<div><small>Page reloaded? Restart the kernel and run this cell again: the run goes on, and shows from its beginning.</small></div></div>`)
}

// liveHeight is what the live block takes with its chart and table.
const liveHeight = "590px"

func (v *trainView) charted() string {
	r := v.records[len(v.records)-1]
	state := secondsText(r.ETA) + " left"
	switch {
	case v.stopped:
		state = "stopping at the end of the step, with a checkpoint"
	case isPaused(v.controls):
		state = "paused until Resume()"
	}
	var b strings.Builder
	b.WriteString(`<div style="white-space:nowrap;overflow:hidden;text-overflow:ellipsis"><b>` + escape(v.name) + `</b> · ` +
		escape(fmt.Sprintf("step %d of %d · epoch %.2f · loss %s · %s · %s", r.Step, r.TotalSteps, r.Epoch, lossText(r.Loss), secondsText(r.Seconds), state)) + `</div>`)
	b.WriteString(fmt.Sprintf(`<progress style="width:%dpx;max-width:100%%" max="%d" value="%d"></progress>`, chartWidth, max(1, r.TotalSteps), r.Step))
	b.WriteString(lossChart(liveStyle, []curve{newCurve(v.name, v.records, v.controls, 0)}, r.TotalSteps))
	b.WriteString(liveTable(v.records, v.controls).html())
	b.WriteString(`<div style="white-space:nowrap;overflow:hidden;text-overflow:ellipsis"><small>` + escape(v.activity()) + ` </small></div>`)
	return b.String()
}

// activity is what the engine does since the newest step, e.g. an evaluation.
func (v *trainView) activity() string {
	if v.latest == nil || v.latest.finished {
		return ""
	}
	return oneLine(v.latest.line(), 100)
}

// liveTable is the latest lines of the log and the newest step, in a fixed
// number of rows, so that the page does not move.
func liveTable(records []StepRecord, controls []Control) table {
	t := table{head: logColumns("time left", records)}
	newest := records[len(records)-1]
	logged := loggedOnly(records)
	if n := len(logged); n > 0 && logged[n-1].Step == newest.Step {
		logged = logged[:n-1]
	}
	from := 0
	if n := len(logged) - liveRows; n >= 0 {
		from = logged[n].Step
	}
	logged = logged[max(0, len(logged)-liveRows+1):]
	rows := append(logged[:len(logged):len(logged)], newest)
	for _, r := range rows {
		t.rows = append(t.rows, logRow(r, r.ETA, len(t.head)))
	}
	t.addMarks(rowMarks(rows, controls, from), len(controls) > 0)
	for len(t.rows) < liveRows {
		t.rows = append(t.rows, append([]string{"\u00a0"}, make([]string, len(t.head)-1)...))
	}
	return t
}

// addMarks adds a column for what was done by hand, if anything was.
func (t *table) addMarks(marks []string, shown bool) {
	if !shown {
		return
	}
	t.head = append(t.head[:len(t.head):len(t.head)], "by hand")
	for i := range t.rows {
		t.rows[i] = append(t.rows[i], marks[i])
	}
}

// loggedOnly are the records that make a line of the log.
func loggedOnly(records []StepRecord) []StepRecord {
	var out []StepRecord
	for _, r := range records {
		if r.Logged || r.Evaluated {
			out = append(out, r)
		}
	}
	return out
}

// finalRows is about the number of lines of the log that a finished run shows.
const finalRows = 12

// shownLog are the lines of the log that a finished run shows: some at even
// distances, and every evaluation unless those are many.
func shownLog(records []StepRecord) []StepRecord {
	all := loggedOnly(records)
	var evaluated []StepRecord
	for _, r := range all {
		if r.Evaluated {
			evaluated = append(evaluated, r)
		}
	}
	shown := append(slices.Clone(thin(all, finalRows)), thin(evaluated, finalRows/2)...)
	slices.SortFunc(shown, func(a, b StepRecord) int { return a.Step - b.Step })
	return slices.CompactFunc(shown, func(a, b StepRecord) bool { return a.Step == b.Step })
}

// logColumns names the columns of logRow: that of evaluations is there when there
// was one.
func logColumns(time string, records []StepRecord) []string {
	head := []string{"step", "loss", "learning rate", "grad norm", "tok/s", time}
	if slices.ContainsFunc(records, func(r StepRecord) bool { return r.Evaluated }) {
		head = append(head, "evaluation")
	}
	return head
}

// finalTable is the log of a run that has ended: the time is what passed.
func finalTable(records []StepRecord, controls []Control) table {
	t := table{head: logColumns("time", records)}
	for _, r := range records {
		t.rows = append(t.rows, logRow(r, r.Seconds, len(t.head)))
	}
	t.addMarks(rowMarks(records, controls, 0), len(controls) > 0)
	return t
}

// logRow is a line of the log in the first columns of logColumns.
func logRow(r StepRecord, seconds float64, columns int) []string {
	loss := lossText(r.Loss)
	if r.Logged {
		loss = lossText(r.MeanLoss)
	}
	norm := lossText(r.GradNorm)
	if r.Skipped {
		norm += " skipped"
	}
	eval := ""
	if r.Evaluated {
		eval = lossText(r.EvalLoss)
	}
	return []string{countText(r.Step), loss, rateText(r.LearningRate), norm, strings.TrimSuffix(speedText(r.TokensPerSecond), " tok/s"), secondsText(seconds), eval}[:columns]
}

// The log in text, a line a record.
const (
	logHead   = "      step      loss        lr  grad norm         speed  time left\n"
	logFormat = "%10s  %8s  %8s  %9s  %12s  %9s\n"
)

func logLine(r StepRecord) string {
	loss := r.Loss
	if r.Logged {
		loss = r.MeanLoss
	}
	line := fmt.Sprintf(logFormat, fmt.Sprintf("%d/%d", r.Step, r.TotalSteps), lossText(loss), rateText(r.LearningRate), lossText(r.GradNorm),
		speedText(r.TokensPerSecond), secondsText(r.ETA))
	if r.Evaluated {
		line += "           eval loss " + lossText(r.EvalLoss) + "\n"
	}
	if r.Skipped {
		line += "           skipped: the gradient was not finite in float16; the loss scale is now " + lossText(r.LossScale) + "\n"
	}
	return line
}
