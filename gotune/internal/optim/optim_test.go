package optim

import (
	"fmt"
	"math"
	"slices"
	"testing"

	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// golden is oracle/optim/clip_adamw.json.
type golden struct {
	Clip []struct {
		Case    int
		MaxNorm float64 `json:"max_norm"`
		Norm    float64
		Coef    float64
	} `json:"clip_cases"`
	AdamW []struct {
		Case        int
		LR          float64
		WeightDecay float64 `json:"weight_decay"`
		Betas       [2]float64
		Eps         float64
		Steps       int
	} `json:"adamw_cases"`
}

// goldenFile returns a reader of a golden file's tensors.
func goldenFile(t *testing.T, name string) (has func(string) bool, get func(string) []float32) {
	t.Helper()
	f, err := safetensors.Open(oracle.Dir(t, "optim", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	has = func(n string) bool { _, ok := f.Spec(n); return ok }
	return has, func(n string) []float32 {
		x, err := f.Tensor(n)
		if err != nil {
			t.Fatal(err)
		}
		v, err := x.Float32()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// near holds the oracle's 1e-6 relative; tiny covers values near cancellation.
func near(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if d := math.Abs(float64(got[i] - want[i])); !(d <= 1e-6*math.Abs(float64(want[i]))+1e-9) {
			t.Errorf("%s[%d] is %g, want %g", what, i, got[i], want[i])
			return
		}
	}
}

// The plain update and the graph both equal torch.optim.AdamW over all steps.
func TestAdamWEqualsTorch(t *testing.T) {
	var want golden
	oracle.JSON(t, &want, "optim", "clip_adamw.json")
	if len(want.AdamW) == 0 {
		t.Fatal("optim/clip_adamw.json has no adamw_cases")
	}
	be, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	_, get := goldenFile(t, "adamw.safetensors")
	for _, c := range want.AdamW {
		name := fmt.Sprintf("c%d.", c.Case)
		o := AdamW{Beta1: c.Betas[0], Beta2: c.Betas[1], Eps: c.Eps, WeightDecay: c.WeightDecay}
		exec := MustNewExec(be, func(p, g, m, v, h *Node) (*Node, *Node, *Node) { return o.Graph(p, g, m, v, h) })
		p := slices.Clone(get(name + "param0"))
		m, v := make([]float32, len(p)), make([]float32, len(p))
		gp, gm, gv := slices.Clone(p), slices.Clone(m), slices.Clone(v)
		for s := range c.Steps {
			g := get(fmt.Sprintf("%sgrad%d", name, s))
			o.Step(p, g, m, v, c.LR, s+1)
			h := o.Hyper(c.LR, s+1)
			out := exec.MustCall(gp, g, gm, gv, h[:])
			gp, gm, gv = tensors.MustCopyFlatData[float32](out[0]), tensors.MustCopyFlatData[float32](out[1]), tensors.MustCopyFlatData[float32](out[2])
			w := get(fmt.Sprintf("%sparam%d", name, s+1))
			near(t, name+"plain", p, w)
			near(t, name+"graph", gp, w)
		}
		for k, got := range map[string][][]float32{"exp_avg": {m, gm}, "exp_avg_sq": {v, gv}} {
			near(t, name+"plain "+k, got[0], get(name+k))
			near(t, name+"graph "+k, got[1], get(name+k))
		}
	}
}

// Norm and factor equal torch.nn.utils.clip_grad_norm_. Its max_norm 0 makes all
// gradients zero; here 0 means no clipping, as in transformers.Trainer.
func TestClipEqualsTorch(t *testing.T) {
	var want golden
	oracle.JSON(t, &want, "optim", "clip_adamw.json")
	if len(want.Clip) == 0 {
		t.Fatal("optim/clip_adamw.json has no clip_cases")
	}
	be, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	has, get := goldenFile(t, "clip.safetensors")
	for _, c := range want.Clip {
		var before, after []float32
		for i := 0; has(fmt.Sprintf("case%d.before%d", c.Case, i)); i++ {
			before = append(before, get(fmt.Sprintf("case%d.before%d", c.Case, i))...)
			after = append(after, get(fmt.Sprintf("case%d.after%d", c.Case, i))...)
		}
		coef := c.Coef
		if c.MaxNorm == 0 {
			coef, after = 1, before
		}
		norm := Norm(before)
		out := MustExecOnceN(be, func(g *Node) []*Node {
			n := NormGraph(g)
			return []*Node{n, Mul(g, ClipGraph(n, c.MaxNorm))}
		}, before)
		near(t, "plain norm", []float32{float32(norm)}, []float32{float32(c.Norm)})
		near(t, "graph norm", tensors.MustCopyFlatData[float32](out[0]), []float32{float32(c.Norm)})
		near(t, "factor", []float32{float32(ClipFactor(norm, c.MaxNorm))}, []float32{float32(coef)})
		near(t, "graph clipped", tensors.MustCopyFlatData[float32](out[1]), after)
	}
}

func TestCheck(t *testing.T) {
	for _, n := range append([]string{""}, Names...) {
		if err := Check(n); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []string{"adamw_bnb_8bit", "paged_adamw_8bit", "sgd"} {
		if Check(n) == nil {
			t.Errorf("%s was accepted", n)
		}
	}
}

func ExampleClipFactor() {
	norm := Norm([]float32{3, 0}, []float32{4})
	fmt.Printf("norm %.0f, factor %.4f\n", norm, ClipFactor(norm, 0.3))
	// Output: norm 5, factor 0.0600
}
