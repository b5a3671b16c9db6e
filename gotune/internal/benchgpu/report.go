package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The peers that gotune's rows are held against, by the names that
// scripts/python/bench_gpu_peers.py gives them.
const (
	peerFast = "Unsloth"
	peerLean = "Unsloth, offloaded checkpointing"

	// peerPadded is peerFast on the batches that packed writes.
	peerPadded = peerFast + ", padded batches grouped by length"
)

// elsewhere are figures of other trainers on another H200: Llama-2-7B shapes, NF4, LoRA
// r=64 on q and v, B=4. Tokens/s (peak GiB) at S = 512, 1,024 and 2,048. They stand in for a
// peer that was not measured in this run; no ratio is made with them, for two H200s
// gave Unsloth speeds that are 5–13 % apart.
var elsewhere = []struct {
	name  string
	cells [3]string
}{
	{"HF + PEFT + bitsandbytes NF4", [3]string{"11328 (14.8)", "13620 (25.2)", "14255 (46.0)"}},
	{"HF + PEFT + bitsandbytes NF4, checkpointing", [3]string{"4674 (5.7)", "9676 (7.1)", "10401 (9.9)"}},
	{"HF + PEFT + bitsandbytes NF4 + Liger", [3]string{"8923 (11.8)", "17549 (19.0)", "15767 (33.5)"}},
	{peerFast, [3]string{"17106 (11.2)", "18817 (17.4)", "19059 (30.0)"}},
	{peerLean, [3]string{"10408 (4.6)", "12680 (4.9)", "13043 (5.6)"}},
}

// lengths are the table's columns: tokens of each of a batch's 4 rows.
var lengths = [3]int{512, 1024, 2048}

// figure is one measurement; speed is 0 where there is none.
type figure struct{ speed, memory float64 }

// row is a line of the table.
type row struct {
	name  string
	cells [3]figure
}

// report prints the table of training speeds, each of gotune's rows with its ratio to
// the peer of the same run, and one line for everything else.
func report(w io.Writer, records []record) {
	ours, peers, floors := rowsOf(records, "train"), rowsOf(records, "peers"), rowsOf(records, "floor")
	lines := [][4]string{{"tok/s (GiB), B=4", "S=512", "S=1024", "S=2048"}}
	add := func(name string, cell func(column int) string) {
		lines = append(lines, [4]string{name, cell(0), cell(1), cell(2)})
	}
	for _, r := range ours {
		add("gotune "+r.name, func(i int) string { return r.cells[i].String() })
		peer := peerOf(r.name)
		if at := find(peers, peer); at >= 0 {
			add("  / "+peer+", same run", func(i int) string { return ratio(r.cells[i], peers[at].cells[i], peer == peerLean) })
		}
	}
	for _, r := range append(peers, floors...) {
		add(r.name, func(i int) string { return r.cells[i].String() })
	}
	for _, e := range elsewhere {
		if find(peers, e.name) < 0 {
			add(e.name+" (elsewhere)", func(i int) string { return e.cells[i] })
		}
	}
	width := 0
	for _, l := range lines {
		width = max(width, utf8.RuneCountInString(l[0]))
	}
	fmt.Fprintln(w)
	for _, l := range lines {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-*s | %-16s | %-16s | %-16s", width, l[0], l[1], l[2], l[3]), " "))
	}
	fmt.Fprint(w, `
N× is tokens/s by the peer's of this run; (≤ GiB): at a peak of at most the peer's, which is given; (> GiB): at more.
(elsewhere): on another machine, not in this run. gotune trains with dropout 0.1, Unsloth without. *: the same case again.

`)
	for _, r := range records {
		if strings.Contains(r.Case, " B=4 S=") {
			continue
		}
		var values []string
		for _, k := range sortedKeys(r.Value) {
			values = append(values, k+" "+number(r.Value[k]))
		}
		fmt.Fprintf(w, "%-8s %-24s %s %s\n", r.Stage, r.Case, strings.Join(values, ", "), r.Text)
	}
	if ours, peer := usefulSpeed(records, "packed", "packed"), usefulSpeed(records, "peers", peerPadded); ours > 0 && peer > 0 {
		fmt.Fprintf(w, "\npacked over %s's padded batches, same run: %.2f×\n", peerFast, ours/peer)
	}
}

