package gotune

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A chart is drawn in one of two ways. A live one is an SVG element inside the
// notebook's page and takes the page's text colour. A card is a picture of its
// own, an <img> with a data URI: it survives in saved and untrusted notebooks,
// and brings its own background, since it can't see the page's colours.
type chartStyle struct {
	open string // start of the document, after <svg …>
	text string // attributes of text
	axis string // attributes of lines of the axes
	grid string
}

var (
	liveStyle = chartStyle{
		text: `fill="currentColor"`,
		axis: `stroke="currentColor" stroke-opacity=".5"`,
		grid: `stroke="currentColor" stroke-opacity=".12"`,
	}
	cardStyle = chartStyle{
		open: `<style>.b{fill:#fff}.t{fill:#333}.a{stroke:#888}.g{stroke:#e4e4e4}` +
			`@media (prefers-color-scheme:dark){.b{fill:#181818}.t{fill:#ddd}.a{stroke:#888}.g{stroke:#333}}</style>` +
			`<rect class="b" width="100%" height="100%" rx="4"/>`,
		text: `class="t"`,
		axis: `class="a"`,
		grid: `class="g"`,
	}
)

// seriesColors are told apart by most eyes, on white and on black.
var seriesColors = []string{"#3b8eea", "#e8710a", "#2ca25f", "#c8449b", "#8f6fc9", "#a8840a", "#1b9e9e", "#d7402f"}

// Size of a chart in pixels, and of its margins.
const (
	chartWidth, chartHeight                         = 680, 280
	marginLeft, marginRight, marginTop, marginBelow = 58, 28, 30, 42
)

// A plane maps values to pixels.
type plane struct{ x0, x1, y0, y1 float64 }

func (p plane) x(v float64) float64 {
	return marginLeft + (v-p.x0)/(p.x1-p.x0)*(chartWidth-marginLeft-marginRight)
}

func (p plane) y(v float64) float64 {
	return chartHeight - marginBelow - (v-p.y0)/(p.y1-p.y0)*(chartHeight-marginTop-marginBelow)
}

// px writes a pixel coordinate.
func px(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// svg wraps the drawing. label is for those who can't see it.
func (s chartStyle) svg(label, body string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s" style="display:block;max-width:100%%" font-family="system-ui,sans-serif" font-size="12">%s%s</svg>`,
		chartWidth, chartHeight, chartWidth, chartHeight, escape(label), s.open, body)
}

// textAt writes text at a pixel; anchor is start, middle or end.
func (s chartStyle) textAt(x, y float64, anchor, text string) string {
	return `<text ` + s.text + ` x="` + px(x) + `" y="` + px(y) + `" text-anchor="` + anchor + `">` + escape(text) + `</text>`
}

// axes draws ticks, grid and the axes' names.
func (s chartStyle) axes(p plane, xName, yName string, xTicks, yTicks []float64) string {
	var b strings.Builder
	bottom, right := p.y(p.y0), p.x(p.x1)
	for _, v := range yTicks {
		y := px(p.y(v))
		b.WriteString(`<path ` + s.grid + ` d="M` + px(marginLeft) + ` ` + y + `H` + px(right) + `"/>`)
		b.WriteString(s.textAt(marginLeft-6, p.y(v)+4, "end", tickText(v, yTicks)))
	}
	for _, v := range xTicks {
		x := px(p.x(v))
		b.WriteString(`<path ` + s.axis + ` d="M` + x + ` ` + px(bottom) + `v4"/>`)
		b.WriteString(s.textAt(p.x(v), bottom+17, "middle", tickText(v, xTicks)))
	}
	b.WriteString(`<path ` + s.axis + ` fill="none" d="M` + px(marginLeft) + ` ` + px(marginTop) + `V` + px(bottom) + `H` + px(right) + `"/>`)
	b.WriteString(s.textAt((marginLeft+right)/2, chartHeight-8, "middle", xName))
	b.WriteString(`<text ` + s.text + ` transform="translate(14 ` + px((marginTop+bottom)/2) + `) rotate(-90)" text-anchor="middle">` + escape(yName) + `</text>`)
	return b.String()
}

// legend names the series in a line at the top.
func (s chartStyle) legend(names []string) string {
	var b strings.Builder
	x := float64(marginLeft)
	for i, n := range names {
		n = oneLine(n, 28)
		b.WriteString(`<path stroke="` + seriesColors[i%len(seriesColors)] + `" stroke-width="3" d="M` + px(x) + ` 14h16"/>`)
		b.WriteString(s.textAt(x+21, 18, "start", n))
		x += 21 + 7*float64(len([]rune(n))) + 16
	}
	return b.String()
}

// card makes the picture of its own.
func card(svg, alt string) string {
	return `<img alt="` + escape(alt) + `" style="display:block;max-width:100%" width="` + strconv.Itoa(chartWidth) + `" height="` + strconv.Itoa(chartHeight) +
		`" src="data:image/svg+xml;base64,` + base64.StdEncoding.EncodeToString([]byte(svg)) + `">`
}

// onPage puts a live SVG on the page in the page's text colour.
func onPage(html string) string {
	return `<div style="color:var(--jp-content-font-color1,var(--vscode-foreground,inherit))">` + html + `</div>`
}

// ticks are about n round numbers from low to high.
func ticks(low, high float64, n int) []float64 {
	step := niceStep((high - low) / float64(max(n, 1)))
	var t []float64
	for i := math.Ceil(low/step - 1e-9); i*step <= high+step*1e-9 && len(t) < 50; i++ {
		t = append(t, i*step)
	}
	return t
}

// niceStep is the least of 1, 2, 5 times a power of ten that is not below step.
func niceStep(step float64) float64 {
	if !(step > 0) || math.IsInf(step, 0) {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(step)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= step*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// tickText writes a tick with as many decimals as its neighbours need.
func tickText(v float64, all []float64) string {
	step := 1.0
	if len(all) > 1 {
		step = all[1] - all[0]
	}
	if math.Abs(v) < step/1e6 {
		return "0"
	}
	if step >= 1 && math.Abs(v) < 1e6 {
		return countText(int64(math.Round(v)))
	}
	if step >= 1 || step < 1e-4 {
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	return strconv.FormatFloat(v, 'f', int(math.Ceil(-math.Log10(step)-1e-9)), 64)
}
