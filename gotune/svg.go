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
	card   bool
	text   string // attributes of text
	label  string // of text that stands over lines
	axis   string // of the axes' lines
	grid   string // of lines that only lead the eye
	ground string // of a shape in the background's colour
	gap    string // of a line in it, below one that crosses others
}

var (
	liveStyle = chartStyle{
		text:   `fill="currentColor"`,
		label:  `fill="currentColor" stroke="#fff" style="stroke:` + pageColor + `" stroke-width="3" stroke-linejoin="round" paint-order="stroke"`,
		axis:   `stroke="currentColor" stroke-opacity=".6"`,
		grid:   `stroke="currentColor" stroke-opacity=".12" role="presentation"`,
		gap:    `stroke="#fff" style="stroke:` + pageColor + `" role="presentation"`,
		ground: `fill="#fff" style="fill:` + pageColor + `" role="presentation"`,
	}
	cardStyle = chartStyle{
		card:   true,
		text:   `class="t"`,
		label:  `class="t o" stroke-width="3" stroke-linejoin="round" paint-order="stroke"`,
		axis:   `class="a"`,
		grid:   `class="g" role="presentation"`,
		gap:    `class="o" role="presentation"`,
		ground: `class="b" role="presentation"`,
	}
)

// pageColor is the background of a cell's output, in JupyterLab, VS Code and
// elsewhere.
const pageColor = "var(--jp-layout-color0,var(--vscode-editor-background,light-dark(#fff,#111)))"

// Size of a chart in pixels, and of its margins.
const (
	chartWidth, chartHeight                         = 680, 280
	marginLeft, marginRight, marginTop, marginBelow = 58, 28, 30, 42
)

// A plane maps values to pixels.
type plane struct {
	x0, x1, y0, y1 float64
	lower          float64 // pixels that it lies lower, for a legend of several lines
}

func (p plane) x(v float64) float64 {
	return marginLeft + (v-p.x0)/(p.x1-p.x0)*(chartWidth-marginLeft-marginRight)
}

func (p plane) y(v float64) float64 {
	return p.bottom() - (v-p.y0)/(p.y1-p.y0)*(p.bottom()-p.top())
}

func (p plane) top() float64    { return marginTop + p.lower }
func (p plane) bottom() float64 { return chartHeight - marginBelow + p.lower }

// px writes a pixel coordinate.
func px(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// svg wraps the drawing. label is for those who can't see it.
func (s chartStyle) svg(p plane, series int, label, body string) string {
	open := ""
	if s.card {
		open = sheet(series) + `<rect class="b" role="presentation" width="100%" height="100%" rx="4"/>`
	}
	height := chartHeight + int(p.lower)
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s" style="%s" font-family="system-ui,sans-serif" font-size="13">%s%s</svg>`,
		chartWidth, height, chartWidth, height, escape(label), chartBox, open, body)
}

// chartBox lets a chart shrink with a narrow page, but not below where its text
// can be read.
const chartBox = "display:block;max-width:100%;min-width:440px;height:auto"

// textAt writes text at a pixel; anchor is start, middle or end.
func (s chartStyle) textAt(x, y float64, anchor, text string) string {
	return textWith(s.text, x, y, anchor, text)
}

func textWith(attributes string, x, y float64, anchor, text string) string {
	return `<text ` + attributes + ` x="` + px(x) + `" y="` + px(y) + `" text-anchor="` + anchor + `">` + escape(text) + `</text>`
}

// textWidth is about the pixels that a text takes, rather more than less.
func textWidth(text string) float64 { return 7.8 * float64(len([]rune(text))) }

// axes draws ticks, grid and the axes' names.
func (s chartStyle) axes(p plane, xName, yName string, xTicks, yTicks []float64) string {
	var b strings.Builder
	top, bottom, right := p.top(), p.bottom(), p.x(p.x1)
	for _, v := range yTicks {
		y := px(p.y(v))
		b.WriteString(`<path ` + s.grid + ` d="M` + px(marginLeft) + ` ` + y + `H` + px(right) + `"/>`)
		b.WriteString(s.textAt(marginLeft-6, p.y(v)+4.5, "end", tickText(v, yTicks)))
	}
	for _, v := range xTicks {
		x := px(p.x(v))
		b.WriteString(`<path ` + s.axis + ` d="M` + x + ` ` + px(bottom) + `v4"/>`)
		b.WriteString(s.textAt(p.x(v), bottom+17, "middle", tickText(v, xTicks)))
	}
	b.WriteString(`<path ` + s.axis + ` fill="none" d="M` + px(marginLeft) + ` ` + px(top) + `V` + px(bottom) + `H` + px(right) + `"/>`)
	b.WriteString(s.textAt((marginLeft+right)/2, bottom+34, "middle", xName))
	b.WriteString(`<text ` + s.text + ` transform="translate(14 ` + px((top+bottom)/2) + `) rotate(-90)" text-anchor="middle">` + escape(yName) + `</text>`)
	return b.String()
}

// legendRow is the height of a line of the legend.
const legendRow = 18

// legend names the series at the top, in as many lines as it takes, with a note
// at the right end of the first. lower is how much lower the plane has to lie.
func (s chartStyle) legend(names []string, note string) (svg string, lower float64) {
	var b strings.Builder
	b.WriteString(s.textAt(chartWidth-marginRight, 18, "end", note))
	x, end := float64(marginLeft), chartWidth-marginRight-textWidth(note)
	for i, n := range names {
		n = shortName(n)
		width := 21 + textWidth(n)
		if x > marginLeft && x+width > end {
			x, end, lower = marginLeft, chartWidth-marginRight, lower+legendRow
		}
		b.WriteString(`<path ` + s.paint("stroke", i, false) + ` stroke-width="3" d="M` + px(x) + ` ` + px(14+lower) + `h16"/>`)
		b.WriteString(s.textAt(x+21, 18+lower, "start", n))
		x += width + 12
	}
	return b.String(), lower
}

// shortName cuts a long name in its middle: names in a sweep differ at the end.
func shortName(name string) string {
	r := []rune(oneLine(name, 10_000))
	if len(r) <= 40 {
		return string(r)
	}
	return string(r[:19]) + "…" + string(r[len(r)-20:])
}

// card makes the picture of its own, of the size that the SVG begins with.
func card(svg, alt string) string {
	size := ""
	if i := strings.Index(svg, " width="); i >= 0 {
		size = svg[i:][:strings.Index(svg[i:], " viewBox=")]
	}
	return `<img alt="` + escape(alt) + `" style="` + chartBox + `"` + size + ` src="data:image/svg+xml;base64,` +
		base64.StdEncoding.EncodeToString([]byte(svg)) + `">`
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
	if last := math.Abs(all[len(all)-1]); step >= 1000 && last >= 10_000 && last < 1e6 {
		return countText(int64(math.Round(v/1000))) + "k"
	}
	if step >= 1 && math.Abs(v) < 1e6 {
		return countText(int64(math.Round(v)))
	}
	if step >= 1 || step < 1e-4 {
		return strconv.FormatFloat(v, 'g', 4, 64)
	}
	return strconv.FormatFloat(v, 'f', int(math.Ceil(-math.Log10(step)-1e-9)), 64)
}
