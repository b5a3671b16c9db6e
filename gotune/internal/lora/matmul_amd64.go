package lora

import "golang.org/x/sys/cpu"

var hasFMA = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// mul2 computes two rows of a panel, with fused multiply-adds where there are
// some.
func mul2(x, y, b0, b1, a []float32) {
	if !hasFMA || len(b0) == 0 {
		mul2Plain(x, y, b0, b1, a)
		return
	}
	_, _, _, _ = x[panel-1], y[panel-1], b1[len(b0)-1], a[len(b0)*panel-1]
	mul2FMA(&x[0], &y[0], &b0[0], &b1[0], &a[0], len(b0))
}

// mul2FMA is mul2Plain in AVX2: a [r, 32], b0 and b1 [r], x and y [32].
//
//go:noescape
func mul2FMA(x, y, b0, b1, a *float32, r int)
