package layerwise

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
)

// headGraph is the end of the model: final norm, output layer, cross-entropy.
// Rows without a label are dropped first; the others are taken C at a time, so
// that only [C, V] logits exist at once, and each chunk gives its loss and its
// gradient while its logits are there. The host knows how many rows there are and
// issues that many chunks.
type headGraph struct {
	eps      float64
	dt       dtypes.DType
	residual dtypes.DType
	meta     meta
	chunk    int // C
}

// chunkRows chooses C for T tokens and a vocabulary of V: logits and their
// gradient, f32 [C, V], together take at most that many bytes, and the chunks are as
// equal as they can be.
func chunkRows(tokens, vocab, bytes int) int {
	limit := max(bytes/(8*vocab), 16)
	n := (tokens + limit - 1) / limit
	return (tokens + n - 1) / n
}

// headBytes bounds the memory of the loss: chunks larger than this are no faster.
const headBytes = 128 << 20

// paddedRows is T rounded up to whole chunks.
func paddedRows(tokens, chunk int) int { return (tokens + chunk - 1) / chunk * chunk }

// pick returns norm(x) of the rows that predict a label, [Tp, D], from x [T, D],
// norm f32 [D] and the packed batch.
func (h *headGraph) pick(packed, x, norm *Node) *Node {
	rows, _, _ := h.meta.labels(packed)
	return Gather(rmsNorm(x, norm, h.eps, h.dt), InsertAxes(rows, -1))
}

// part cuts the chunk that begins at row at (int32 [1]) out of picked rows and
// targets.
func (h *headGraph) part(packed, picked, at *Node) (x, targets *Node) {
	_, targets, _ = h.meta.labels(packed)
	return cutRows(picked, Reshape(at), h.chunk), cutRows(targets, Reshape(at), h.chunk)
}

// back scatters the rows' gradients d [Tp, D] to all tokens and takes them through
// the norm: dx [T, D], zero for tokens that predict nothing.
func (h *headGraph) back(packed, x, norm, d *Node) *Node {
	_, _, inverse := h.meta.labels(packed)
	none := Zeros(d.Graph(), shapeOf(d.DType(), 1, d.Shape().Dim(1)))
	all := Gather(Concatenate([]*Node{d, none}, 0), InsertAxes(inverse, -1))
	return ConvertDType(rmsNormBackward(x, norm, all, h.eps), h.residual)
}

// logits returns z = x·Wᵀ, f32 [C, V], and its log-sum-exp [C, 1].
func (h *headGraph) logits(x, w *Node) (z, lse *Node) {
	z = headLogits(x, w)
	peak := ReduceAndKeep(z, ReduceMax, -1)
	return z, Add(peak, Log(ReduceAndKeep(Exp(Sub(z, peak)), ReduceSum, -1)))
}

// headLogits is x·Wᵀ with a float32 result.
func headLogits(x, w *Node) *Node {
	return Dot(x, w).WithOutputDType(dtypes.Float32).General([]int{1}, nil, []int{1}, nil)
}

// crossEntropy is lse − z[target] by rows, f32 [C]; 0 where the target is −1.
func (h *headGraph) crossEntropy(z, lse, targets *Node) *Node {
	hit := ReduceSum(Where(oneHot(z, targets), z, ZerosLike(z)), -1)
	used := GreaterOrEqual(targets, ZerosLike(targets))
	each := Sub(Squeeze(lse, -1), hit)
	return Where(used, each, ZerosLike(each))
}

// piece is one chunk: the sum of its losses, and d [C, D], the gradient of
// gradScale · sum:
//
//	z = x·Wᵀ,  loss = Σ (logsumexp z − z[target]),  d = gradScale·(softmax z − onehot target)·W
func (h *headGraph) piece(x, w, targets, gradScale *Node) (loss, d *Node) {
	z, lse := h.logits(x, w)
	loss = ReduceAllSum(h.crossEntropy(z, lse, targets))
	used := ConvertDType(GreaterOrEqual(targets, ZerosLike(targets)), dtypes.Float32)
	scale := InsertAxes(Mul(used, gradScale), -1)
	p := Exp(Sub(z, lse))
	dz := Mul(Sub(p, ConvertDType(oneHot(z, targets), dtypes.Float32)), scale)
	return loss, DotGeneral(ConvertDType(dz, h.dt), []int{1}, nil, w, []int{0}, nil)
}

// oneHot is bool [C, V]: is this column the row's target?
func oneHot(z, targets *Node) *Node {
	dims := z.Shape().Dimensions
	return Equal(Iota(z.Graph(), shapeOf(dtypes.Int32, dims...), 1), BroadcastToDims(InsertAxes(targets, -1), dims...))
}

// bitsF32 reads an int32 scalar as the float32 with the same bits.
func bitsF32(x *Node) *Node { return Bitcast(x, dtypes.Float32) }

// f32Bits is the inverse, on the host.
func f32Bits(v float64) int32 { return int32(math.Float32bits(float32(v))) }
