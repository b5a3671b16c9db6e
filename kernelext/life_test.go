package kernelext

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ours lists the live processes that a test's kernel has started, wherever they hang: they have the
// kernel's socket in their environment. The engine has a session of its own and is left out.
func (c *client) ours() (out []process) {
	for _, ps := range readProcesses() {
		for _, p := range ps {
			if environ(p.pid, "GOTUNE_SOCKET") == c.socket && p.session != p.pid {
				out = append(out, p)
			}
		}
	}
	return out
}

// gone waits until no process and no folder of the kernel is left.
func (c *client) gone(t *testing.T, folders []string) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for len(c.ours()) > 0 && time.Now().Before(end) {
		time.Sleep(20 * time.Millisecond)
	}
	if left := c.ours(); len(left) > 0 {
		t.Errorf("left behind: %+v", left)
		for _, p := range left {
			p.kill()
		}
	}
	for _, f := range folders {
		for exists(f) && time.Now().Before(end) {
			time.Sleep(20 * time.Millisecond)
		}
		if exists(f) {
			t.Errorf("folder %s is left behind", f)
		}
	}
}

// folders finds the kernel's folder for sockets and GoNB's for programs.
func (c *client) folders(t *testing.T) (out []string) {
	t.Helper()
	for _, p := range c.ours() {
		if d := environ(p.pid, "GONB_TMP_DIR"); d != "" && !slices.Contains(out, d) {
			out = append(out, d)
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if err != nil {
			continue
		}
		if f := strings.Split(string(b), "\x00"); len(f) > 3 && f[2] == "guard" {
			out = append(out, f[3])
		}
	}
	if len(out) != 2 {
		t.Fatalf("folders %q, want the guard's and GoNB's", out)
	}
	return out
}

const (
	sleeper = "import (\"os/exec\"; \"time\")\n%%\nexec.Command(\"sleep\", \"1000\").Start()\nfmt.Println(\"up\")\ntime.Sleep(time.Hour)"
)

func (c *client) awaitText(t *testing.T, m *message, text string) {
	t.Helper()
	c.await("iopub", "output "+text, 30*time.Second, func(o *message) bool {
		return o.parentID() == m.id() && o.kind() == "stream" && strings.Contains(string(o.content), text)
	})
}

// However a kernel ends, nothing of it stays: not gonb, not gopls, not the cell's program nor what that
// has started, and none of the folders.
func TestNoOrphans(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(c *client)
	}{
		{"kill -9 of the kernel", func(c *client) { c.cmd.Process.Kill() }},
		{"kill -9 of its process group", func(c *client) { syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }},
		{"SIGTERM", func(c *client) { c.cmd.Process.Signal(syscall.SIGTERM) }},
		{"shutdown_request", func(c *client) { c.send(c.control, "shutdown_request", object{"restart": false}) }},
		{"shutdown_request with restart", func(c *client) { c.send(c.control, "shutdown_request", object{"restart": true}) }},
		{"kill -9 of gonb", func(c *client) {
			for _, p := range c.ours() {
				if p.name == "gonb" {
					p.kill()
				}
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := startKernel(t, startOptions{})
			c.awaitText(t, c.execute(sleeper, nil), "up")
			folders := c.folders(t)
			engine := waitEngine(t, c.socket)
			tt.end(c)
			done := make(chan struct{})
			go func() { c.cmd.Wait(); close(done) }()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Error("the kernel is still there after 10 s")
			}
			c.gone(t, folders)
			if now := waitEngine(t, c.socket); now != engine {
				t.Errorf("engine %d, want %d: it has to outlive the kernel", now, engine)
			}
		})
	}
}

// The kernel ends when Jupyter does, however that goes.
func TestParentWatch(t *testing.T) {
	// The shell is the parent that is killed; JPY_PARENT_PID is what jupyter_client sets.
	c := startKernel(t, startOptions{command: []string{"/bin/sh", "-c", `JPY_PARENT_PID=$$ "$@"; true`, "sh"}})
	c.run("!true")
	folders := c.folders(t)
	c.cmd.Process.Kill()
	c.cmd.Wait()
	c.gone(t, folders)
}

// Jupyter restarts a kernel with an interrupt and a shutdown. The cell's program is told to
// end, but not interrupted: what it has the engine do goes on.
func TestRestartIsNoInterrupt(t *testing.T) {
	c := startKernel(t, startOptions{})
	heard := filepath.Join(c.dir, "heard")
	m := c.execute("import (\"os\"; \"os/signal\"; \"syscall\")\n%%\nch := make(chan os.Signal, 1)\nsignal.Notify(ch, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)\n"+
		"fmt.Println(\"up\")\nos.WriteFile(\""+heard+"\", []byte((<-ch).String()), 0o600)", nil)
	c.awaitText(t, m, "up")
	c.send(c.control, "interrupt_request", object{})
	c.send(c.control, "shutdown_request", object{"restart": true})
	c.cmd.Wait()
	c.gone(t, nil)
	if b, err := os.ReadFile(heard); err != nil || string(b) != "terminated" {
		t.Errorf("the program was sent %q, %v, want no interrupt but SIGTERM", b, err)
	}
}

