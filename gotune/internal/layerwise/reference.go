package layerwise

import (
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/model"
)

// ReferenceInputs is one batch of token rows, as graph nodes. B rows of S tokens.
type ReferenceInputs struct {
	// IDs are token ids, int32 [B, S].
	IDs *Node
	// Positions are the tokens' places in their documents, from 0, int32 [B, S].
	// Nil means 0..S-1 in every row.
	Positions *Node
	// Segments number the documents of a row from 1; 0 is padding; int32 [B, S].
	// A token sees only tokens of its own segment. Nil means one document a row.
	Segments *Node
}

// ReferenceLoRA is one adapter module as graph nodes:
//
//	W' = W + Scale · B·A                            (LoRA)
//	W' = m / ‖W + Scale·B·A‖_row · (W + Scale·B·A)  (DoRA, when Magnitude is set)
//
// A is [R, in], B is [out, R], Magnitude is [out], all float. The norm is taken
// as a constant in the gradient, as PEFT does (Liu et al., arXiv:2402.09353, section 4.3).
type ReferenceLoRA struct {
	A, B, Magnitude *Node
	Scale           float64
}

// ReferenceOptions changes how [Reference] computes. The zero value is plain
// float32 without an adapter.
type ReferenceOptions struct {
	// LoRA maps a module, e.g. "model.layers.0.self_attn.q_proj", to its adapter.
	LoRA map[string]ReferenceLoRA
	// MatMul is the dtype of the operands of matrix products; sums, norms, softmax
	// and the residual stream stay float32. The zero value means Float32.
	MatMul dtypes.DType
	// Dropout, when set, is applied to the embeddings and to each block's output
	// before it joins the residual stream. Only pretraining sets it.
	Dropout func(x *Node) *Node
}

// reference carries what every part of the plain model needs.
type reference struct {
	cfg     *model.Config
	weights map[string]*Node
	opt     ReferenceOptions
}

// Reference is a whole decoder of the Llama family as one plain graph: token
// ids to logits, float32 [B, S, V].
//
//	h = embed(ids);  h += attention(norm(h));  h += W_down·(silu(W_gate·x) ∘ W_up·x), x = norm(h);  logits = W_head·norm(h)
//
// weights holds one node for each weight under its Hugging Face name, of any
// float dtype ("model.layers.0.self_attn.q_proj.weight" [out, in]); a tied
// head has no "lm_head.weight". It is differentiable in every weight and adapter
// node, takes every layer's memory at once, and is what the executor of this
// package is tested against; pretraining of the embedded model runs on it.
//
// Sources: Touvron et al., arXiv:2302.13971, section 2.2 (RMSNorm, SwiGLU, RoPE); Ainslie
// et al., arXiv:2305.13245 (grouped-query attention); Jiang et al., arXiv:2310.06825,
// section 2 (sliding window). Like all graph building it panics when a weight is missing
// or has the wrong shape; run it inside an executor, which returns that as an error.
func Reference(cfg *model.Config, weights map[string]*Node, in ReferenceInputs, opt ReferenceOptions) *Node {
	if opt.MatMul == dtypes.InvalidDType {
		opt.MatMul = dtypes.Float32
	}
	r := &reference{cfg: cfg, weights: weights, opt: opt}
	embed := r.weight("model.embed_tokens.weight")
	h := r.dropout(Gather(embed, InsertAxes(in.IDs, -1)))
	rope := r.rotation(in)
	visible := r.visible(in)
	for l := range cfg.NumLayers {
		p := fmt.Sprintf("model.layers.%d.", l)
		x := r.norm(h, p+"input_layernorm.weight")
		h = Add(h, r.dropout(r.attention(x, p+"self_attn.", rope, visible)))
		x = r.norm(h, p+"post_attention_layernorm.weight")
		h = Add(h, r.dropout(r.mlp(x, p+"mlp.")))
	}
	h = r.norm(h, "model.norm.weight")
	if cfg.TieWordEmbeddings {
		return r.product(h, embed)
	}
	return r.linear(h, "lm_head")
}

