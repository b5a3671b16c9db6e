package layerwise

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/quant"
)

// part is one projection inside a group.
type part struct {
	proj string // "q_proj"
	out  int
}

// groupSpec describes projections that read the same input and whose weights lie
// row-wise in one matrix [Σ out, in], so that one product serves them all.
//
// A packed group holds, as the device sees it,
//
//	codes   u8  [N·blocks·block/2]   two 4-bit codes a byte, the earlier in the high nibble
//	absmax  f32 [N·blocks]           or, double-quantized:
//	absmax  u8  [m, 256], absmax2 f32 [m], offset f32 [m]
//
// Blocks run over the flat row-major weight. A part whose size is no multiple of
// the block is padded to whole blocks, so any shape packs.
type groupSpec struct {
	parts  []part
	in     int
	dtype  dtypes.DType // of the values when typ is empty
	typ    quant.Type   // "" when the group holds plain values
	block  int          // weights a scale covers
	nested bool         // the scales are themselves quantized
	levels [256]float32 // of the 8-bit scales when nested
	bias   bool         // a bias f32 [Σ out] follows
}

// out is the number of rows of the whole group.
func (s *groupSpec) out() (n int) {
	for _, p := range s.parts {
		n += p.out
	}
	return n
}

// blocks is the number of quantization blocks of part p.
func (s *groupSpec) blocks(p part) int { return (p.out*s.in + s.block - 1) / s.block }

// outOf is the number of rows of one projection.
func (s *groupSpec) outOf(proj string) int {
	for _, p := range s.parts {
		if p.proj == proj {
			return p.out
		}
	}
	return 0
}

// totalBlocks is the number of quantization blocks of the group.
func (s *groupSpec) totalBlocks() (n int) {
	for _, p := range s.parts {
		n += s.blocks(p)
	}
	return n
}

// superBlocks is the number of 256-scale blocks of part p when nested.
func (s *groupSpec) superBlocks(p part) int { return (s.blocks(p) + nestedBlock - 1) / nestedBlock }

// nestedBlock is how many 8-bit scales share one float32 scale (bitsandbytes).
const nestedBlock = 256

// shapes lists the group's device tensors in order.
func (s *groupSpec) shapes() (out []shapes.Shape) {
	switch {
	case s.typ == "":
		out = append(out, shapes.Make(s.dtype, s.out(), s.in))
	case s.nested:
		m := 0
		for _, p := range s.parts {
			m += s.superBlocks(p)
		}
		out = append(out, shapes.Make(dtypes.Uint8, s.totalBlocks()*s.block/2),
			shapes.Make(dtypes.Uint8, m, nestedBlock), shapes.Make(dtypes.Float32, m), shapes.Make(dtypes.Float32, m))
	default:
		out = append(out, shapes.Make(dtypes.Uint8, s.totalBlocks()*s.block/2), shapes.Make(dtypes.Float32, s.totalBlocks()))
	}
	if s.bias {
		out = append(out, shapes.Make(dtypes.Float32, s.out()))
	}
	return out
}

// key names everything of the spec that changes the graph.
func (s *groupSpec) key() string {
	var sb strings.Builder
	for _, p := range s.parts {
		fmt.Fprintf(&sb, "%s:%d,", p.proj, p.out)
	}
	fmt.Fprintf(&sb, "in%d,%s,%s,b%d,n%t,bias%t", s.in, s.dtype, s.typ, s.block, s.nested, s.bias)
	if s.nested {
		h := fnv.New64a()
		fmt.Fprint(h, s.levels)
		fmt.Fprintf(&sb, ",levels%x", h.Sum64())
	}
	return sb.String()
}

// group is a groupSpec with its tensors on the device.
type group struct {
	groupSpec
	bufs []compute.Buffer
}

// layerWeights are the frozen weights of one decoder layer.
type layerWeights struct {
	groups        []*group
	norm1, norm2  compute.Buffer   // input_layernorm, post_attention_layernorm: f32 [D]
	resident      []compute.Buffer // the layer's tensors with 4-bit matrices unpacked, or nil
	residentSpecs []groupSpec
	owned         []compute.Buffer // those of resident that are not also in groups
	scales        []compute.Buffer // of its matrices in 8-bit floats (float8.go), of each part an f32 scalar; or nil
	eight, turned []compute.Buffer // those kept in 8-bit floats: bytes of each part, their transposes; or nil
	known         []groupSpec      // what specs returns, made once
	key           string           // of known
}

// specs returns the groups' specs, those of the resident form when there is one,
// and what they add to a program's key. It is asked at every call.
func (w *layerWeights) specs() (specs []groupSpec, key string) {
	if w.known == nil {
		w.known = w.residentSpecs
		if w.resident == nil {
			for _, g := range w.groups {
				w.known = append(w.known, g.groupSpec)
			}
		}
		w.key = specsKey(w.known)
	}
	return w.known, w.key
}

// buffers returns the layer's tensors in the order that [layerShapes] declares.
func (w *layerWeights) buffers() []compute.Buffer {
	out := []compute.Buffer{w.norm1, w.norm2}
	if w.resident != nil {
		return append(out, w.resident...)
	}
	for _, g := range w.groups {
		out = append(out, g.bufs...)
	}
	return out
}

func specsKey(specs []groupSpec) string {
	keys := make([]string, len(specs))
	for i := range specs {
		keys[i] = specs[i].key()
	}
	return strings.Join(keys, ";")
}

// free finalizes the layer's tensors.
func (w *layerWeights) free() {
	drop(w.norm1, w.norm2)
	drop(w.owned...)
	drop(w.scales...)
	drop(w.eight...)
	drop(w.turned...)
	for _, g := range w.groups {
		drop(g.bufs...)
	}
}

// matrix is a group inside a graph.
type matrix struct {
	spec  *groupSpec
	w     *Node       // [Σ out, in], compute dtype
	bias  *Node       // f32 [Σ out], or nil
	in    []*Node     // what w and bias are made of
	eight []eightBits // w in 8-bit floats, which products take instead, or nil
}

// holds says whether m's rows are those of projs, in their order.
func (m *matrix) holds(projs []string) bool {
	return slices.EqualFunc(m.spec.parts, projs, func(p part, proj string) bool { return p.proj == proj })
}

// read consumes the group's nodes from in and returns its matrix in the compute
// dtype, and the nodes left.
func (s *groupSpec) read(in []*Node, dt dtypes.DType) (matrix, []*Node) {
	m, all := matrix{spec: s}, in
	switch {
	case s.typ == "":
		m.w, in = ConvertDType(in[0], dt), in[1:]
	case s.nested:
		m.w, in = s.dequantize(in[0], s.scales(in[1], in[2], in[3]), dt), in[4:]
	default:
		m.w, in = s.dequantize(in[0], in[1], dt), in[2:]
	}
	if s.bias {
		m.bias, in = in[0], in[1:]
	}
	m.in = all[:len(all)-len(in)]
	return m, in
}
