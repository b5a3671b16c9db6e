//go:build !amd64

package lora

func mul2(x, y, b0, b1, a []float32) { mul2Plain(x, y, b0, b1, a) }
