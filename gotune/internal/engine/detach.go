package engine

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// detachTimeout is how long the engine's first process waits for the second one
// to listen: longer than a handover between two engines.
const detachTimeout = handover + 10*time.Second

// ownSession says whether this process was started to live on its own, as kernels
// and programs start it: in a session that it leads, without input. What a terminal
// or ssh starts leads a session too, but has an input; a service of systemd and a
// container's first process have none, but are to stay the process that was started.
func ownSession() bool {
	leader, err := unix.Getsid(0)
	if err != nil || leader != pid || pid == 1 || os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(pid) {
		return false
	}
	input, err := os.Stdin.Stat()
	if err != nil {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err == nil && os.SameFile(input, null)
}

// detach starts the engine a second time and returns the exit status of the
// first once the second listens. A session of its own is not enough: VS Code,
// when a kernel restarts or its notebook closes, signals all processes that
// have the kernel among their parents, whatever their session. The second
// process has none: its parent ends here.
func detach(socket string) int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotune engine: find this program:", err)
		return 1
	}
	// Without Setsid: in this session, which it doesn't lead, so it doesn't detach again.
	p, err := os.StartProcess(self, os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotune engine: start it in the background:", err)
		return 1
	}
	ended := make(chan int, 1)
	go func() {
		status := 1
		if state, err := p.Wait(); err == nil && state.Exited() {
			status = state.ExitCode()
		}
		ended <- status
	}()
	ctx, cancel := context.WithTimeout(context.Background(), detachTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case status := <-ended:
			return status
		case <-ctx.Done():
			fmt.Fprintf(os.Stderr, "gotune engine: process %d does not listen at %s after %v\n", p.Pid, socket, detachTimeout)
			return 1
		case <-tick.C:
			if answer, err := wire.Ping(ctx, socket); err == nil && answer.PID == p.Pid {
				return 0
			}
		}
	}
}
