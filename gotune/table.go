package gotune

import (
	"html"
	"strings"
	"unicode/utf8"
)

// A table is what most verbs show. It has no colours of its own: a front end's
// table style is right in light and dark.
type table struct {
	title string
	head  []string // nil: no head
	left  int      // columns from the first that hold words, not numbers
	wrap  bool     // long words may break, for columns of text
	rows  [][]string
}

// escape makes text safe in HTML and XML: characters that XML does not allow
// show as their pictures.
func escape(s string) string { return html.EscapeString(plainText(s)) }

// html renders the table for a notebook.
func (t table) html() string {
	var b strings.Builder
	if t.title != "" {
		b.WriteString(`<div style="font-weight:bold;margin:4px 0">` + escape(t.title) + "</div>")
	}
	b.WriteString("<table>")
	cell := func(tag string, j int, text string) {
		align := "right"
		if j < t.left {
			align = "left"
		}
		style := "text-align:" + align
		if j == 0 && t.head == nil {
			style += ";white-space:nowrap" // the names of facts
		}
		if t.wrap {
			style += ";white-space:pre-wrap;overflow-wrap:anywhere;vertical-align:top;max-width:44em"
		}
		b.WriteString("<" + tag + ` style="` + style + `">` + escape(text) + "</" + tag + ">")
	}
	if t.head != nil {
		b.WriteString("<thead><tr>")
		for j, h := range t.head {
			cell("th", j, h)
		}
		b.WriteString("</tr></thead>")
	}
	b.WriteString("<tbody>")
	for _, row := range t.rows {
		b.WriteString("<tr>")
		for j, text := range row {
			cell("td", j, text)
		}
		b.WriteString("</tr>")
	}
	b.WriteString("</tbody></table>")
	return b.String()
}

// text renders the table for a terminal. Columns are two spaces apart.
func (t table) text() string {
	var width []int
	all := t.rows
	if t.head != nil {
		all = append([][]string{t.head}, t.rows...)
	}
	for _, row := range all {
		for j, text := range row {
			if j == len(width) {
				width = append(width, 0)
			}
			width[j] = max(width[j], utf8.RuneCountInString(flat(text)))
		}
	}
	var b strings.Builder
	if t.title != "" {
		b.WriteString(plainText(t.title) + "\n")
	}
	for _, row := range all {
		var line strings.Builder
		for j, text := range row {
			if j > 0 {
				line.WriteString("  ")
			}
			text = flat(text)
			pad := strings.Repeat(" ", width[j]-utf8.RuneCountInString(text))
			if j < t.left {
				line.WriteString(text + pad)
			} else {
				line.WriteString(pad + text)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// flat keeps a cell on one line.
func flat(s string) string { return plainText(oneLine(s, 10_000)) }

// facts is a table of names and values without a head.
func facts(title string, pairs ...string) table {
	t := table{title: title, left: 2}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			t.rows = append(t.rows, []string{pairs[i], pairs[i+1]})
		}
	}
	return t
}

// thin keeps about n rows at most: every second, third, … and the last.
func thin[T any](rows []T, n int) []T {
	stride := (len(rows) + n - 1) / n
	if stride <= 1 {
		return rows
	}
	var kept []T
	for i := stride - 1; i < len(rows); i += stride {
		kept = append(kept, rows[i])
	}
	if len(rows)%stride != 0 {
		kept = append(kept, rows[len(rows)-1])
	}
	return kept
}
