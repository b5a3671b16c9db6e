package gotune

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A curve is the loss of one run over its steps.
type curve struct {
	name   string
	x, raw []float64
	smooth []float64 // as long as raw
	evalX  []float64
	evalY  []float64

	controls []Control // marked where they were
}

// newCurve takes the finite losses of a record. window is the number of steps
// that smoothing looks back over; 0 takes a twentieth of the steps, 1 none.
func newCurve(name string, records []StepRecord, controls []Control, window int) curve {
	c := curve{name: name, controls: controls}
	for _, r := range records {
		if finite(r.Loss) {
			c.x = append(c.x, float64(r.Step))
			c.raw = append(c.raw, r.Loss)
		}
		if r.Evaluated && finite(r.EvalLoss) {
			c.evalX = append(c.evalX, float64(r.Step))
			c.evalY = append(c.evalY, r.EvalLoss)
		}
	}
	if window <= 0 {
		window = max(4, len(c.raw)/20)
	}
	c.smooth = smoothed(c.raw, window)
	return c
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// smoothed is the exponential moving average of v with the weight 2/(window+1)
// for the newest value, divided by the sum of the weights so far, so that it
// begins at the first value and not at zero.
func smoothed(v []float64, window int) []float64 {
	out := make([]float64, len(v))
	alpha := 2 / (float64(window) + 1)
	sum, weight := 0.0, 0.0
	for i, x := range v {
		sum = sum*(1-alpha) + alpha*x
		weight = weight*(1-alpha) + alpha
		out[i] = sum / weight
	}
	return out
}

// lossChart draws curves over each other, from step 0 to lastStep.
func lossChart(style chartStyle, curves []curve, lastStep int) string {
	p := plane{x0: 0, x1: math.Max(1, float64(lastStep)), y0: math.Inf(1), y1: math.Inf(-1)}
	for _, c := range curves {
		for _, values := range [][]float64{c.raw, c.evalY} {
			for _, v := range values {
				p.y0, p.y1 = math.Min(p.y0, v), math.Max(p.y1, v)
			}
		}
		if len(c.x) > 0 {
			p.x1 = math.Max(p.x1, c.x[len(c.x)-1])
		}
	}
	if p.y0 > p.y1 {
		p.y0, p.y1 = 0, 1
	}
	// At least a tenth of the loss is shown: a first step or two are no cliff.
	room := math.Max((p.y1-p.y0)*0.05, math.Max((math.Abs(p.y1)*0.1-(p.y1-p.y0))/2, 1e-9))
	p.y0, p.y1 = p.y0-room, p.y1+room
	if p.y0 < 0 && p.y0 >= -room {
		p.y0 = 0 // losses are not negative
	}
	var names []string
	for _, c := range curves {
		names = append(names, c.name)
	}
	legend, lower := style.legend(names, chartNote(curves))
	p.lower = lower
	var b strings.Builder
	b.WriteString(style.axes(p, "step", "loss", wholeTicks(p.x0, p.x1, 8), ticks(p.y0, p.y1, 7)))
	for i, c := range curves {
		b.WriteString(polyline(p, c.x, c.raw, style.paint("stroke", i, true), 1))
	}
	for i, c := range curves {
		b.WriteString(style.controlLines(p, c.controls, i))
		b.WriteString(polyline(p, c.x, c.smooth, style.paint("stroke", i, false), 2))
	}
	for i, c := range curves {
		for j := range c.evalX {
			at := ` cx="` + px(p.x(c.evalX[j])) + `" cy="` + px(p.y(c.evalY[j])) + `"`
			b.WriteString(`<circle ` + style.ground + at + ` r="5.5"/><circle ` + style.paint("fill", i, false) + at + ` r="4"/>`)
		}
	}
	b.WriteString(style.controlLabels(p, curves))
	return style.svg(p, len(curves), lossAlt(curves), b.String()+legend)
}

// together are the controls of the same step as the first one.
func together(controls []Control) []Control {
	n := 1
	for n < len(controls) && controls[n].Step == controls[0].Step {
		n++
	}
	return controls[:n]
}

// controlLines draws a dashed line where something was done by hand; its title,
// which shows under the mouse, tells all.
func (s chartStyle) controlLines(p plane, controls []Control, series int) string {
	var b strings.Builder
	for len(controls) > 0 {
		here := together(controls)
		controls = controls[len(here):]
		var lines []string
		for _, c := range here {
			lines = append(lines, c.line())
		}
		b.WriteString(`<path ` + s.paint("stroke", series, false) + ` stroke-dasharray="4 3" d="M` + px(p.x(float64(here[0].Step))) + ` ` + px(p.top()) +
			`V` + px(p.bottom()) + `"><title>` + escape(strings.Join(lines, "\n")) + `</title></path>`)
	}
	return b.String()
}

// labelRows is the number of rows of labels at the top of a chart.
const labelRows = 3

// controlLabels writes at those lines what was done, in up to labelRows rows
// where there is room.
func (s chartStyle) controlLabels(p plane, curves []curve) string {
	var b strings.Builder
	type span struct{ from, to float64 }
	var taken [labelRows][]span
	for _, c := range curves {
		for controls := c.controls; len(controls) > 0; {
			here := together(controls)
			controls = controls[len(here):]
			x := p.x(float64(here[0].Step))
			label := oneLine(marks(here), 32)
			anchor, at, room := "start", x+4, span{x, x + 4 + textWidth(label)}
			if room.to > chartWidth {
				anchor, at, room = "end", x-4, span{x - 4 - textWidth(label), x}
			}
			for row := range taken {
				if slices.ContainsFunc(taken[row], func(t span) bool { return room.from < t.to && t.from < room.to }) {
					continue
				}
				taken[row] = append(taken[row], room)
				b.WriteString(textWith(s.label, at, p.top()+10+float64(15*row), anchor, label))
				break
			}
		}
	}
	return b.String()
}

// chartNote says what the lines are.
func chartNote(curves []curve) string {
	note := "thin: each step · thick: smoothed"
	for _, c := range curves {
		if len(c.evalX) > 0 {
			return note + " · dots: evaluation"
		}
	}
	return note
}

// lossAlt tells the curves in words.
func lossAlt(curves []curve) string {
	var parts []string
	for _, c := range curves {
		if n := len(c.raw); n > 0 {
			parts = append(parts, fmt.Sprintf("%s: %.4f at step %.0f, smoothed %.4f at step %.0f", c.name, c.raw[0], c.x[0], c.smooth[n-1], c.x[n-1])+controlAlt(c.controls))
		} else {
			parts = append(parts, c.name+": no steps yet")
		}
	}
	return "Loss over steps. " + strings.Join(parts, "; ") + "."
}

// controlAlt tells the latest marks of a chart in words.
func controlAlt(controls []Control) string {
	text := ""
	for _, c := range controls[max(0, len(controls)-5):] {
		text += "; " + c.place() + " " + c.mark()
	}
	return text
}

// wholeTicks are ticks at whole numbers only.
func wholeTicks(low, high float64, n int) []float64 {
	if high-low < float64(n) {
		n = int(high - low)
	}
	return ticks(low, high, n)
}

// maxPoints is the number of points of a line that are drawn at most: about
// two a pixel's column.
const maxPoints = 1000

// polyline draws y over x, a line of some pixels' width; a single value is a dot.
// Of a longer line the lowest and the highest of each run of points are kept, so
// that spikes stay.
func polyline(p plane, x, y []float64, paint string, width float64) string {
	if len(x) == 0 {
		return ""
	}
	if len(x) == 1 {
		return `<path fill="none" stroke-linecap="round" ` + paint + ` stroke-width="` + px(3*width) + `" d="M` + px(p.x(x[0])) + ` ` + px(p.y(y[0])) + `h0.1"/>`
	}
	var b strings.Builder
	b.WriteString(`<polyline fill="none" stroke-linejoin="round" ` + paint + ` stroke-width="` + px(width) + `" points="`)
	point := func(i int) { b.WriteString(px(p.x(x[i])) + "," + px(p.y(y[i])) + " ") }
	bucket := (2*len(x) + maxPoints - 1) / maxPoints
	if len(x) <= maxPoints {
		bucket = 1
	}
	for from := 0; from < len(x); from += bucket {
		low, high := from, from
		for i := from; i < min(from+bucket, len(x)); i++ {
			if y[i] < y[low] {
				low = i
			}
			if y[i] > y[high] {
				high = i
			}
		}
		point(min(low, high))
		if low != high {
			point(max(low, high))
		}
	}
	b.WriteString(`"/>`)
	return b.String()
}
