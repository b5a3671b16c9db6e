package parallel

import (
	"sync/atomic"
	"testing"
)

func TestForCoversEachItemOnceOnGrainBoundaries(t *testing.T) {
	for _, grain := range []int{-1, 0, 1, 2, 7, 64, 1000} {
		for _, n := range []int{0, 1, 2, 63, 64, 65, 999, 1000, 1001} {
			seen := make([]atomic.Int32, n)
			For(n, grain, func(from, to int) {
				if g := max(grain, 1); from%g != 0 || (to != n && to%g != 0) {
					t.Errorf("For(%d, %d): range [%d, %d) is not on a multiple of the grain", n, grain, from, to)
				}
				for i := from; i < to; i++ {
					seen[i].Add(1)
				}
			})
			for i := range seen {
				if c := seen[i].Load(); c != 1 {
					t.Fatalf("For(%d, %d): item %d seen %d times", n, grain, i, c)
				}
			}
		}
	}
}