// ReferenceLoss is the mean cross-entropy of the next token, with labels int32
// [B, S] as Hugging Face aligns them: labels[b, t] is compared with the logits
// at t-1, and -100 is not supervised.
//
//	perToken[b, t] = logsumexp(logits[b, t]) - logits[b, t, labels[b, t+1]],  0 where unsupervised
//	mean           = Σ perToken / number supervised
//
// It returns mean (scalar) and perToken [B, S-1], float32. With nothing supervised
// the mean is 0.
func ReferenceLoss(logits, labels *Node) (mean, perToken *Node) {
	s := logits.Shape().Dim(1)
	logits = Slice(ConvertDType(logits, dtypes.Float32), AxisRange(), AxisRange(0, s-1))
	next := Slice(labels, AxisRange(), AxisRange(1, s))
	supervised := NotEqual(next, Scalar(next.Graph(), next.DType(), -100))
	next = Where(supervised, next, ZerosLike(next))
	peak := StopGradient(ReduceAndKeep(logits, ReduceMax, -1))
	lse := Squeeze(Add(Log(ReduceAndKeep(Exp(Sub(logits, peak)), ReduceSum, -1)), peak), -1)
	// A sum over a mask, not a gather: its gradient needs no scatter.
	classes := Iota(next.Graph(), shapes.Make(next.DType(), logits.Shape().Dimensions...), -1)
	hit := ReduceSum(Where(Equal(classes, InsertAxes(next, -1)), logits, ZerosLike(logits)), -1)
	perToken = Where(supervised, Sub(lse, hit), ZerosLike(lse))
	count := ReduceAllSum(ConvertDType(supervised, dtypes.Float32))
	return Div(ReduceAllSum(perToken), Max(count, ScalarOne(count.Graph(), count.DType()))), perToken
}

// weight returns the named weight in float32.
func (r *reference) weight(name string) *Node {
	w := r.weights[name]
	if w == nil {
		panic(fmt.Errorf("layerwise: the model has no weight %q; the checkpoint does not fit its config", name))
	}
	return ConvertDType(w, dtypes.Float32)
}

func (r *reference) dropout(x *Node) *Node {
	if r.opt.Dropout == nil {
		return x
	}
	return r.opt.Dropout(x)
}

// norm is RMSNorm: x / sqrt(mean(x²) + ε) · w, over the last axis.
func (r *reference) norm(x *Node, name string) *Node {
	ms := ReduceAndKeep(Square(x), ReduceMean, -1)
	return Mul(Div(x, Sqrt(AddScalar(ms, r.cfg.RMSNormEps))), ExpandLeftToRank(r.weight(name), x.Rank()))
}

// product is x·Wᵀ for x [..., in] and w [out, in], in the chosen operand dtype.
func (r *reference) product(x, w *Node) *Node {
	x, w = ConvertDType(x, r.opt.MatMul), ConvertDType(w, r.opt.MatMul)
	return ConvertDType(DotGeneral(x, []int{-1}, nil, w, []int{1}, nil), dtypes.Float32)
}

// linear is x·W'ᵀ + b of the named module, W' with its adapter added.
func (r *reference) linear(x *Node, module string) *Node {
	w := r.weight(module + ".weight")
	if ad, ok := r.opt.LoRA[module]; ok {
		w = ad.add(w)
	}
	y := r.product(x, w)
	if _, ok := r.weights[module+".bias"]; ok {
		y = Add(y, ExpandLeftToRank(r.weight(module+".bias"), y.Rank()))
	}
	return y
}

// add returns W' for w [out, in].
func (ad ReferenceLoRA) add(w *Node) *Node {
	a, b := ConvertDType(ad.A, w.DType()), ConvertDType(ad.B, w.DType())
	w = Add(w, MulScalar(DotGeneral(b, []int{1}, nil, a, []int{0}, nil), ad.Scale))
	if ad.Magnitude == nil {
		return w
	}
	norm := StopGradient(Sqrt(ReduceAndKeep(Square(w), ReduceSum, -1)))
	return Mul(w, Div(InsertAxes(ConvertDType(ad.Magnitude, w.DType()), -1), norm))
}

