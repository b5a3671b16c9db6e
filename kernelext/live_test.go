package kernelext

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Live magics run beside a cell that is under way, with numbers of their own, and GoNB's counter catches up.
func TestLiveMagics(t *testing.T) {
	c := startKernel(t, startOptions{})
	waitEngine(t, c.socket)
	first := c.run("!true").reply["execution_count"].(float64)
	busy := c.execute("!echo up; sleep 4; echo over", nil)
	c.awaitText(t, busy, "up")
	inOneGo := c.execute("%gotune status", nil) // sent with the cell: it waits for its turn
	time.Sleep(liveGap + 100*time.Millisecond)
	began := time.Now()
	live := c.wait(c.execute("%gotune pause\n%gotune lr 1e-4", nil))
	if took := time.Since(began); live.reply["status"] != "ok" || took > 2*time.Second {
		t.Fatalf("%v after %v, want ok at once", live.reply, took)
	}
	if want := "busy execute_input display_data execute_result idle"; live.kinds() != want {
		t.Errorf("a live cell's messages: %s, want %s", live.kinds(), want)
	}
	if got := live.reply["execution_count"]; got != first+2 {
		t.Errorf("the live cell has number %v, want %v", got, first+2)
	}
	failed := c.wait(c.execute("%gotune pause nix", nil))
	if failed.reply["status"] != "error" {
		t.Errorf("a live magic that fails: %v", failed.reply)
	}
	c.await("iopub", "busy of the cell under way, said again", time.Second, func(o *message) bool {
		c := contentOf(t, o)
		return o.kind() == "status" && o.parentID() == busy.id() && c["execution_state"] == "busy" && o.header["date"].(string) > failed.outputs[len(failed.outputs)-1].header["date"].(string)
	})
	r := c.wait(busy)
	if r.reply["status"] != "ok" || !strings.Contains(r.text["stdout"], "over") {
		t.Errorf("the cell under way: %v, %q", r.reply, r.text["stdout"])
	}
	if q := c.wait(inOneGo); q.reply["status"] != "ok" || q.reply["execution_count"] != first+4 {
		t.Errorf("the cell sent with it: %v, want number %v", q.reply, first+4)
	}
	// GoNB's errors carry its own number.
	r = c.wait(c.execute("%%\nnix()", nil))
	if got := r.reply["execution_count"]; got != first+5 || !strings.Contains(textOf(t, r), fmt.Sprintf("Cell[%v]", first+5)) {
		t.Errorf("number %v, error\n%s\nwant %v in both", got, textOf(t, r), first+5)
	}
}

// textOf is the traceback of a cell that failed.
func textOf(t *testing.T, r ran) string {
	var b strings.Builder
	for _, m := range r.outputs {
		if m.kind() == "error" {
			for _, l := range contentOf(t, m)["traceback"].([]any) {
				b.WriteString(l.(string) + "\n")
			}
		}
	}
	return b.String()
}

// An interrupt ends a live magic that hangs, too.
func TestLiveInterrupt(t *testing.T) {
	c := startKernel(t, startOptions{env: []string{"PATH=" + stallingPath(t)}})
	busy := c.execute("!echo up; sleep 100", nil)
	c.awaitText(t, busy, "up")
	time.Sleep(liveGap + 50*time.Millisecond)
	live := c.execute("%gotune status", nil)
	c.await("iopub", "input of the live cell", 5*time.Second, func(o *message) bool { return o.parentID() == live.id() && o.kind() == "execute_input" })
	began := time.Now()
	c.reply("control", c.send(c.control, "interrupt_request", object{}), time.Second)
	r := c.wait(live)
	c.wait(busy)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%v, %v after the interrupt, want both ended at once", r.reply, took)
	}
}

// stallingPath is PATH with an nvidia-smi that hangs.
func stallingPath(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir + string(os.PathListSeparator) + os.Getenv("PATH")
}

// A cell of live magics runs beside another only when it comes alone.
func TestTakesTurn(t *testing.T) {
	now := time.Now()
	other := &cell{}
	for _, tt := range []struct {
		name, source string
		under        *cell
		after        time.Duration // since the last cell that queued
		want         bool
	}{
		{"nothing under way", "%gotune status", nil, time.Hour, true},
		{"live", "%gotune status", other, 2 * time.Second, false},
		{"several", "%gotune pause\n\n%gotune lr 1e-4\n%gotune resume\n", other, 2 * time.Second, false},
		{"TensorBoard", "%load_ext tensorboard\n%tensorboard --logdir x", other, 2 * time.Second, false},
		{"misspelt", "%gotune statsu", other, 2 * time.Second, false},
		{"in one go", "%gotune status", other, 100 * time.Millisecond, true},
		{"free waits", "%gotune free", other, 2 * time.Second, true},
		{"one of two waits", "%gotune status\n%gotune restart-engine", other, 2 * time.Second, true},
		{"with code", "%gotune status\n%%\nx", other, 2 * time.Second, true},
		{"only code", "%%\nx", other, 2 * time.Second, true},
		{"empty", "", other, 2 * time.Second, true},
		{"GoNB's magic", "%list", other, 2 * time.Second, true},
	} {
		k := &kernel{cell: tt.under, queuedAt: now.Add(-tt.after)}
		if got := k.takesTurn(&cell{source: tt.source}, now); got != tt.want {
			t.Errorf("%s: takes its turn %v, want %v", tt.name, got, tt.want)
		}
		if got := k.queuedAt.Equal(now); got != tt.want {
			t.Errorf("%s: counted as queued %v, want %v", tt.name, got, tt.want)
		}
	}
}
