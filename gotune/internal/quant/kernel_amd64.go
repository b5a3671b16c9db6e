package quant

import (
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// hasKernel says whether this processor has AVX2 and half-precision loads, as all
// since 2013 do. A variable, so that tests can take the plain way too.
var hasKernel = cpu.X86.HasAVX2 && cpu.X86.HasFMA

// tree is a ladder laid out for a search of four steps, each for 8 weights at
// once. Level k has 2^k bounds; from a node the search goes to 2·node, or to
// 2·node+1 if the value lies above the node's bound. After four steps the node is
// the number of midpoints below the value, as [ladder.code] counts them.
type tree struct {
	levels  [4][8]float32
	codes   [32]byte // of each ladder level, twice
	nibbles [32]byte // 16 and 1 in turns: what a code weighs in its byte
	abs     uint32   // masks the sign off
	tiny    float32
	one     float32
	cells   *cells32 // nil if the code has none
}

func newTree(l *ladder, g *grid) *tree {
	t := &tree{cells: newCells32(l, g), abs: 0x7fffffff, tiny: tiny, one: 1}
	for k := range t.levels {
		step := 16 >> k
		for node := range t.levels[k] {
			// Level 0 has one bound, which all lanes compare with.
			t.levels[k][node] = l.bounds[node%(1<<k)*step+step/2-1]
		}
	}
	for i := range t.codes {
		t.codes[i] = l.codes[i%16]
		t.nibbles[i] = byte(16 >> (i % 2 * 4))
	}
	return t
}

// packWhole packs the whole blocks at the front of w, and returns how many it
// did: all, or those before the first with a weight that is not finite, or none
// if the processor cannot.
func (c *codec) packWhole(t *Tensor, first int, w []float32) int {
	n := len(w) / t.BlockSize
	if !hasKernel || n == 0 {
		return 0
	}
	_, _ = t.Codes[(first+n)*t.BlockSize/2-1], t.Absmax[first+n-1]
	codes, absmax := &t.Codes[first*t.BlockSize/2], &t.Absmax[first]
	if hasAVX512 && c.tree.cells != nil {
		return packAVX512(codes, absmax, &w[0], n, t.BlockSize, c.tree.cells)
	}
	return packAVX2(codes, absmax, &w[0], n, t.BlockSize, c.tree)
}

// widenWhole converts the groups of 16 at the front of dst, and returns the
// number of values done.
func widenWhole(dt safetensors.DType, dst []float32, src []byte) int {
	n := len(dst) &^ 15
	if !hasKernel || n == 0 {
		return 0
	}
	src = src[:n*dt.Size()]
	switch dt {
	case safetensors.F32:
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), len(src)), src)
	case safetensors.BF16:
		widenBF16(&dst[0], &src[0], n)
	case safetensors.F16:
		widenF16(&dst[0], &src[0], n)
	}
	return n
}

// packAVX2 packs blocks of size weights, a multiple of 32: for each it stores the
// largest magnitude in absmax and size/2 bytes of codes in dst. It returns the
// number of blocks before the first that holds a NaN or an infinity.
//
//go:noescape
func packAVX2(dst *byte, absmax, x *float32, blocks, size int, t *tree) (done int)

// widenBF16 and widenF16 convert n values, a positive multiple of 16.
//
//go:noescape
func widenBF16(dst *float32, src *byte, n int)

//go:noescape
func widenF16(dst *float32, src *byte, n int)