// mlp is SwiGLU: W_down·(silu(W_gate·x) ∘ W_up·x).
func (r *reference) mlp(x *Node, p string) *Node {
	gate := r.linear(x, p+"gate_proj")
	return r.linear(Mul(Mul(gate, Sigmoid(gate)), r.linear(x, p+"up_proj")), p+"down_proj")
}

// attention is softmax(q·kᵀ/√d + mask)·v with K key heads, each shared by G query heads.
func (r *reference) attention(x *Node, p string, rope [2]*Node, visible *Node) *Node {
	b, s := x.Shape().Dim(0), x.Shape().Dim(1)
	k, g, d := r.cfg.NumKVHeads, r.cfg.NumHeads/r.cfg.NumKVHeads, r.cfg.HeadDim
	dt := r.opt.MatMul
	query := ConvertDType(rotate(Reshape(r.linear(x, p+"q_proj"), b, s, k*g, d), rope), dt)
	key := ConvertDType(rotate(Reshape(r.linear(x, p+"k_proj"), b, s, k, d), rope), dt)
	value := ConvertDType(Reshape(r.linear(x, p+"v_proj"), b, s, k, d), dt)
	scores := Einsum("bikgd,bjkd->bkgij", Reshape(query, b, s, k, g, d), key)
	scores = MulScalar(ConvertDType(scores, dtypes.Float32), 1/math.Sqrt(float64(d)))
	scores = Where(BroadcastToDims(Reshape(visible, b, 1, 1, s, s), b, k, g, s, s), scores, Scalar(x.Graph(), scores.DType(), -1e30))
	e := Exp(Sub(scores, StopGradient(ReduceAndKeep(scores, ReduceMax, -1))))
	prob := ConvertDType(Div(e, ReduceAndKeep(e, ReduceSum, -1)), dt)
	out := ConvertDType(Einsum("bkgij,bjkd->bikgd", prob, value), dtypes.Float32)
	return r.linear(Reshape(out, b, s, k*g*d), p+"o_proj")
}

// visible is bool [B, S, S]: may token i see token j? Same segment, j not after
// i, and within the sliding window when there is one.
func (r *reference) visible(in ReferenceInputs) *Node {
	gr, b, s := in.IDs.Graph(), in.IDs.Shape().Dim(0), in.IDs.Shape().Dim(1)
	square := shapes.Make(dtypes.Int32, b, s, s)
	i, j := Iota(gr, square, 1), Iota(gr, square, 2)
	ok := LessOrEqual(j, i)
	if w := r.cfg.SlidingWindow; w > 0 {
		ok = LogicalAnd(ok, LessThan(Sub(i, j), Scalar(gr, dtypes.Int32, w)))
	}
	if in.Segments != nil {
		ok = LogicalAnd(ok, Equal(
			BroadcastToDims(InsertAxes(in.Segments, -1), b, s, s),
			BroadcastToDims(InsertAxes(in.Segments, 1), b, s, s)))
	}
	return ok
}

// rotation is cos and sin of position · frequency, each [B, S, 1, d/2].
func (r *reference) rotation(in ReferenceInputs) [2]*Node {
	pos := in.Positions
	if pos == nil {
		pos = Iota(in.IDs.Graph(), shapes.Make(dtypes.Int32, in.IDs.Shape().Dimensions...), 1)
	}
	pos = InsertAxes(ConvertDType(pos, dtypes.Float32), -1, -1)
	freq := ExpandLeftToRank(Const(pos.Graph(), r.cfg.InvFreq()), 4)
	angle := Mul(pos, freq)
	return [2]*Node{Cos(angle), Sin(angle)}
}

// rotate is RoPE (Su et al., arXiv:2104.09864) in Hugging Face's half-split order:
// feature i turns with feature i + d/2. x is [B, S, heads, d].
func rotate(x *Node, rope [2]*Node) *Node {
	half := x.Shape().Dim(-1) / 2
	a := Slice(x, AxisRange().Spacer(), AxisRange(0, half))
	b := Slice(x, AxisRange().Spacer(), AxisRange(half))
	cos, sin := rope[0], rope[1]
	return Concatenate([]*Node{Sub(Mul(a, cos), Mul(b, sin)), Add(Mul(b, cos), Mul(a, sin))}, -1)
}
