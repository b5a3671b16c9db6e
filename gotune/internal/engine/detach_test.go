package engine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// An engine with a session of its own is nobody's child, so that no client ends
// it with the tree of a kernel's processes.
func TestDetach(t *testing.T) {
	dir := shortDir(t)
	socket := filepath.Join(dir, "run", "e.sock")
	engine := func() *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "GOTUNE_TEST_ENGINE=-socket "+socket, "XDG_STATE_HOME="+dir)
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return c
	}
	start := func() {
		t.Helper()
		c := engine()
		if err := c.Run(); err != nil { // its output isn't a pipe: the engine would hold it open
			t.Fatalf("start: %v", err)
		}
	}
	start()
	p, err := wire.Ping(context.Background(), socket)
	if err != nil {
		t.Fatalf("the start has ended and nobody listens: %v", err)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), ") ")
	if parent := strings.Fields(after)[1]; parent == strconv.Itoa(os.Getpid()) {
		t.Errorf("the engine's parent is who started it")
	}
	start()
	if again, err := wire.Ping(context.Background(), socket); err != nil || again.PID != p.PID {
		t.Errorf("started again: engine %d, %v; want the first one, %d", again.PID, err, p.PID)
	}
	shutdown(t, socket)

	// As a terminal or ssh starts it: it stays.
	c := engine()
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if p, err = wire.Ping(context.Background(), socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil || p.PID != c.Process.Pid {
		t.Errorf("with an input: engine %d, %v; want the process that was started, %d", p.PID, err, c.Process.Pid)
	}
	shutdown(t, socket)
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}

// shutdown ends an engine and waits until nobody listens.
func shutdown(t *testing.T, socket string) {
	t.Helper()
	var bye wire.Pong
	if err := wire.Do(context.Background(), socket, wire.Request{Verb: wire.VerbShutdown}, &bye); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if _, err := wire.Ping(context.Background(), socket); errors.Is(err, wire.ErrNoServer) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the engine does not end")
}
