package cuda

import (
	"fmt"
	"math"
)

// Targets of custom calls to gotune's kernels (folder kernel). A call's operands and
// results are tensors of rows, its configuration is made by the function named after
// the target. Masks of dropout are made in the kernel, from keys u32 [2], where u32 [2]
// (the layer first) and perhaps from u32 (tokens before the first row), which are
// operands behind the others in a call with masks.
const (
	// PackedProduct is x·Wᵀ for a 4-bit matrix: codes u8 [out·in/2], absmax f32
	// [out·in/block], x f32 [rows, in]; y f32 [rows, out].
	PackedProduct = "gotune_packed_product"
	// RMSNorm is a norm and its dropped copies: x [T, D], w f32 [D]; h [T, D] if it is
	// wanted, a copy [T, D] for each lane.
	RMSNorm = "gotune_rms_norm"
	// RMSNormBackward is its gradient in x, added to what x has already: x [T, D],
	// w f32 [D], dh [T, D], dres [T, D]; dx [T, D].
	RMSNormBackward = "gotune_rms_norm_backward"
	// DroppedSum is the gradient that comes back through dropped inputs: g [T, R] of
	// each of up to three adapters, A [R, D] of each; the sum [T, D].
	DroppedSum = "gotune_dropped_sum"
)

// Limits of the kernels: the longest row of a packed product's matrix (x stands in shared
// memory, of which a T4 has 64 KB for a block of threads), the longest row that is
// normed (its elements stand in registers), the adapters and the lanes of one call, what
// a [DroppedSum]'s R and D are multiples of, and the most that its adapters' R are together (A
// stands in shared memory, of which a GPU of compute capability 8.6 has 99 KB).
const (
	PackedProductMaxIn = 14 << 10
	RMSNormMaxD        = 8 << 10
	RMSNormMultiple    = 8
	MaxLanes           = 3
	DroppedSumR        = 8
	DroppedSumD        = 128
	DroppedSumMaxR     = 192
)

// PackedProductConfig is the configuration of a call of [PackedProduct]: x has
// rows rows, the matrix is [out, in] with a scale for each block weights of one row,
// NF4 or FP4. in must be a multiple of block, block a power of two from 32 on.
func PackedProductConfig(rows, out, in, block int, fp4 bool) string {
	return fmt.Sprintf("%s_%d_%d_%d_%d_%d", PackedProduct, rows, out, in, block, number(fp4))
}

// Masks are the dropout of a call.
type Masks struct {
	Lanes     []int   // 2·word + half, as package layerwise numbers them; none for no masks
	Threshold uint32  // a half word below it drops its element
	Scale     float32 // 1/(1−p)
	From      bool    // the last operand counts the tokens before
}

func (m Masks) config(n int) string {
	lanes := 0
	for i, l := range m.Lanes {
		lanes |= l << (4 * i)
	}
	return fmt.Sprintf("%d_%d_%d_%d_%d", n, lanes, m.Threshold, math.Float32bits(m.Scale), number(m.From))
}

// RMSNormConfig is the configuration of a call of [RMSNorm] for x [rows, d]: in float16
// x is f32 and h float16, else both are bfloat16.
func RMSNormConfig(rows, d int, float16 bool, eps float32, h bool, m Masks) string {
	return fmt.Sprintf("%s_%d_%d_%d_%d_%d_%s", RMSNorm, rows, d, number(float16), math.Float32bits(eps), number(h), m.config(len(m.Lanes)))
}

// RMSNormBackwardConfig is the configuration of a call of [RMSNormBackward].
func RMSNormBackwardConfig(rows, d int, float16 bool, eps float32) string {
	return fmt.Sprintf("%s_%d_%d_%d_%d", RMSNormBackward, rows, d, number(float16), math.Float32bits(eps))
}

// DroppedSumConfig is the configuration of a call of [DroppedSum] for so many adapters
// of rank r. Without lanes nothing is dropped, and the sum is multiplied with the scale.
func DroppedSumConfig(rows, d, r int, float16 bool, adapters int, m Masks) string {
	return fmt.Sprintf("%s_%d_%d_%d_%d_%s", DroppedSum, rows, d, r, number(float16), m.config(adapters))
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}
