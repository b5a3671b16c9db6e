package main

import (
	"bytes"
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
	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/layerwise"
)

// job is one process of the whole measurement.
type job struct {
	name string
	cmd  []string
	env  []string // added to the process's own
}

// t4Bytes is the pool that a T4 of 16 GB leaves: the stand-in for one on a larger GPU.
const t4Bytes = 14.5 * (1 << 30)

// all runs every stage and prints the table.
func all(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("all", flag.ContinueOnError)
	models := fs.String("models", "", "folder for the models; those that are missing are written by -synth")
	synth := fs.String("synth", "", "program that writes models (gotune/internal/synth)")
	ref := fs.String("reference", "", "float32 reference of two layers; one that is missing is computed with -reference-backend")
	refBackend := fs.String("reference-backend", "xla:cpu", "backend of the reference")
	peers := fs.String("peers", "", "script that measures floors and peers (scripts/python/bench_gpu_peers.py); empty for none")
	python := fs.String("python", "python3", "its interpreter")
	logs := fs.String("logs", "", "folder for the stages' logs")
	shape := fs.String("shape", "llama2-7b", "shape of the models, as -synth names it")
	layers := fs.Int("layers", 0, "decoder layers of the large model; 0 keeps the shape's number. Fewer save loading where time is short; a step's time grows with them")
	lengths := fs.String("lengths", "512,1024,2048", "tokens of a row in the stage train")
	only := fs.String("only", "", "stages to run, by the beginning of their names, with commas; empty for all")
	limit := fs.Duration("limit", 5*time.Minute, "longest time for one stage")
	if err := fs.Parse(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	whole, two := filepath.Join(*models, *shape), filepath.Join(*models, *shape+"-2layers")
	if *layers > 0 {
		whole += fmt.Sprintf("-%dlayers", *layers)
	}
	var jobs []job
	add := func(name string, cmd ...string) { jobs = append(jobs, job{name: name, cmd: cmd}) }
	add("env", self, "env")
	if missing(filepath.Join(two, "config.json")) {
		add("synth two layers", *synth, "-shape", *shape, "-layers", "2", "-out", two)
	}
	if missing(filepath.Join(whole, "config.json")) {
		add("synth", *synth, "-shape", *shape, "-layers", strconv.Itoa(*layers), "-out", whole)
	}
	if missing(*ref) {
		add("reference", self, "reference", "-model", two, "-backend", *refBackend, "-out", *ref)
	}
	for _, dtype := range []string{"float32", "bfloat16", "float16"} {
		add("check "+dtype, self, "check", "-model", two, "-dtype", dtype, "-reference", *ref)
	}
	add("check plain", self, "check", "-model", two, "-dtype", "bfloat16", "-attention", "plain", "-reference", *ref)
	add("check recompute", self, "check", "-model", two, "-dtype", "bfloat16", "-memory", "recompute", "-reference", *ref)
	add("check offload", self, "check", "-model", two, "-dtype", "bfloat16", "-memory", "offload", "-chunk", "128", "-reference", *ref)
	add("check attention kept", self, "check", "-model", two, "-dtype", "bfloat16", "-memory", "offload", "-keep-attention", "-reference", *ref)
	for _, fp8 := range []string{layerwise.FP8Forward, layerwise.FP8Both} {
		add("check fp8 "+fp8, self, "check", "-model", two, "-dtype", "bfloat16", "-fp8", fp8, "-reference", *ref)
	}
	add("load", self, "load", "-model", whole)
	add("train", self, "train", "-model", whole, "-lengths", *lengths, "-memory", "recompute,save,auto")
	add("train plain attention", self, "train", "-model", whole, "-attention", "plain", "-lengths", "1024", "-memory", "save")
	for _, fp8 := range []string{layerwise.FP8Forward, layerwise.FP8Both} {
		add("train fp8 "+fp8, self, "train", "-model", whole, "-lengths", *lengths, "-memory", "auto", "-fp8", fp8)
	}
	add("train float16", self, "train", "-model", whole, "-dtype", "float16", "-lengths", "1024")
	if d, err := cuda.Devices(); err == nil && len(d) > 0 && d[0].TotalBytes > t4Bytes {
		add("train in a T4's memory", self, "train", "-model", whole, "-dtype", "float16", "-attention", "plain", "-lengths", "1024", "-memory", "recompute,auto")
		jobs[len(jobs)-1].env = []string{fmt.Sprintf("%s=%.4f", backend.EnvMemoryFraction, t4Bytes/float64(d[0].TotalBytes))}
	}
	if d, err := cuda.Devices(); err == nil && len(d) > 0 && d[0].TotalBytes > t4Bytes {
		// A pool taken at the start: fragments of one that grows add to the account of it.
		lean := []string{self, "train", "-model", whole, "-pool", "14.5", "-double", "-lengths", *lengths, "-memory", "offload", "-keep-attention", "-chunk", "8192"}
		add("train lean", lean...)
		add("train lean fp8", append(lean, "-fp8", layerwise.FP8Forward)...)
		add("longest", self, "longest", "-model", whole, "-pool", "14.5", "-double", "-steps", "1")
	}
	add("packed", self, "packed", "-model", whole, "-memory", "auto")
	add("decode", self, "decode", "-model", whole)
	add("merge", self, "merge", "-model", whole, "-out", filepath.Join(*models, "merged"))
	if *peers != "" {
		add("peers", *python, *peers, "--model", whole)
		add("peers unsloth", *python, *peers, "--model", whole, "--only", "unsloth")
	}
	var records []record
	failures := 0
	for _, j := range jobs {
		if !selected(j.name, *only) {
			continue
		}
		r, err := j.run(ctx, *logs, *limit)
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
	cmd.Env = append(os.Environ(), j.env...)
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
