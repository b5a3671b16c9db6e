package kernelext

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// keep is the process between kernels and a TensorBoard: "gotune kernel keep LOCK COMMAND…". It runs the command
// until nobody holds a shared lock on the file LOCK any more: kernels do, and lose it however they end. A line on
// its standard input says that the command is up; when the input closes before, it was given up.
func keep(lock string, command []string) int {
	runtime.LockOSThread() // Pdeathsig is tied to the thread that starts the child
	c := exec.Command(command[0], command[1:]...)
	c.Dir, c.Stdout, c.Stderr = "/", os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	f, err := os.OpenFile(lock, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotune kernel: start TensorBoard:", err)
		return 1
	}
	ended, alone, given := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	go func() {
		for syscall.Flock(int(f.Fd()), syscall.LOCK_EX) == syscall.EINTR {
		}
		close(alone)
	}()
	go func() {
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			close(given)
		}
	}()
	select {
	case <-ended:
		return 1
	case <-alone: // nobody can take a shared lock until this process is gone
		_ = os.Remove(strings.TrimSuffix(lock, ".lock") + ".json")
	case <-given:
	}
	// Its data server is a child of its own group.
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(2 * time.Second):
	}
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	return 0
}
