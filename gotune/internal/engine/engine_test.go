package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// TestMain lets the test binary be the engine of tests that kill one.
func TestMain(m *testing.M) {
	if args := os.Getenv("GOTUNE_TEST_ENGINE"); args != "" {
		os.Exit(Main(strings.Fields(args), "test"))
	}
	if os.Getenv("GOTUNE_TEST_LOG") == "" {
		log.SetOutput(io.Discard)
	}
	gotune.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// shortDir is a folder whose path leaves room for a socket's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serve starts an engine for the client package to talk to, and returns the
// folder that the test works in.
func startEngine(t testing.TB) (dir string, e *Engine) {
	t.Helper()
	dir = shortDir(t)
	socket := filepath.Join(dir, "run", "e.sock")
	l, err := wire.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOTUNE_SOCKET", socket)
	t.Chdir(dir)
	e = New(Options{Socket: socket, StateDir: filepath.Join(dir, "state"), CacheDir: filepath.Join(dir, "cache"), Version: "test"})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx, e.Handle) }()
	t.Cleanup(func() {
		e.Close()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return dir, e
}

var (
	testData = gotune.Dataset{Name: "data", Source: "embedded", Split: "train[:24]"}
	testBase = gotune.Model{Name: "base", Source: "embedded", Device: "xla:cpu"}
)

// testRun is a short run on the embedded model.
func testRun(name string) gotune.Trainer {
	return gotune.Trainer{Name: name, Model: testBase, Dataset: testData, OutputDir: "results/" + name,
		LoRA:      gotune.LoRA{Rank: 8, Alpha: 16, Dropout: 0.1, Targets: []string{"q_proj", "v_proj"}},
		BatchSize: 2, MaxSteps: 6, SaveSteps: 2, LogSteps: 2, MaxSeqLength: 64}
}

// The walkthrough's verbs, once through, and each once more.
func TestVerbs(t *testing.T) {
	dir, _ := startEngine(t)
	info, err := testData.Load()
	if err != nil || info.Rows != 24 {
		t.Fatalf("load data: %+v, %v; want 24 rows", info, err)
	}
	if l, err := testData.Lengths(testBase); err != nil || len(l.Counts) != 24 || l.Min < 5 || l.Max > 1024 {
		t.Fatalf("lengths: %+v, %v", l, err)
	}
	m, err := testBase.Load()
	if err != nil || m.Attached || m.Params < 4e6 || m.DeviceBytes <= 0 || m.Tokenizer.EOS != "</s>" {
		t.Fatalf("load model: %+v, %v", m, err)
	}
	if m, err = testBase.Load(); err != nil || !m.Attached {
		t.Fatalf("load model again: attached %v, %v", m.Attached, err)
	}
	run := testRun("first")
	run.Eval = gotune.Dataset{Name: "heldout", Source: "embedded:heldout", Split: "train[:8]"}
	r, err := run.Train()
	if err != nil || r.State != gotune.RunDone || r.Step != 6 || !(r.Loss > 0) || !(r.EvalLoss > 0) || len(r.Checkpoints) != 3 {
		t.Fatalf("train: %+v, %v", r, err)
	}
	if notes := strings.Join(r.Notes, "\n"); !strings.HasPrefix(r.Fit, "takes ") || !strings.Contains(r.Fit, "all layers keep their residuals") || !strings.Contains(notes, "weights") || !strings.Contains(notes, "optimizer") {
		t.Errorf("proof of the fit: %q, notes %q", r.Fit, r.Notes)
	}
	again, err := run.Train()
	if err != nil || again.Step != 6 || again.Seconds != r.Seconds {
		t.Errorf("train again: step %d in %v s, %v; want the run that is there (%v s)", again.Step, again.Seconds, err, r.Seconds)
	}
	if rec, err := (gotune.Trainer{Name: "first"}).Record(); err != nil || len(rec.Records) != 6 || !rec.Records[1].Logged {
		t.Errorf("record by bare name: %d records, %v", len(rec.Records), err)
	}
	testOutputs(t, dir, run)
}

// testOutputs saves, generates, merges and frees.
func testOutputs(t *testing.T, dir string, run gotune.Trainer) {
	t.Helper()
	if s, err := run.Save("adapter"); err != nil || s.Step != 6 || s.Dir != filepath.Join(dir, "adapter") {
		t.Errorf("save: %+v, %v", s, err)
	}
	tuned, err := run.Generate("What does strings.TrimSpace do?", gotune.Sampling{MaxNewTokens: 8})
	if err != nil || tuned.Base || tuned.Tokens == 0 {
		t.Errorf("generate: %+v, %v", tuned, err)
	}
	plain, err := run.Generate("What does strings.TrimSpace do?", gotune.Sampling{MaxNewTokens: 8, Base: true})
	if err != nil || !plain.Base || !strings.HasPrefix(plain.Rendered, "<s>[INST] What does strings.TrimSpace do? [/INST]") {
		t.Errorf("generate with the base: %+v, %v", plain, err)
	}
	m, err := run.Merge("merged", gotune.MergeOptions{})
	if err != nil || m.Merged != 10 || m.DType != "float16" || m.FreedBytes <= 0 {
		t.Errorf("merge: %+v, %v", m, err)
	}
	for _, f := range []string{"adapter/adapter_model.safetensors", "merged/config.json", "merged/tokenizer.json", "merged/README.md"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
	merged := gotune.Model{Name: "merged", Source: "./merged", Quant: gotune.Quantization{Type: "none"}, Device: "xla:cpu"}
	if g, err := merged.Generate("What does strings.TrimSpace do?", gotune.Sampling{MaxNewTokens: 8}); err != nil || g.Tokens == 0 {
		t.Errorf("generate with the merged model: %+v, %v", g, err)
	}
	s, err := gotune.Free()
	if err != nil || s.DeviceBytes != 0 || len(s.Models) != 0 || len(s.Runs) != 1 {
		t.Errorf("free: %d bytes, %d models, %d runs, %v", s.DeviceBytes, len(s.Models), len(s.Runs), err)
	}
	if p, err := gotune.Push("merged", "me/first", gotune.PushOptions{DryRun: true}); err != nil || len(p.Files) < 5 || p.Bytes < 1e6 {
		t.Errorf("dry run: %+v, %v", p, err)
	}
}

// A name belongs to one config.
func TestConflict(t *testing.T) {
	startEngine(t)
	if _, err := testData.Load(); err != nil {
		t.Fatal(err)
	}
	other := testData
	other.Split = "train[:3]"
	_, err := other.Load()
	if !errors.Is(err, gotune.ErrConflict) || !strings.Contains(err.Error(), "train[:24]") || !strings.Contains(err.Error(), "train[:3]") {
		t.Errorf("load under a used name: %v, want a conflict that shows both", err)
	}
	_, err = gotune.Dataset{Name: "dat"}.Load()
	if !errors.Is(err, gotune.ErrNotFound) || !strings.Contains(err.Error(), `did you mean "data"`) {
		t.Errorf("bare name: %v, want not found with a hint", err)
	}
}

// An interrupt stops a run with a checkpoint; training again goes on from it, as
// if nothing had been. The run is one that no test waits for, so that it can't end
// before it is interrupted; its schedule is constant, so that a run of just as
// many steps takes the same ones.
func TestInterruptAndGoOn(t *testing.T) {
	dir, e := startEngine(t)
	broken, _ := endless("broken")
	first := interruptAt(t, e, broken, 1)
	second := interruptAt(t, e, broken, first.Step+2)
	if second.ResumedFrom != first.Step {
		t.Errorf("going on: resumed from %d, want %d", second.ResumedFrom, first.Step)
	}
	whole := testRun("whole")
	whole.MaxSteps = second.Step
	if r, err := whole.Train(); err != nil || r.State != gotune.RunDone || r.Step != second.Step {
		t.Fatalf("the unbroken run: %s after step %d, %v; want done after step %d", r.State, r.Step, err, second.Step)
	}
	sameAdapter(t, second.Step, filepath.Join(dir, "results", "whole"), filepath.Join(dir, "results", "broken"))
}

// interruptAt trains a run and cancels the call, as an interrupted cell does, once
// so many steps are done. It wants the run stopped, with a checkpoint of its last
// step.
func interruptAt(t *testing.T, e *Engine, run gotune.Trainer, step int) gotune.RunInfo {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if r, _ := e.run(run.Name); r != nil && r.active() && r.info().Step >= step {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	info, err := run.TrainContext(ctx)
	if err != nil && !errors.Is(err, gotune.ErrInterrupted) {
		t.Fatalf("interrupted run: %+v, %v", info, err)
	}
	last := filepath.Join(info.OutputDir, fmt.Sprintf("checkpoint-%d", info.Step))
	if info.State != gotune.RunStopped || info.Step < step || !slices.Contains(info.Checkpoints, last) {
		t.Fatalf("interrupted run: %s after step %d with checkpoints %v; want it stopped with a checkpoint of its last step, at least %d",
			info.State, info.Step, info.Checkpoints, step)
	}
	return info
}

// sameAdapter compares the adapters in two runs' checkpoints of a step, bit for bit.
func sameAdapter(t *testing.T, step int, a, b string) {
	t.Helper()
	read := func(dir string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("checkpoint-%d", step), "adapter_model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if !bytes.Equal(read(a), read(b)) {
		t.Error("the broken and the unbroken run ended with different adapters")
	}
}

// kill -9 of the engine loses nothing before the last checkpoint.
func TestKillAndGoOn(t *testing.T) {
	dir := shortDir(t)
	t.Chdir(dir)
	socket := filepath.Join(dir, "run", "e.sock")
	t.Setenv("GOTUNE_SOCKET", socket)
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	child := func() *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "GOTUNE_TEST_ENGINE=-socket "+socket)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		for range 200 {
			if _, err := wire.Ping(context.Background(), socket); err == nil {
				return c
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatal("the engine does not listen")
		return nil
	}
	c := child()
	if _, err := testRun("whole").Train(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, err := testRun("broken").Train(); ended <- err }()
	for {
		if _, err := os.Stat(filepath.Join(dir, "results", "broken", "checkpoint-2")); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := c.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	if err := <-ended; err == nil {
		t.Log("the run had ended when the engine was killed")
	}
	child()
	if r, err := testRun("broken").Train(); err != nil || r.State != gotune.RunDone {
		t.Fatalf("going on after kill -9: %s, %v", r.State, err)
	}
	sameAdapter(t, 6, filepath.Join(dir, "results", "whole"), filepath.Join(dir, "results", "broken"))
}

// One run at a time; whoever wants another is told which one is under way.
func TestBusy(t *testing.T) {
	_, e := startEngine(t)
	long := testRun("long")
	long.MaxSteps, long.SaveSteps = 100000, -1
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = long.TrainContext(ctx) }()
	waitStep(t, e, "long", 1)
	_, err := testRun("second").Train()
	var busy *gotune.Error
	if !errors.As(err, &busy) {
		t.Fatalf("second run: %v, want an error of the engine", err)
	}
	found := regexp.MustCompile(`\d+`).ReplaceAllString(busy.Found, "N")
	tells(t, &gotune.Error{Kind: busy.Kind, Op: busy.Op, Object: busy.Object, Found: found, Wanted: busy.Wanted, Next: busy.Next}, gotune.ErrBusy, "$DIR",
		"train run \"second\": the engine is busy\n\thave run \"long\" is training (step N of N)\n\twant no run under way\n\thint: wait for it, or stop it: gotune.Trainer{Name: \"long\"}.Stop()")
	if r, err := (gotune.Trainer{Name: "long"}).Stop(); err != nil || r.State != gotune.RunStopped {
		t.Errorf("stop: %s, %v, %v", r.State, r.Error, err)
	}
	<-ended
}