// usefulSpeed is the useful tokens/s of the last record of a case that has them, or 0.
func usefulSpeed(records []record, stage, name string) (speed float64) {
	for _, r := range records {
		if r.Stage == stage && r.Case == name {
			speed = cmp.Or(r.Value["useful tok/s"], speed)
		}
	}
	return speed
}

// rowsOf collects the rows of a stage, in the order of the records. A case that was
// measured again gets a row of its own.
func rowsOf(records []record, stage string) (rows []*row) {
	for _, r := range records {
		name, column := place(r)
		if r.Stage != stage || column < 0 {
			continue
		}
		at := find(rows, name)
		for at >= 0 && rows[at].cells[column].speed > 0 {
			name += "*"
			at = find(rows, name)
		}
		if at < 0 {
			at, rows = len(rows), append(rows, &row{name: name})
		}
		// XLA's account of the peak where there is one; else the pool, which is the peak from
		// above. A peer's GiB is its peak.
		rows[at].cells[column] = figure{r.Value["tok/s"], cmp.Or(r.Value["peak GiB"], r.Value["GiB"])}
	}
	return rows
}

// place says where in the table a record belongs; the column is -1 for one that doesn't:
// "bfloat16 auto B=4 S=512", and of floors "GEMMs of a step, sustained, 2048 tokens",
// which are as many as a batch of four rows has.
func place(r record) (name string, column int) {
	name, length, ok := strings.Cut(r.Case, " B=4 S=")
	rows := 1
	if at := strings.LastIndex(r.Case, ", "); !ok && at >= 0 {
		name, length, rows = r.Case[:at], strings.TrimSuffix(r.Case[at+2:], " tokens"), 4
	}
	n, err := strconv.Atoi(length)
	if err != nil || n%rows != 0 {
		return "", -1
	}
	return name, slices.Index(lengths[:], n/rows)
}

func find(rows []*row, name string) int {
	return slices.IndexFunc(rows, func(r *row) bool { return r.name == name })
}

// peerOf names the peer of one of gotune's rows: the one that also keeps its layers'
// inputs in the host's memory, or the one that keeps everything on the device. A row that
// had to fit into a part of the device has none, for no peer had to.
func peerOf(name string) string {
	switch {
	case strings.Contains(name, " offload"):
		return peerLean
	case strings.Contains(name, poolTitle):
		return ""
	}
	return peerFast
}

// String is tokens/s and, where it is known, the peak.
func (f figure) String() string {
	switch {
	case f.speed == 0:
		return ""
	case f.memory == 0:
		return fmt.Sprintf("%.0f", f.speed)
	}
	return fmt.Sprintf("%.0f (%.2f)", f.speed, f.memory)
}

// ratio is ours by the peer's and, where memory matters, whether ours is at most as much.
func ratio(ours, peer figure, memory bool) string {
	if ours.speed == 0 || peer.speed == 0 {
		return ""
	}
	s := fmt.Sprintf("%.2f×", ours.speed/peer.speed)
	if memory && ours.memory > 0 && peer.memory > 0 {
		sign := "≤"
		if ours.memory > peer.memory {
			sign = ">"
		}
		s += fmt.Sprintf(" (%s %.2f)", sign, peer.memory)
	}
	return s
}

// number writes four digits, more of a large number rather than an exponent.
func number(v float64) string {
	if v >= 1e4 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.4g", v)
}

func sortedKeys(m map[string]float64) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// reportFiles prints the table of stages that were run one by one: the files hold their
// output.
func reportFiles(_ context.Context, args []string) error {
	fs := flag.NewFlagSet("report", flag.ContinueOnError)
	if err := fs.Parse(args); err != nil {
		return err
	}
	var records []record
	for _, name := range fs.Args() {
		b, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read a stage's output: %w", err)
		}
		records = append(records, parseRecords(string(b))...)
	}
	if len(records) == 0 {
		return fmt.Errorf("no records in %d files: name files with the output of stages", fs.NArg())
	}
	report(os.Stdout, records)
	return nil
}
