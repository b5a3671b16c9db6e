package kernelext

import (
	"slices"
	"syscall"
	"time"
)

// restartGrace is how long an interrupt waits for a shutdown: Jupyter sends both when a kernel is restarted, and a
// restart is to leave alone what a cell has the engine do, where an interrupt is to stop it.
const restartGrace = 50 * time.Millisecond

// interrupt ends the cells that run, unless the kernel is shut down right after, and the queue behind is answered
// "aborted". No cell starts before that is done: GoNB interrupts whatever it runs.
func (k *kernel) interrupt() {
	k.mu.Lock()
	var running []*cell
	for c := range k.beside {
		running = append(running, c)
	}
	if k.cell != nil {
		running = append(running, k.cell)
		k.abortTo = k.arrived
	}
	if running != nil {
		k.interrupts++
	}
	k.mu.Unlock()
	if running == nil {
		return
	}
	go func() {
		defer func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.interrupts--
			k.calm.Broadcast()
		}()
		select {
		case <-time.After(restartGrace):
		case <-k.quit:
			return
		}
		k.mu.Lock()
		main := k.cell
		k.mu.Unlock()
		for _, c := range running {
			switch {
			case k.stopping.Load():
				return
			case c == main:
				k.stopCell(c)
			default:
				c.interrupt() // beside the other one, or over by now
			}
		}
	}()
}

// stopCell interrupts c: the magic that runs, the compile, or the program. GoNB sends a program SIGINT,
// and SIGKILL five seconds later; it cannot interrupt a compile, so gonb's own children go and goimports
// are killed here. gopls is never touched: its go list children are needed for completion.
func (k *kernel) stopCell(c *cell) {
	c.interrupt()
	if k.gonb == nil {
		return
	}
	// Remembered before GoNB is asked: the program may be gone, and what it started have another parent,
	// within a millisecond.
	programs, started := k.children()
	k.killCompiler()
	k.askInterrupt()
	k.mu.Lock()
	k.interrupts++ // until the watch is over: what it ends must not be the next cell's
	k.mu.Unlock()
	go func() {
		k.watchInterrupted(c, programs, started)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.interrupts--
		k.calm.Broadcast()
	}()
}

func (c *cell) interrupt() {
	c.mu.Lock()
	c.interrupted = true
	c.mu.Unlock()
	c.cancel()
}

// askInterrupt sends GoNB an interrupt_request.
func (k *kernel) askInterrupt() {
	m := newMessage(k.session, "interrupt_request", nil, object{})
	if err := k.gonb.send(k.gonb.control, m); err != nil {
		k.log.Print(err)
	}
}

// watchInterrupted follows an interrupted cell to its end: a step of the compile, or the program itself,
// may have started after the interrupt. Then it ends what the program has left behind.
func (k *kernel) watchInterrupted(c *cell, programs []int, started []process) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			k.killCompiler()
			now, more := k.children()
			for _, pid := range now {
				if !slices.Contains(programs, pid) {
					programs, started = append(programs, pid), append(started, more...)
					k.askInterrupt()
				}
			}
		case <-c.done:
			for _, p := range started {
				p.kill()
			}
			return
		case <-k.gonb.gone:
			return
		case <-k.quit:
			return
		}
	}
}

// gonbPIDs lists gonb's process: the guard's only child, and what gonb left to the guard.
func (k *kernel) gonbChildren() (processTree, []process) {
	t := readProcesses()
	var out []process
	for _, g := range t[k.gonb.guard.Process.Pid] {
		out = append(out, t[g.pid]...)
	}
	return t, out
}

// children lists the programs that gonb runs (cells and shell commands) by pid, and all processes below
// them that have no session of their own.
func (k *kernel) children() (pids []int, below []process) {
	t, children := k.gonbChildren()
	for _, c := range children {
		if isCompiler(c) || c.name == "gopls" {
			continue
		}
		pids = append(pids, c.pid)
		for _, p := range t.below(c.pid) {
			if p.session == c.session {
				below = append(below, p)
			}
		}
	}
	return pids, below
}

// killCompiler kills the compile that gonb runs.
func (k *kernel) killCompiler() {
	t, children := k.gonbChildren()
	for _, c := range children {
		if !isCompiler(c) {
			continue
		}
		for _, p := range t.below(c.pid) {
			p.kill()
		}
		_ = syscall.Kill(c.pid, syscall.SIGKILL)
	}
}

func isCompiler(p process) bool { return p.name == "go" || p.name == "goimports" }
