package gotune

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// bin is the number of values from low to below low+width.
type bin struct{ low, width, count int }

// bins sorts values into at most about 40 bins of a round width.
func bins(values []int) []bin {
	if len(values) == 0 {
		return nil
	}
	low, high := slices.Min(values), slices.Max(values)
	width := int(math.Max(1, niceStep(float64(high-low)/40)))
	first := low / width * width
	out := make([]bin, (high-first)/width+1)
	for i := range out {
		out[i] = bin{first + i*width, width, 0}
	}
	for _, v := range values {
		out[(v-first)/width].count++
	}
	return out
}

// histogram draws how many rows have how many tokens, with the median and the
// ninetieth percentile marked.
func (l Lengths) histogram(style chartStyle) string {
	all := bins(l.Counts)
	p := plane{x0: 0, x1: 1, y0: 0, y1: 1}
	if len(all) > 0 {
		p.x0, p.x1 = float64(all[0].low), float64(all[len(all)-1].low+all[0].width)
	}
	for _, b := range all {
		p.y1 = math.Max(p.y1, float64(b.count)*1.05)
	}
	var b strings.Builder
	b.WriteString(style.axes(p, "tokens in a row", "rows", wholeTicks(p.x0, p.x1, 8), wholeTicks(p.y0, p.y1, 5)))
	for _, bin := range all {
		if bin.count == 0 {
			continue
		}
		left, right, top := p.x(float64(bin.low)), p.x(float64(bin.low+bin.width)), p.y(float64(bin.count))
		fmt.Fprintf(&b, `<rect x="%s" y="%s" width="%s" height="%s" %s/>`,
			px(left), px(top), px(math.Max(0.8, right-left-1)), px(p.y(0)-top), style.paint("fill", 0, false))
	}
	for i, m := range []struct {
		name  string
		value int
	}{{"median", l.Median}, {"90 %", l.P90}} {
		x := p.x(float64(m.value))
		line := ` d="M` + px(x) + ` ` + px(p.top()) + `V` + px(p.bottom()) + `"/>`
		b.WriteString(`<path ` + style.gap + ` stroke-width="4"` + line + `<path ` + style.paint("stroke", 1, false) + ` stroke-width="2" stroke-dasharray="5 3"` + line)
		anchor := "start"
		if i == 0 && l.P90 != l.Median {
			anchor = "end"
		}
		b.WriteString(style.textAt(x+float64(6*i-3), marginTop-6, anchor, fmt.Sprintf("%s %d", m.name, m.value)))
	}
	return style.svg(p, 2, l.alt(), b.String())
}

func (l Lengths) alt() string {
	return fmt.Sprintf("Histogram of the tokens in %s of %s: from %d to %d, median %d, nine of ten at most %d.",
		plural(len(l.Counts), "row"), l.Dataset, l.Min, l.Max, l.Median, l.P90)
}

// bars is the histogram in text: a line a bin, at most 20.
func (l Lengths) bars() string {
	all := bins(l.Counts)
	for len(all) > 20 {
		merged := all[:0:0]
		for i := 0; i < len(all); i += 2 {
			b := bin{all[i].low, 2 * all[i].width, all[i].count}
			if i+1 < len(all) {
				b.count += all[i+1].count
			}
			merged = append(merged, b)
		}
		all = merged
	}
	most := 1
	for _, b := range all {
		most = max(most, b.count)
	}
	var out strings.Builder
	for _, b := range all {
		bar := strings.Repeat("█", (b.count*50+most-1)/most)
		fmt.Fprintf(&out, "%11s %6d %s\n", fmt.Sprintf("%d–%d", b.low, b.low+b.width-1), b.count, bar)
	}
	return strings.ReplaceAll(out.String(), " \n", "\n")
}
