package layerwise

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// The dropout mask of an adapter is a function of (seed, step, micro-batch, layer,
// projection, element) alone, so that the backward pass remakes it instead of
// keeping it, on any device and in any order:
//
//	key, key' = two words of the step, the layer and what the projection reads
//	bits      = mix(element, key, key')
//	keep      = half of bits ≥ p·2¹⁶
//
// Projections that read the same input take one half of a word each, so that most of
// the arithmetic is shared: for r=64 on q and v of 7B shapes two words of two hashes
// each took 114 µs a layer of an H200's time, more than the memory traffic. A
// probability is rounded to 1/65,536.
//
// hash32 is a bijective 32-bit mixer of two multiplications and three
// xor-shifts (bias-searched constants of C. Wellons' "lowbias32"); mix is the same with
// a key before each multiplication, so that no two keys give the same sequence shifted.

// maskLanes are the word and the half of it that each of model.Projections takes:
// q, k, v, o, gate, up, down.
var maskLanes = [...]struct{ word, shift uint32 }{{0, 0}, {1, 0}, {0, 16}, {2, 0}, {3, 0}, {3, 16}, {4, 0}}

// dropoutKeys derives the two step keys from the run's seed and the place of the
// micro-batch in the run.
func dropoutKeys(seed int64, step, micro int) (k0, k1 uint32) {
	x := splitMix(uint64(seed))
	x = splitMix(x ^ uint64(step)*0x9E3779B97F4A7C15)
	x = splitMix(x ^ uint64(micro)*0xD1B54A32D192ED03)
	return uint32(x), uint32(x >> 32)
}

// splitMix is the output function of SplitMix64 (Steele et al., 2014).
func splitMix(x uint64) uint64 {
	x += 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// hash32 mixes uint32 values.
func hash32(x *Node) *Node {
	x = BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(16)))
	x = Mul(x, Scalar(x.Graph(), dtypes.Uint32, uint32(0x7feb352d)))
	x = BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(15)))
	x = Mul(x, Scalar(x.Graph(), dtypes.Uint32, uint32(0x846ca68b)))
	return BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(16)))
}

// mix32 is hash32 with a key before each multiplication.
func mix32(x, key, key1 *Node) *Node {
	like := func(k *Node) *Node { return BroadcastToDims(k, x.Shape().Dimensions...) }
	x = BitwiseXor(x, like(key))
	x = BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(16)))
	x = Add(Mul(x, Scalar(x.Graph(), dtypes.Uint32, uint32(0x7feb352d))), like(key1))
	x = BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(15)))
	x = Mul(x, Scalar(x.Graph(), dtypes.Uint32, uint32(0x846ca68b)))
	return BitwiseXor(x, BitwiseShiftRightLogicalScalar(x, uint32(16)))
}

// dropoutRNG holds what a layer's masks are made from.
type dropoutRNG struct {
	p      float64
	k0, k1 *Node // uint32 scalars, from dropoutKeys
	layer  *Node // uint32 scalar
	from   *Node // uint32 scalar: how many tokens come before x's first; nil for none

	keys, where *Node // 32-bit [2] that k0 and k1, and layer, are cut from
}

// dropoutOf cuts keys and place, int32 [2] each.
func dropoutOf(p float64, keys, where *Node) *dropoutRNG {
	word := func(x *Node, i int) *Node { return Bitcast(Reshape(Slice(x, AxisRange(i, i+1))), dtypes.Uint32) }
	return &dropoutRNG{p: p, k0: word(keys, 0), k1: word(keys, 1), layer: word(where, 0), keys: keys, where: where}
}

// apply zeroes elements of x [T, n] with probability p and scales the others by
// 1/(1−p), as torch.nn.Dropout does. proj is the projection's place in
// model.Projections. Applying it to a gradient is its own backward.
func (r *dropoutRNG) apply(x *Node, proj int) *Node {
	if r == nil || r.p == 0 {
		return x
	}
	g := x.Graph()
	element := Iota(g, shapeOf(dtypes.Uint32, x.Shape().Size()), 0)
	if r.from != nil {
		before := Mul(r.from, Scalar(g, dtypes.Uint32, uint32(x.Shape().Dim(-1))))
		element = Add(element, BroadcastToDims(before, element.Shape().Dimensions...))
	}
	lane := maskLanes[proj]
	key := hash32(BitwiseXor(r.k0, hash32(AddScalar(Mul(r.layer, Scalar(g, dtypes.Uint32, uint32(8))), lane.word))))
	bits := mix32(element, key, hash32(Add(r.k1, key)))
	if lane.shift > 0 {
		bits = BitwiseShiftRightLogicalScalar(bits, lane.shift)
	} else {
		bits = BitwiseAnd(bits, Scalar(g, dtypes.Uint32, uint32(0xffff)))
	}
	keep := Reshape(GreaterOrEqual(bits, Scalar(g, dtypes.Uint32, r.threshold())), x.Shape().Dimensions...)
	return Where(keep, MulScalar(x, 1/(1-r.p)), ZerosLike(x))
}

// threshold is what a half word that keeps its element is at least.
func (r *dropoutRNG) threshold() uint32 {
	return min(max(1, uint32(math.Round(r.p*(1<<16)))), 1<<16-1)
}
