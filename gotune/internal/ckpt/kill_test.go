//go:build unix

package ckpt

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// childEnv makes the test binary the process that saves until it is killed.
const childEnv = "GOTUNE_CKPT_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		saveForEver(dir)
		os.Exit(1)
	}
	if dir := os.Getenv(fullEnv); dir != "" {
		fmt.Print(saveOnFullDisk(dir))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// saveForEver saves one step after another, each twice (the second replaces the
// first), from the latest on, and prints each step that is saved.
func saveForEver(dir string) {
	step := 1
	if c, _, err := Latest(dir); err == nil {
		step = c.Snapshot.State.Step
	}
	var t testing.T
	for ; ; step++ {
		for range 2 {
			if err := saveStep(&t, dir, step); err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(step)
		}
	}
}

func saveStep(t testing.TB, dir string, step int) error {
	_, err := Save(dir, adapter(float32(step), 512, 256), snapshot(t, step, float32(step), 50_000), Options{Limit: 2})
	return err
}

// TestKilledWhileSaving kills a saving process again and again, at a random
// moment. Each time the latest checkpoint must load, be consistent in itself,
// and be no older than the last one the process reported.
func TestKilledWhileSaving(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "results")
	reported, leftovers := 0, 0
	rng := rand.New(rand.NewPCG(1, 2))
	start := time.Now()
	if err := saveStep(t, t.TempDir(), 1); err != nil {
		t.Fatal(err)
	}
	window := 4 * time.Since(start) // kills fall into the time that four saves take here
	for round := 0; round < 25 || round < 200 && (reported < 5 || leftovers < 5); round++ {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(out)
		first := true
		for in.Scan() {
			step, err := strconv.Atoi(in.Text())
			if err != nil {
				t.Fatalf("round %d: the child says %q", round, in.Text())
			}
			reported = max(reported, step)
			if first { // from now on at any moment
				first = false
				time.AfterFunc(time.Duration(rng.Int64N(int64(window))), func() { _ = cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("round %d: the child ended by itself: %v", round, err)
		}
		leftovers += hidden(t, dir)
		verify(t, dir, reported)
	}
	if reported < 5 || leftovers < 5 {
		t.Errorf("%d steps saved, %d kills fell into a save: this run says nothing", reported, leftovers)
	}
	t.Logf("%d steps saved, %d half-written folders left by kills", reported, leftovers)
	save(t, dir, reported+2, Options{Limit: 1})
	if n := hidden(t, dir); n > 0 {
		t.Errorf("%d hidden folders are left after a save that ended well", n)
	}
}

func hidden(t *testing.T, dir string) int {
	items, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, it := range items {
		if strings.HasPrefix(it.Name(), ".") {
			n++
		}
	}
	return n
}

func verify(t *testing.T, dir string, reported int) {
	t.Helper()
	c, damaged, err := Latest(dir)
	if err != nil || len(damaged) > 0 {
		t.Fatalf("after a kill: %v, damaged %v", err, damaged)
	}
	step := c.Snapshot.State.Step
	if step < reported {
		t.Errorf("the latest checkpoint is of step %d, step %d was reported as saved", step, reported)
	}
	for name, m := range c.Adapter.Modules {
		for _, v := range append(m.A, m.B...) {
			if v != float32(step) {
				t.Fatalf("checkpoint-%d: %s holds %g", step, name, v)
			}
		}
	}
	for _, x := range c.Snapshot.Tensors {
		if x.Name == "counter" {
			if v, err := x.Int64s(); err != nil || v[0] != int64(step) {
				t.Fatalf("checkpoint-%d: counter %v, %v", step, v, err)
			}
			continue
		}
		values, err := x.Float32()
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if v != float32(step) {
				t.Fatalf("checkpoint-%d: %s holds %g", step, x.Name, v)
			}
		}
	}
}
