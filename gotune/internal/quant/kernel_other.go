//go:build !amd64

package quant

import "github.com/gotune/gotune/gotune/internal/safetensors"

// tree is what processors with vector kernels search in.
type tree struct{}

func newTree(*ladder, *grid) *tree { return nil }

func (c *codec) packWhole(*Tensor, int, []float32) int { return 0 }

func widenWhole(safetensors.DType, []float32, []byte) int { return 0 }
