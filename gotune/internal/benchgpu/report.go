package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Figures of other trainers on one H200: Llama-2-7B shapes, NF4, LoRA r=64 on q
// and v, B=4, measured side by side in one run. Tokens/s (peak GiB) at S = 512,
// 1,024 and 2,048.
var peerFigures = []struct {
	name  string
	cells [3]string
}{
	{"HF + bitsandbytes (H200)", [3]string{"11,328 (14.8)", "13,620 (25.2)", "14,255 (46.0)"}},
	{"HF + bitsandbytes, checkpointing (H200)", [3]string{"4,674 (5.7)", "9,676 (7.1)", "10,401 (9.9)"}},
	{"HF + bitsandbytes + Liger (H200)", [3]string{"8,923 (11.8)", "17,549 (19.0)", "15,767 (33.5)"}},
	{"Unsloth, dropout 0 (H200)", [3]string{"17,106 (11.2)", "18,817 (17.4)", "19,059 (30.0)"}},
	{"Unsloth, offloaded checkpointing (H200)", [3]string{"10,408 (4.6)", "12,680 (4.9)", "13,043 (5.6)"}},
}

// report prints the table of training speeds and one line for everything else.
func report(w io.Writer, records []record) {
	fmt.Fprintf(w, "\n%-44s | %-16s | %-16s | %-16s\n", "tok/s (GiB), B=4", "S=512", "S=1024", "S=2048")
	rows := map[string][3]string{}
	var order []string
	for _, r := range records {
		name, length, ok := strings.Cut(r.Case, " B=4 S=")
		column := slices.Index([]string{"512", "1024", "2048"}, length)
		if !ok || column < 0 {
			continue
		}
		name = map[string]string{"train": "gotune ", "peers": ""}[r.Stage] + name
		for rows[name][column] != "" { // the same case in another pool
			name += "*"
		}
		if _, ok := rows[name]; !ok {
			order = append(order, name)
		}
		cells := rows[name]
		memory, ok := r.Value["peak GiB"] // by XLA's account; a peer says GiB
		if !ok {
			memory = r.Value["GiB"]
		}
		cells[column] = fmt.Sprintf("%.0f (%.1f)", r.Value["tok/s"], memory)
		rows[name] = cells
	}
	line := func(name string, c [3]string) {
		fmt.Fprintf(w, "%-44s | %-16s | %-16s | %-16s\n", name, c[0], c[1], c[2])
	}
	for _, name := range order {
		line(name, rows[name])
	}
	for _, p := range peerFigures {
		line(p.name, p.cells)
	}
	fmt.Fprintln(w)
	for _, r := range records {
		if strings.Contains(r.Case, " B=4 S=") {
			continue
		}
		var values []string
		for _, k := range sortedKeys(r.Value) {
			values = append(values, fmt.Sprintf("%s %.4g", k, r.Value[k]))
		}
		fmt.Fprintf(w, "%-8s %-24s %s %s\n", r.Stage, r.Case, strings.Join(values, ", "), r.Text)
	}
}

func sortedKeys(m map[string]float64) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
