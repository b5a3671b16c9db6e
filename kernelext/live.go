package kernelext

import (
	"slices"
	"time"
)

// liveGap is how long after the last queued cell a cell of live magics must come to run beside the one under
// way: what is sent in one go, by "Run All", keeps its order.
const liveGap = time.Second

// isLive says whether a cell is nothing but magics that may run beside another cell.
func isLive(source string) bool {
	magics, rest := splitMagics(source)
	return len(magics) > 0 && rest == "" && !slices.ContainsFunc(magics, func(m magic) bool { return !m.live() })
}

// live says whether the magic may run beside a cell that is under way. A wrong one may: it only says so.
func (m magic) live() bool {
	if m.name != "gotune" || len(m.args) == 0 {
		return true
	}
	c, ok := findCommand(m.args[0])
	return !ok || c.live
}

// takesTurn decides, with the kernel's lock held, whether c queues; if not, it runs at once. A cell queues
// behind others, except that one of live magics passes them all when a cell is under way and the user has
// sent it by hand since.
func (k *kernel) takesTurn(c *cell, now time.Time) bool {
	alone := k.cell != nil && now.Sub(k.queuedAt) >= liveGap && isLive(c.source)
	if !alone {
		k.queuedAt = now
	}
	return !alone
}

// runBeside runs a cell of live magics while another one is under way. GoNB's counter is behind the kernel's
// by one then, until catchUp.
func (k *kernel) runBeside(c *cell) {
	defer c.cancel()
	k.mu.Lock()
	if c.store {
		k.count++
		k.ahead++
	}
	c.count = k.count
	k.beside[c] = struct{}{}
	k.mu.Unlock()
	k.begin(c)
	k.runMagics(c)
	failed := c.out.finish()
	k.mu.Lock()
	delete(k.beside, c)
	if c.store {
		k.history.add(c.count, c.source)
	}
	k.mu.Unlock()
	k.conclude(c, failed)
	k.idle(c.request)
	k.mu.Lock()
	defer k.mu.Unlock() // so that the other cell's idle comes after
	if k.cell != nil {
		k.busy(k.cell.request) // front ends show the last state that they hear of
	}
}

// catchUp gives GoNB an empty cell for each that ran beside another, so that the counters are equal again. It
// returns with the kernel's lock held.
func (k *kernel) catchUp() {
	for k.mu.Lock(); k.ahead > 0 && k.gonb != nil; k.mu.Lock() {
		k.ahead--
		c := k.newCell(&request{message: newMessage(k.session, "execute_request", nil, object{})})
		c.store = true
		k.cell = c
		k.mu.Unlock()
		k.toCell(c, "")
		c.cancel()
	}
}
