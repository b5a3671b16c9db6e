package kernelext

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// guardGrace is how long gonb may take to end by itself.
const guardGrace = 1500 * time.Millisecond

// guard is the process between the kernel and gonb: "gotune kernel guard DIR COMMAND…". It runs the
// command, becomes the parent of everything that command leaves behind, and ends the whole tree when
// its standard input closes (the kernel is gone, however it went) or the command ends. Then it removes
// DIR and gonb's own folder. Its exit status is 0 when asked to end, 1 when the command ended first.
func guard(dir string, command []string) int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "gotune kernel: guard: become reaper:", err)
	}
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	runtime.LockOSThread() // Pdeathsig is tied to the thread that starts the child
	c := exec.Command(command[0], command[1:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "gotune kernel: start gonb:", err)
		return 1
	}
	asked, ended := make(chan struct{}), make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(asked) }()
	go func() { _ = c.Wait(); close(ended) }()

	status := 0
	folder := ""
	select {
	case <-asked:
		folder = gonbFolder(os.Getpid())
		endPrograms(c.Process.Pid)
		_ = syscall.Kill(c.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(guardGrace):
		}
	case <-ended:
		folder = gonbFolder(os.Getpid())
		status = 1
	}
	killTree(os.Getpid())
	_ = os.RemoveAll(dir)
	if folder != "" {
		_ = os.RemoveAll(folder)
	}
	return status
}

// programGrace is how long a cell's program may take to end when its kernel does.
const programGrace = 300 * time.Millisecond

// endPrograms ends what gonb runs before gonb itself is told to end: it would interrupt the cell's program, and a
// cell that trains would stop its run. A program that ends by SIGTERM leaves its run to the engine.
func endPrograms(gonb int) {
	me, _ := readProcess(os.Getpid())
	told := map[process]bool{} // once: many programs take a second signal for an order to drop everything
	for end := time.Now().Add(programGrace); ; time.Sleep(10 * time.Millisecond) {
		n, late := 0, time.Now().After(end)
		for _, p := range readProcesses().below(gonb) {
			switch {
			case p.session != me.session:
				continue
			case late:
				p.kill()
			case !told[process{pid: p.pid, start: p.start}]:
				told[process{pid: p.pid, start: p.start}] = true
				_ = syscall.Kill(p.pid, syscall.SIGTERM)
			}
			n++
		}
		if n == 0 || late {
			return
		}
	}
}

// gonbFolder is GoNB's temporary folder, learnt from the environment of the processes it started, or "".
func gonbFolder(root int) string {
	for _, p := range readProcesses().below(root) {
		d := environ(p.pid, "GONB_TMP_DIR")
		if filepath.IsAbs(d) && strings.HasPrefix(filepath.Base(d), "gonb_") {
			return d
		}
	}
	return ""
}

// killTree kills all descendants of root, until there are none: a process may fork while it dies. The
// engine, should it be among them, is left alone: it has a session of its own.
func killTree(root int) {
	me, _ := readProcess(os.Getpid())
	none := 0 // times in a row: /proc is not read at one moment, and a process may change its parent meanwhile
	for range 100 {
		n := 0
		for _, p := range readProcesses().below(root) {
			if p.session == me.session {
				p.kill()
				n++
			}
		}
		for {
			if pid, _ := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 {
				break
			}
		}
		if none++; n > 0 {
			none = 0
		}
		if none == 3 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
