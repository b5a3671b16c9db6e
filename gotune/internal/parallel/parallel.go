// Package parallel splits loops over large arrays among the machine's cores.
package parallel

import (
	"runtime"
	"sync"
)

// For calls f on consecutive ranges [from, to) that together cover [0, n), on as
// many goroutines as there are cores, and returns when all are done. Every
// boundary but the last is a multiple of grain, so that f may rely on whole
// groups (blocks, cache lines, pairs). Work of at most grain items runs on the
// caller's goroutine. A grain below 1 means 1.
//
// f must not panic: a panic on another goroutine ends the process.
func For(n, grain int, f func(from, to int)) {
	if n <= 0 {
		return
	}
	grain = max(grain, 1)
	groups := (n + grain - 1) / grain
	workers := min(runtime.GOMAXPROCS(0), groups)
	if workers == 1 {
		f(0, n)
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		from, to := groups*w/workers*grain, min(groups*(w+1)/workers*grain, n)
		if w == workers-1 {
			f(from, to)
			continue
		}
		wg.Go(func() { f(from, to) })
	}
	wg.Wait()
}
