package layerwise

import (
	"encoding/json"
	"fmt"
	"strconv"
	_ "unsafe" // for go:linkname

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gomlx/go-xla/compute/xla"
)

// cudnnAttention is cuDNN's flash attention (Dao, arXiv:2307.08691), which never
// writes the scores. XLA's CUDA plugin has it for bfloat16 and float16. Its graphs are
// built on a [kernelBackend], whose functions make the calls of this file; the XLA
// backend's own take neither a bias for all heads at once nor fewer key heads than
// query heads, and would have both copied to full size, and no packed documents.
type cudnnAttention struct{}

// options are attention's, which is causal. The places of a [ragged] batch's documents go
// as the lengths of rows, the field for integers, and [fmha.take] finds them there.
func (cudnnAttention) options(mask *Node) *compute.ScaledDotProductAttentionConfig {
	o := &compute.ScaledDotProductAttentionConfig{Causal: true}
	switch {
	case mask == nil:
	case mask.DType() == dtypes.Int32:
		o.QuerySeqLen = InternalBackendOutputs(mask)[0]
	default:
		o.Bias = InternalBackendOutputs(mask)[0]
	}
	return o
}

func (c cudnnAttention) forward(q, k, v, mask *Node) (o, lse *Node) {
	o, states := BackendFusedScaledDotProductAttention(q, k, v, compute.AttentionAxesLayoutBSHD, c.options(mask))
	if len(states) != 1 {
		panic(fmt.Errorf("fused attention keeps %d tensors for its gradient, want the log-sum-exp alone", len(states)))
	}
	return o, states[0]
}

func (c cudnnAttention) backward(q, k, v, mask, o, lse, do *Node) (dq, dk, dv *Node) {
	return fusedVJP(q, k, v, compute.AttentionAxesLayoutBSHD, c.options(mask), o, []*Node{lse}, do)
}

// fusedVJP is GoMLX's node of the gradient. The package exports it only through
// Gradient, which would compute the forward pass again.
//
//go:linkname fusedVJP github.com/gomlx/gomlx/core/graph.backendFusedScaledDotProductAttentionVJP
func fusedVJP(q, k, v *Node, layout compute.AttentionAxesLayout, o *compute.ScaledDotProductAttentionConfig, out *Node, states []*Node, dOut *Node) (dq, dk, dv *Node)

// FusedScaledDotProductAttention implements compute.FusedOps with cuDNN's call, as JAX
// makes it (jax/_src/cudnn/fused_attention_stablehlo.py): q, k, v, perhaps a bias or
// documents' lengths and offsets give o, the log-sum-exp and scratch.
func (f *kernelFunction) FusedScaledDotProductAttention(q, k, v compute.Value, layout compute.AttentionAxesLayout, options *compute.ScaledDotProductAttentionConfig) (o compute.Value, states []compute.Value, err error) {
	c, err := fmhaOf(f.Function, q, k, layout, options)
	if err != nil {
		return nil, nil, err
	}
	in := []compute.Value{q, k, v}
	if c.bias != nil {
		in = append(in, c.bias)
	}
	out, err := c.call(f.Function, "", []shapes.Shape{c.heads(c.h), c.stats()}, append(in, c.places...))
	if err != nil {
		return nil, nil, err
	}
	if o, err = f.Transpose(out[0], 0, 2, 1, 3); err != nil {
		return nil, nil, err
	}
	return o, out[1:2], nil
}

