package layerwise

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/stablehlo"
)

// customCallText is one custom call of a StableHLO text.
type customCallText struct {
	Target, Operands, Results, Types string // layouts and types as text
	Config                           any
}

var (
	denseLayout = regexp.MustCompile(`dense<\[?([\d, ]+)\]?>`)
	tensorOf    = regexp.MustCompile(`tensor<[^>]+>`)
)

// parseCustomCall reads both forms of a call, JAX's and go-xla's.
func parseCustomCall(t *testing.T, line string) (c customCallText) {
	t.Helper()
	find := func(of string) string {
		m := regexp.MustCompile(of).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("no %s in %s", of, line)
		}
		return m[1]
	}
	c.Target = find(`(__cudnn\$\w+)`)
	text := strings.NewReplacer(`\22`, `"`, `\"`, `"`).Replace(find(`backend_config = "((?:\\.|[^"\\])*)"`))
	if err := json.Unmarshal([]byte(text), &c.Config); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	layouts := func(of string) string {
		var all []string
		for _, m := range denseLayout.FindAllStringSubmatch(find(of+` = \[((?:dense<[^>]*> : tensor<\d+xindex>(?:, )?)+)\]`), -1) {
			all = append(all, m[1])
		}
		return strings.Join(all, "; ")
	}
	c.Operands, c.Results = layouts("operand_layouts"), layouts("result_layouts")
	if find(`api_version = (\d+)`) != "2" {
		t.Errorf("api_version of %s", line)
	}
	c.Types = strings.Join(tensorOf.FindAllString(line[strings.LastIndex(line, " : ("):], -1), " ")
	return c
}

// The calls of fused attention are those that JAX makes for the same shapes: of whole
// rows, with a bias, of documents, forwards and backwards, with fewer key heads than query
// heads.
func TestFusedCallsEqualJAX(t *testing.T) {
	golden, err := os.ReadFile("testdata/cudnn.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(golden)), "\n")
	if len(lines) != 12 {
		t.Fatalf("%d calls, want 12", len(lines))
	}
	for i := 0; i < len(lines); i += 2 {
		f := strings.Split(lines[i], "\t")
		var n [5]int
		for i := range n {
			if err := json.Unmarshal([]byte(f[i]), &n[i]); err != nil {
				t.Fatal(err)
			}
		}
		dt := dtypes.BFloat16
		if f[5] == "float16" {
			dt = dtypes.Float16
		}
		got := emitFused(t, dt, n[0], n[1], n[2], n[3], n[4], f[6])
		for k, line := range got {
			want := parseCustomCall(t, lines[i+k])
			if got := parseCustomCall(t, line); !reflect.DeepEqual(got, want) {
				t.Errorf("%v:\n%+v, want\n%+v", f[:7], got, want)
			}
		}
	}
}

// emitFused returns the custom calls, forwards and backwards, in the text of a graph.
func emitFused(t *testing.T, dt dtypes.DType, b, s, h, k, d int, mask string) (calls []string) {
	t.Helper()
	builder := kernelBackend{openCPU(t)}.Builder("attention")
	f := builder.Main()
	parameterOf := func(name string, dt dtypes.DType, dims ...int) compute.Value {
		v, err := f.Parameter(name, shapes.Make(dt, dims...), nil)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	parameter := func(name string, dims ...int) compute.Value { return parameterOf(name, dt, dims...) }
	q, key, v, do := parameter("q", b, s, h, d), parameter("k", b, s, k, d), parameter("v", b, s, k, d), parameter("do", b, s, h, d)
	o := &compute.ScaledDotProductAttentionConfig{Causal: true}
	switch mask {
	case packedBias:
		o.Bias = parameter("bias", b, 1, s, s)
	case packedRagged:
		o.QuerySeqLen = parameterOf("places", dtypes.Int32, b*(3*6+2))
	}
	out, states, err := f.FusedScaledDotProductAttention(q, key, v, compute.AttentionAxesLayoutBSHD, o)
	if err != nil {
		t.Fatal(err)
	}
	dq, dk, dv, err := f.FusedScaledDotProductAttentionVJP(q, key, v, compute.AttentionAxesLayoutBSHD, o, out, states, do)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Return([]compute.Value{out, dq, dk, dv}, nil); err != nil {
		t.Fatal(err)
	}
	// The text is the builder's own: the XLA backend shows it to nobody.
	x := builder.(*kernelBuilder).Builder.(*xla.Builder)
	field := reflect.ValueOf(x).Elem().FieldByName("builder")
	text, err := reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Interface().(*stablehlo.Builder).Build()
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range strings.Split(string(text), "stablehlo.custom_call")[1:] {
		end := strings.Index(call, " -> ")
		end += strings.Index(call[end:], "\n")
		calls = append(calls, strings.ReplaceAll(call[:end], "\n", " "))
	}
	if len(calls) != 2 {
		t.Fatalf("%d calls, want 2: %s", len(calls), text)
	}
	return calls
}

// Attention that is not causal, or whose bias has a size for each head, is refused.
func TestFusedCallsRefuse(t *testing.T) {
	f := kernelBackend{openCPU(t)}.Builder("attention").Main()
	parameter := func(name string, dt dtypes.DType, dims ...int) compute.Value {
		v, err := f.Parameter(name, shapes.Make(dt, dims...), nil)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	q := parameter("q", dtypes.BFloat16, 2, 64, 4, 64)
	for name, o := range map[string]*compute.ScaledDotProductAttentionConfig{
		"no options":    nil,
		"not causal":    {},
		"own scale":     {Causal: true, Scale: 1},
		"a head's bias": {Causal: true, Bias: parameter("bias", dtypes.BFloat16, 2, 4, 64, 64)},
		"odd places":    {Causal: true, QuerySeqLen: parameter("places", dtypes.Int32, 2*20+1)},
		"float32 bias":  {Causal: true, Bias: parameter("wide", dtypes.Float32, 2, 1, 64, 64)},
	} {
		if _, _, err := f.FusedScaledDotProductAttention(q, q, q, compute.AttentionAxesLayoutBSHD, o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	w := parameter("float32", dtypes.Float32, 2, 64, 4, 64)
	if _, _, err := f.FusedScaledDotProductAttention(w, w, w, compute.AttentionAxesLayoutBSHD, &compute.ScaledDotProductAttentionConfig{Causal: true}); err == nil {
		t.Error("float32: taken")
	}
}
