package kernelext

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// process is one entry of /proc. Its start time makes it distinct from a later process of the same pid.
type process struct {
	pid, parent, session int
	start                uint64 // clock ticks since boot
	name                 string // at most 15 bytes
}

// readProcess reads /proc/PID/stat: "pid (name) state ppid pgrp session …", field 22 is the start time.
func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if err != nil || from < 0 || to < from {
		return process{}, false
	}
	f := bytes.Fields(b[to+1:])
	if len(f) < 20 || f[0][0] == 'Z' {
		return process{}, false
	}
	p := process{pid: pid, name: string(b[from+1 : to])}
	p.parent, _ = strconv.Atoi(string(f[1]))
	p.session, _ = strconv.Atoi(string(f[3]))
	p.start, _ = strconv.ParseUint(string(f[19]), 10, 64)
	return p, true
}

// kill sends SIGKILL, unless the process has ended and its pid is another's by now.
func (p process) kill() {
	if now, ok := readProcess(p.pid); ok && now.start == p.start {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// processTree is a snapshot of the machine's processes by parent.
type processTree map[int][]process

func readProcesses() processTree {
	t := processTree{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return t
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			t[p.parent] = append(t[p.parent], p)
		}
	}
	return t
}

// below lists all descendants of pid, nearest first.
func (t processTree) below(pid int) []process {
	var out []process
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		for _, c := range t[next[0]] {
			out = append(out, c)
			next = append(next, c.pid)
		}
	}
	return out
}

// environ is the value that a process was started with for a variable, or "".
func environ(pid int, name string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for v := range bytes.SplitSeq(b, []byte{0}) {
		if value, ok := bytes.CutPrefix(v, []byte(name+"=")); ok {
			return string(value)
		}
	}
	return ""
}
