package main

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/layerwise"
)

// job is one process of the whole measurement.
type job struct {
	name string
	cmd  []string
}

// t4Bytes is the pool that a T4 of 16 GB leaves: the stand-in for one on a larger GPU.
const t4Bytes = 14.5 * (1 << 30)

// measurement is what all's flags say.
type measurement struct {
	models, synth, reference, referenceBackend, peers, python, logs, shape, lengths, only string
	layers                                                                                int
	limit                                                                                 time.Duration
}

// all runs every stage and prints the table.
func all(ctx context.Context, args []string) error {
	var m measurement
	fs := flag.NewFlagSet("all", flag.ContinueOnError)
	fs.StringVar(&m.models, "models", "", "folder for the models; those that are missing are written by -synth")
	fs.StringVar(&m.synth, "synth", "", "program that writes models (gotune/internal/synth)")
	fs.StringVar(&m.reference, "reference", "", "float32 reference of two layers; one that is missing is computed with -reference-backend")
	fs.StringVar(&m.referenceBackend, "reference-backend", "xla:cpu", "backend of the reference")
	fs.StringVar(&m.peers, "peers", "", "script that measures floors and peers (scripts/python/bench_gpu_peers.py); empty for none")
	fs.StringVar(&m.python, "python", "python3", "its interpreter; PYTHONPATH adds peers that are installed elsewhere")
	fs.StringVar(&m.logs, "logs", "", "folder for the stages' logs")
	fs.StringVar(&m.shape, "shape", "llama2-7b", "shape of the models, as -synth names it")
	fs.IntVar(&m.layers, "layers", 0, "decoder layers of the large model; 0 keeps the shape's number. Fewer save loading where time is short; a step's time grows with them")
	fs.StringVar(&m.lengths, "lengths", "512,1024,2048", "tokens of a row in the stage train")
	fs.StringVar(&m.only, "only", "", "stages to run, by the beginning of their names (train, peers, \"peers unsloth\", …: see the package's doc), with commas; empty for all")
	fs.DurationVar(&m.limit, "limit", 5*time.Minute, "longest time for one stage")
	if err := fs.Parse(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var records []record
	failures := 0
	for _, j := range m.jobs(self) {
		if !selected(j.name, m.only) {
			continue
		}
		r, err := j.run(ctx, m.logs, m.limit)
		records = append(records, r...)
		if err != nil {
			failures++
			fmt.Printf("FAILED %s: %v\n", j.name, err)
		}
	}
	report(os.Stdout, records)
	if failures > 0 {
		return fmt.Errorf("%d stages failed", failures)
	}
	return nil
}

// jobs lists the stages in the order that they run; self is this program.
func (m *measurement) jobs(self string) []job {
	whole, two := filepath.Join(m.models, m.shape), filepath.Join(m.models, m.shape+"-2layers")
	if m.layers > 0 {
		whole += fmt.Sprintf("-%dlayers", m.layers)
	}
	var jobs []job
	add := func(name string, cmd ...string) { jobs = append(jobs, job{name: name, cmd: cmd}) }
	add("env", self, "env")
	if missing(filepath.Join(two, "config.json")) {
		add("synth two layers", m.synth, "-shape", m.shape, "-layers", "2", "-out", two)
	}
	if missing(filepath.Join(whole, "config.json")) {
		add("synth", m.synth, "-shape", m.shape, "-layers", strconv.Itoa(m.layers), "-out", whole)
	}
	if missing(m.reference) {
		add("reference", self, "reference", "-model", two, "-backend", m.referenceBackend, "-out", m.reference)
	}
	for _, dtype := range []string{"float32", "bfloat16", "float16"} {
		add("check "+dtype, self, "check", "-model", two, "-dtype", dtype, "-reference", m.reference)
	}
	add("check plain", self, "check", "-model", two, "-dtype", "bfloat16", "-attention", "plain", "-reference", m.reference)
	add("check recompute", self, "check", "-model", two, "-dtype", "bfloat16", "-memory", "recompute", "-reference", m.reference)
	add("check offload", self, "check", "-model", two, "-dtype", "bfloat16", "-memory", "offload", "-chunk", "128", "-reference", m.reference)
	add("check attention kept", self, "check", "-model", two, "-dtype", "bfloat16", "-memory", "offload", "-keep-attention", "-reference", m.reference)
	for _, fp8 := range []string{layerwise.FP8Forward, layerwise.FP8Both} {
		add("check fp8 "+fp8, self, "check", "-model", two, "-dtype", "bfloat16", "-fp8", fp8, "-reference", m.reference)
	}
	add("load", self, "load", "-model", whole)
	add("train", self, "train", "-model", whole, "-lengths", m.lengths, "-memory", "recompute,save,auto")
	add("train plain attention", self, "train", "-model", whole, "-attention", "plain", "-lengths", "1024", "-memory", "save")
	for _, fp8 := range []string{layerwise.FP8Forward, layerwise.FP8Both} {
		add("train fp8 "+fp8, self, "train", "-model", whole, "-lengths", m.lengths, "-memory", "auto", "-fp8", fp8)
	}
	add("train float16", self, "train", "-model", whole, "-dtype", "float16", "-lengths", "1024")
	if d, err := cuda.Devices(); err == nil && len(d) > 0 && d[0].TotalBytes > t4Bytes {
		add("train in a T4's memory", self, "train", "-model", whole, "-pool", "14.5", "-dtype", "float16", "-attention", "plain", "-lengths", "1024", "-memory", "recompute,auto")
		// A pool taken at the start: fragments of one that grows add to the account of it.
		lean := []string{self, "train", "-model", whole, "-pool", "14.5", "-double", "-lengths", m.lengths, "-memory", "offload", "-keep-attention", "-chunk", "8192"}
		add("train lean", lean...)
		add("train lean fp8", append(lean, "-fp8", layerwise.FP8Forward)...)
		add("longest", self, "longest", "-model", whole, "-pool", "14.5", "-double", "-steps", "1")
	}
	add("packed", self, "packed", "-model", whole, "-memory", "auto", "-batches", m.batches())
	add("decode", self, "decode", "-model", whole)
	add("merge", self, "merge", "-model", whole, "-out", filepath.Join(m.models, "merged"))
	if m.peers != "" {
		// Each by itself: Unsloth changes transformers for its whole process.
		add("floors", m.python, m.peers, "--only", "floors")
		for _, peer := range []string{"hf", "liger"} {
			add("peers "+peer, m.python, m.peers, "--model", whole, "--lengths", m.lengths, "--only", peer)
		}
		unsloth := []string{m.python, m.peers, "--model", whole, "--lengths", m.lengths, "--only", "unsloth"}
		if selected("packed", m.only) || !missing(m.batches()) {
			unsloth = append(unsloth, "--batches", m.batches())
		}
		add("peers unsloth", unsloth...)
	}
	return jobs
}

// batches is the file that packed tells a peer its padded batches by.
func (m *measurement) batches() string {
	return filepath.Join(cmp.Or(m.logs, m.models), "padded_batches.json")
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return err != nil
}

// selected says whether a stage's name begins with one of only's.
func selected(name, only string) bool {
	for _, p := range strings.Split(only, ",") {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// run runs a stage with a log of its own and returns its records, also those
// before it failed.
func (j job) run(ctx context.Context, logs string, limit time.Duration) ([]record, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, j.cmd[0], j.cmd[1:]...)
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	start := time.Now()
	err := cmd.Run()
	fmt.Printf("== %s: %.1f s\n", j.name, time.Since(start).Seconds())
	for line := range strings.Lines(out.String()) {
		fmt.Print("   ", strings.TrimPrefix(line, recordMark))
	}
	if logs != "" {
		file := filepath.Join(logs, strings.ReplaceAll(j.name, " ", "_")+".log")
		if e := os.WriteFile(file, append(out.Bytes(), log.Bytes()...), 0o644); e != nil {
			return nil, e
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		err = fmt.Errorf("%w\n%s", err, tail(log.String(), 25))
	}
	return parseRecords(out.String()), err
}

// tail is the last n lines of s, long lines cut.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, l := range lines {
		if len(l) > 400 {
			lines[i] = l[:400] + "…"
		}
	}
	return strings.Join(lines, "\n")
}