// FusedScaledDotProductAttentionVJP implements compute.FusedOps: q, k, v, the
// log-sum-exp, dO, perhaps a bias, o, perhaps lengths and offsets give dQ, dK, dV and
// scratch. The bias's own gradient is not asked for.
func (f *kernelFunction) FusedScaledDotProductAttentionVJP(q, k, v compute.Value, layout compute.AttentionAxesLayout, options *compute.ScaledDotProductAttentionConfig, o compute.Value, states []compute.Value, do compute.Value) (dq, dk, dv compute.Value, err error) {
	c, err := fmhaOf(f.Function, q, k, layout, options)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(states) != 1 {
		return nil, nil, nil, fmt.Errorf("gradient of fused attention: %d tensors of the forward pass, want the log-sum-exp alone", len(states))
	}
	in := []compute.Value{q, k, v, states[0], do}
	if c.bias != nil {
		in = append(in, c.bias)
	}
	out, err := c.call(f.Function, "Backward", []shapes.Shape{c.heads(c.h), c.heads(c.kv), c.heads(c.kv)}, append(append(in, o), c.places...))
	if err != nil {
		return nil, nil, nil, err
	}
	for i := range 3 {
		if out[i], err = f.Transpose(out[i], 0, 2, 1, 3); err != nil {
			return nil, nil, nil, err
		}
	}
	return out[0], out[1], out[2], nil
}

// fmha is the shape of a call: q [B, S, H, d], k and v [B, S, K, d], bias [B, 1, S, S].
type fmha struct {
	dt             dtypes.DType
	b, s, h, kv, d int
	bias           compute.Value   // may be nil
	documents      int             // a row has room for, XLA's max_seg_per_batch; 1 where rows are whole
	places         []compute.Value // JAX's q_seqlen, kv_seqlen [B, documents], q_offsets, kv_offsets [B, documents+1]
}

// fmhaOf checks that a call is one that this file makes.
func fmhaOf(f *xla.Function, q, k compute.Value, layout compute.AttentionAxesLayout, o *compute.ScaledDotProductAttentionConfig) (c fmha, err error) {
	qs, err := f.Shape(q)
	if err != nil {
		return c, err
	}
	ks, err := f.Shape(k)
	if err != nil {
		return c, err
	}
	if layout != compute.AttentionAxesLayoutBSHD || o == nil || !o.Causal || o.Mask != nil || o.KeyValueSeqLen != nil || o.Bias != nil && o.QuerySeqLen != nil || o.Scale != 0 ||
		(qs.DType != dtypes.BFloat16 && qs.DType != dtypes.Float16) || qs.Rank() != 4 || ks.Rank() != 4 {
		return c, fmt.Errorf("fused attention of %s and %s, options %+v: %w; causal attention of [B, S, H, d] in bfloat16 or float16 is", qs, ks, o, compute.ErrNotImplemented)
	}
	c = fmha{dt: qs.DType, b: qs.Dim(0), s: qs.Dim(1), h: qs.Dim(2), kv: ks.Dim(2), d: qs.Dim(3), bias: o.Bias, documents: 1}
	if c.bias != nil {
		bs, err := f.Shape(c.bias)
		if err != nil {
			return c, err
		}
		if want := shapes.Make(c.dt, c.b, 1, c.s, c.s); !bs.Equal(want) {
			return c, fmt.Errorf("fused attention of %s: a bias of %s, want %s", qs, bs, want)
		}
	}
	if o.QuerySeqLen != nil {
		err = c.take(f, o.QuerySeqLen)
	}
	return c, err
}

// take cuts the places of a [ragged] batch.
func (c *fmha) take(f *xla.Function, places compute.Value) error {
	s, err := f.Shape(places)
	if err != nil {
		return err
	}
	if c.documents = (s.Size()/c.b - 2) / 3; s.DType != dtypes.Int32 || s.Rank() != 1 || c.documents < 2 || s.Size() != c.b*(3*c.documents+2) {
		return fmt.Errorf("fused attention of %d rows: places of %s, want int32 of three numbers a document and two a row, of at least two documents", c.b, s)
	}
	at := 0
	cut := func(n int) (v compute.Value) {
		if err == nil {
			v, err = f.Slice(places, []int{at}, []int{at + c.b*n}, []int{1})
		}
		if err == nil {
			v, err = f.Reshape(v, c.b, n)
		}
		at += c.b * n
		return v
	}
	lengths := cut(c.documents)
	c.places = []compute.Value{lengths, lengths, cut(c.documents + 1), cut(c.documents + 1)}
	return err
}

// heads and stats are the shapes of results: cuDNN's order is heads before tokens,
// the layout in memory tokens before heads.
func (c *fmha) heads(n int) shapes.Shape { return shapes.Make(c.dt, c.b, n, c.s, c.d) }
func (c *fmha) stats() shapes.Shape      { return shapes.Make(dtypes.Float32, c.b*c.documents, c.h, c.s) }

