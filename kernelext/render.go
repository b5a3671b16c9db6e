package kernelext

import (
	"fmt"
	"html"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gotune/gotune/cuda/smi"
	"github.com/gotune/gotune/gotune"
)

// plain is a result that looks the same everywhere.
func plain(text string) *magicResult {
	return &magicResult{text: text, html: `<pre style="margin:0;white-space:pre-wrap">` + html.EscapeString(text) + "</pre>"}
}

func escapeHTML(s string) string { return html.EscapeString(s) }

// table is an HTML table without colours of its own: JupyterLab's are right in every theme. The cells
// are HTML.
func table(head []string, rows [][]string) string {
	var b strings.Builder
	row := func(cells []string, open, close string) {
		b.WriteString("<tr>")
		for _, c := range cells {
			b.WriteString(open + c + close)
		}
		b.WriteString("</tr>")
	}
	b.WriteString("<table><thead>")
	row(head, `<th style="text-align:left">`, "</th>")
	b.WriteString("</thead><tbody>")
	for _, r := range rows {
		row(r, `<td style="text-align:left">`, "</td>")
	}
	b.WriteString("</tbody></table>")
	return b.String()
}

// tableResult is a table for consoles and notebooks, below a line of text ("" for none).
func tableResult(line string, head []string, rows [][]string) *magicResult {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	escaped := make([][]string, len(rows))
	for i, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
		for _, c := range r {
			escaped[i] = append(escaped[i], html.EscapeString(c))
		}
	}
	w.Flush()
	result := &magicResult{text: strings.TrimRight(text.String(), "\n"), html: table(head, escaped)}
	if line != "" {
		result.text = line + "\n\n" + result.text
		result.html = "<p>" + html.EscapeString(line) + "</p>" + result.html
	}
	return result
}

// statusResult shows an engine's status: a line about the process, then what it holds and does, then the GPUs.
func statusResult(s *gotune.StatusInfo, gpus []smi.GPU) *magicResult {
	head := fmt.Sprintf("Engine %s, process %d, up %s. %s: %s held, %s at most. Host memory %s.", s.Version, s.PID, spanText(s.Seconds),
		orNone(s.Backend, "No device in use"), bytesText(s.DeviceBytes), bytesText(s.DevicePeak), bytesText(s.HostBytes))
	var rows [][]string
	for _, m := range s.Models {
		rows = append(rows, []string{"model", m.Model.Name, fmt.Sprintf("%s, %.1f M parameters on %s", m.Architecture, float64(m.Params)/1e6, m.Backend), bytesText(m.DeviceBytes)})
	}
	for _, d := range s.Datasets {
		rows = append(rows, []string{"data set", d.Dataset.Name, fmt.Sprintf("%d rows", d.Rows), bytesText(d.Bytes)})
	}
	for _, r := range s.Runs {
		what := fmt.Sprintf("%s, step %d of %d", r.State, r.Step, r.TotalSteps)
		if r.Step > 0 && r.Loss == r.Loss {
			what += fmt.Sprintf(", loss %.4f", r.Loss)
		}
		rows = append(rows, []string{"run", r.Name, what, ""})
	}
	for _, j := range s.Jobs {
		what := orNone(j.Task, "working")
		if j.Total > 0 {
			what += fmt.Sprintf(", %d of %d", j.Done, j.Total)
		}
		rows = append(rows, []string{"job", strings.TrimSpace(j.Verb + " " + j.Object), what + ", for " + spanText(j.Seconds), ""})
	}
	if len(rows) == 0 {
		head += " It holds nothing and does nothing."
	}
	for _, g := range gpus {
		rows = append(rows, gpuRows(g, s.PID)...)
		head = strings.TrimSpace(head + " " + crowded(g, s.PID))
	}
	if len(rows) == 0 {
		return plain(head)
	}
	return tableResult(head, []string{"what", "name", "state", "memory"}, rows)
}

func orNone(s, none string) string {
	if s == "" {
		return none
	}
	return s
}

// bytesText is a number of bytes as people read it: "1.5 GiB".
func bytesText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v /= 1024; v < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// spanText is seconds as people read them: "2m5s".
func spanText(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}
