// Command benchmarks measures gotune and what it is held against in the same
// run, and prints both with their ratio. scripts/bench builds and starts it, and
// says in its head what each floor is.
//
//	benchmarks train -peer-python PYTHON -peer SCRIPT
//	benchmarks load
//
// Each measure prints how the machine was used and a row for the table:
// "ROW<tab>measure<tab>gotune<tab>peer or floor<tab>ratio<tab>goal<tab>reached?".
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	measures := map[string]func(context.Context, []string) error{"train": trainCommand, "load": loadCommand}
	if len(args) == 0 || measures[args[0]] == nil {
		return fmt.Errorf("want one of %q first", []string{"train", "load"})
	}
	return measures[args[0]](ctx, args[1:])
}

// flags parses args with the flags that define sets up.
func flags(name string, args []string, define func(*flag.FlagSet)) error {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	define(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%s: unexpected arguments %q", name, f.Args())
	}
	return nil
}

// usage is what something took: the clock's time, and the time that the
// process's threads computed, which other programs on the machine change less.
type usage struct{ wall, cpu time.Duration }

// measured runs f.
func measured(f func() error) (usage, error) {
	wall, cpu := time.Now(), cpuTime()
	err := f()
	return usage{time.Since(wall), cpuTime() - cpu}, err
}

// cpuTime is the time that this process has computed so far, in the kernel too.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// median returns the middle of x, which must not be empty.
func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// spread formats the median of x with its range.
func spread(x []float64) string {
	return fmt.Sprintf("%.2f× (%.2f–%.2f)", median(x), slices.Min(x), slices.Max(x))
}

// row prints a row of the table; goal "" is for information only.
func row(measure, ours, other, ratio, goal string, reached bool) {
	verdict := map[bool]string{true: "reached", false: "MISSED"}[reached]
	if goal == "" {
		goal, verdict = "-", "-"
	}
	fmt.Println(strings.Join([]string{"ROW", measure, ours, other, ratio, goal, verdict}, "\t"))
}

// busy says whether other programs keep about all cores at work.
func busy() bool {
	var n float64
	b, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(b), &n)
	}
	return err == nil && n > 0.75*float64(runtime.NumCPU())
}

// load tells how busy the machine is with other work.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%s on %d cores", strings.Fields(string(b))[0], runtime.NumCPU())
}