// call makes the call of a direction ("" or "Backward") for results out, and scratch
// of a size that XLA fills in.
func (c *fmha) call(f *xla.Function, direction string, out []shapes.Shape, in []compute.Value) ([]compute.Value, error) {
	var operands, results [][]int
	for _, v := range in {
		s, err := f.Shape(v)
		if err != nil {
			return nil, err
		}
		operands = append(operands, rowMajor(s.Rank()))
	}
	for _, s := range out {
		if s.Rank() == 4 {
			results = append(results, []int{3, 1, 2, 0})
		} else {
			results = append(results, rowMajor(s.Rank()))
		}
	}
	target := "__cudnn$fmhaSoftmax"
	if c.bias != nil {
		target = "__cudnn$fmhaScaleBiasSoftmax"
	}
	return customCall(f, target+direction, c.config(direction != ""), operands, append(out, shapes.Make(dtypes.Uint8, 0)), append(results, []int{0}), in...)
}

// rowMajor is a layout, minor axis first.
func rowMajor(rank int) (axes []int) {
	for i := rank - 1; i >= 0; i-- {
		axes = append(axes, i)
	}
	return axes
}

// config is the call's CudnnfMHABackendConfig (XLA's backend_configs.proto) as JSON.
func (c *fmha) config(backward bool) string {
	type object = map[string]any
	list := func(v ...int) (out []string) {
		for _, x := range v {
			out = append(out, strconv.Itoa(x))
		}
		return out
	}
	element, mask := "BF16", "CAUSAL"
	if c.dt == dtypes.Float16 {
		element = "F16"
	}
	if c.places != nil {
		mask = "PADDING_CAUSAL"
	}
	o := object{
		"algorithm": object{"algo_id": "0", "math_type": "TENSOR_OP_MATH", "tuning_knobs": object{"17": "1", "24": "0"},
			"is_cudnn_frontend": true, "workspace_size": "0"},
		"fmha_scale": attentionScale(c.d),
		"intermediate_tensor_shape": object{
			"element_type": element, "dimensions": list(c.b, c.h, c.s, c.s), "tuple_shapes": []any{},
			"layout": object{
				"dim_level_types": []any{}, "dim_unique": []any{}, "dim_ordered": []any{}, "minor_to_major": list(3, 2, 1, 0), "tiles": []any{},
				"element_size_in_bits": "0", "memory_space": "0", "index_primitive_type": "PRIMITIVE_TYPE_INVALID",
				"pointer_primitive_type": "PRIMITIVE_TYPE_INVALID", "dynamic_shape_metadata_prefix_bytes": "0"},
			"is_dynamic_dimension": []bool{false, false, false, false}},
		"is_flash_attention": true, "mask_type": mask, "dropout_rate": 0, "seed": 42,
		"sliding_window_length": 0, "max_seg_per_batch": c.documents, "is_paged_attention": false,
	}
	// The products of scores P [B, H, S, S] with tensors [B, S, heads, d], by their axes.
	product := func(name string, left, right int, batch ...int) {
		o[name+"_dot_dimension_numbers"] = object{
			"lhs_contracting_dimensions": list(left), "rhs_contracting_dimensions": list(right),
			"lhs_batch_dimensions": list(batch[0], batch[1]), "rhs_batch_dimensions": list(0, 2)}
	}
	if backward {
		product("bmm1_grad_gemm1", 2, 1, 0, 1)
		product("bmm1_grad_gemm2", 3, 1, 0, 1)
		product("bmm2_grad_gemm1", 2, 1, 0, 1)
		product("bmm2_grad_gemm2", 3, 3, 0, 2)
	} else {
		product("bmm1", 3, 3, 0, 2)
		product("bmm2", 3, 1, 0, 1)
	}
	text, err := json.Marshal(object{"operation_queue_id": "0", "cudnn_fmha_backend_config": o})
	if err != nil {
		panic(err) // of plain values
	}
	return string(text)
}