func TestInterrupt(t *testing.T) {
	c := startKernel(t, startOptions{})
	interrupt := func(m *message) (ran, time.Duration) {
		t.Helper()
		began := time.Now()
		c.reply("control", c.send(c.control, "interrupt_request", object{}), time.Second)
		r := c.wait(m)
		return r, time.Since(began)
	}
	wantInterrupted := func(t *testing.T, r ran, took time.Duration) {
		t.Helper()
		if r.reply["status"] != "error" || r.reply["ename"] != "Interrupted" || took > time.Second {
			t.Errorf("reply %v after %v, want Interrupted within a second", r.reply, took)
		}
	}
	t.Run("program", func(t *testing.T) {
		m := c.execute(sleeper, nil)
		c.awaitText(t, m, "up")
		code, path := c.markCode("queued")
		queued := c.execute(code, nil)
		r, took := interrupt(m)
		wantInterrupted(t, r, took)
		if q := c.reply("shell", queued, 5*time.Second); q["status"] != "aborted" || exists(path) {
			t.Errorf("the cell behind it: %v, want aborted", q)
		}
		for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			left := slices.ContainsFunc(c.ours(), func(p process) bool { return p.name == "sleep" })
			if !left {
				break
			}
			if time.Now().After(end) {
				t.Fatal("what the program started still runs")
			}
		}
	})
	t.Run("shell command", func(t *testing.T) {
		m := c.execute("!echo up; sleep 1000", nil)
		c.awaitText(t, m, "up")
		if r, took := interrupt(m); took > time.Second {
			t.Errorf("%v after %v", r.reply, took)
		}
	})
	t.Run("graceful program", func(t *testing.T) {
		m := c.execute("import (\"os\"; \"os/signal\")\n%%\nch := make(chan os.Signal, 1)\nsignal.Notify(ch, os.Interrupt)\nfmt.Println(\"up\")\n<-ch\nfmt.Println(\"saved\")", nil)
		c.awaitText(t, m, "up")
		if r, _ := interrupt(m); r.reply["status"] != "ok" || !strings.Contains(r.text["stdout"], "saved") {
			t.Errorf("a program that handles the interrupt: %v, %q", r.reply, r.text["stdout"])
		}
	})
	t.Run("compile", func(t *testing.T) {
		// go build is held up by a compiler that never ends.
		tool := filepath.Join(c.dir, "tool")
		if err := os.WriteFile(tool, []byte("#!/bin/sh\ncase \"$*\" in *-V=full*) exec \"$@\";; esac\ntouch "+c.dir+"/compiling\nsleep 1000\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		c.run("%goflags -toolexec=" + tool)
		ran := filepath.Join(c.dir, "ran")
		m := c.execute("%%\nos.WriteFile(\""+ran+"\", nil, 0o600)", nil)
		for end := time.Now().Add(20 * time.Second); !exists(filepath.Join(c.dir, "compiling")); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("no compile within 20 s")
			}
		}
		r, took := interrupt(m)
		wantInterrupted(t, r, took)
		c.run("%goflags \"\"")
		if exists(ran) {
			t.Error("the cell ran after its compile was interrupted")
		}
	})
	t.Run("at any moment", func(t *testing.T) {
		for i := range 12 {
			ran := filepath.Join(c.dir, fmt.Sprint("moment", i))
			m := c.execute(fmt.Sprintf("import \"time\"\n%%%%\ntime.Sleep(5 * time.Second)\nos.WriteFile(%q, nil, 0o600) // %d", ran, i), nil)
			c.await("iopub", "busy", 5*time.Second, func(o *message) bool { return o.parentID() == m.id() }) // else there is nothing to interrupt yet
			time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			r, took := interrupt(m)
			if took > time.Second || exists(ran) {
				t.Errorf("interrupt %d ms after the request: %v after %v", i*20, r.reply, took)
			}
		}
	})
	t.Run("magic", func(t *testing.T) {
		// An engine that takes the connection and never answers.
		endTestEngine(c.socket)
		os.Remove(c.socket)
		l, err := net.Listen("unix", c.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		m := c.execute("%gotune status\n%%\nfmt.Println(\"ran\")", nil)
		time.Sleep(100 * time.Millisecond)
		r, took := interrupt(m)
		wantInterrupted(t, r, took)
		if r.text["stdout"] != "" {
			t.Error("the code after an interrupted magic ran")
		}
	})
	t.Run("flood", func(t *testing.T) {
		m := c.execute("!yes", nil)
		c.awaitText(t, m, "y")
		time.Sleep(300 * time.Millisecond)
		before := time.Now()
		r, _ := interrupt(m)
		t.Logf("a flood ends %v after the interrupt, %d bytes shown", time.Since(before), len(r.text["stdout"]))
		c.run("!true")
	})
}
