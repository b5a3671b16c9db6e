package layerwise

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// The oracle's README, section llama/: what a float32 implementation reaches.
const (
	logitTolerance = 1e-4
	lossTolerance  = 1e-5
)

// The oracle's README, section lora/: gradients agree within 1e-5 + 1e-4·|want|.
const (
	gradAbsTolerance = 1e-5
	gradRelTolerance = 1e-4
)

// golden is one expect.safetensors file, its tensors read on demand.
type golden struct {
	t    *testing.T
	file *safetensors.File
}

func openGolden(t *testing.T, elem ...string) golden {
	t.Helper()
	f, err := safetensors.Open(oracle.Dir(t, elem...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return golden{t, f}
}

func (g golden) float32s(name string) (values []float32, shape []int) {
	g.t.Helper()
	x, err := g.file.Tensor(name)
	if err != nil {
		g.t.Fatal(err)
	}
	values, err = x.Float32()
	if err != nil {
		g.t.Fatal(err)
	}
	return values, x.Shape
}

func (g golden) int32s(name string) (values []int32, shape []int) {
	g.t.Helper()
	x, err := g.file.Tensor(name)
	if err != nil {
		g.t.Fatal(err)
	}
	wide, err := x.Int64s()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, v := range wide {
		values = append(values, int32(v))
	}
	return values, x.Shape
}

// goldenWeights reads every weight of the model in dir, sharded or not, as
// float32 tensors, sorted by name.
func goldenWeights(t *testing.T, dir string) (names []string, values []any) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "model*.safetensors"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no weights in %s (%v)", dir, err)
	}
	byName := map[string]any{}
	for _, path := range files {
		f, err := safetensors.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, n := range f.Names() {
			v, shape := golden{t, f}.float32s(n)
			byName[n] = tensors.FromFlatDataAndDimensions(v, shape...)
		}
	}
	names = slices.Sorted(maps.Keys(byName))
	for _, n := range names {
		values = append(values, byName[n])
	}
	return names, values
}

// runReference runs the plain graph on the golden batch and returns its outputs:
// logits, mean loss, per-token loss, then the gradient of the mean loss for each
// adapter tensor in the order of adapterNames.
func runReference(t *testing.T, cfg *model.Config, dir string, g golden, adapterNames []string, adapterValues []any, scale float64) []*tensors.Tensor {
	t.Helper()
	be, err := backend.Open("xla:cpu")
	if err != nil {
		t.Fatal(err)
	}
	names, values := goldenWeights(t, dir)
	ids, shape := g.int32s("input_ids")
	mask, _ := g.int32s("attention_mask")
	labels, _ := g.int32s("labels")
	args := []any{
		tensors.FromFlatDataAndDimensions(ids, shape...),
		tensors.FromFlatDataAndDimensions(mask, shape...),
		tensors.FromFlatDataAndDimensions(labels, shape...),
	}
	args = append(append(args, values...), adapterValues...)
	exec, err := graph.NewExec(be, func(in []*graph.Node) []*graph.Node {
		w := map[string]*graph.Node{}
		for i, n := range names {
			w[n] = in[3+i]
		}
		adapter := in[3+len(names):]
		logits := Reference(cfg, w, ReferenceInputs{IDs: in[0], Segments: in[1]},
			ReferenceOptions{LoRA: referenceAdapter(adapterNames, adapter, scale)})
		mean, perToken := ReferenceLoss(logits, in[2])
		out := []*graph.Node{logits, mean, perToken}
		if len(adapter) > 0 {
			out = append(out, graph.Gradient(mean, adapter...)...)
		}
		return out
	})
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Finalize()
	out, err := exec.Call(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// referenceAdapter groups adapter tensors named as PEFT names them by module.
func referenceAdapter(names []string, nodes []*graph.Node, scale float64) map[string]ReferenceLoRA {
	all := map[string]ReferenceLoRA{}
	for i, n := range names {
		module, part, _ := strings.Cut(strings.TrimPrefix(n, "base_model.model."), ".lora_")
		m := all[module]
		m.Scale = scale
		switch {
		case strings.HasPrefix(part, "A"):
			m.A = nodes[i]
		case strings.HasPrefix(part, "B"):
			m.B = nodes[i]
		default:
			m.Magnitude = nodes[i]
		}
		all[module] = m
	}
	return all
}

// compareReal fails when got and want, both [B, T, V], differ by more than tol
// where mask is 1.
func compareReal(t *testing.T, what string, got, want []float32, mask []int32, tol float64) {
	t.Helper()
	width, worst := len(want)/len(mask), 0.0
	for i, w := range want {
		if mask[i/width] == 0 {
			continue
		}
		if d := math.Abs(float64(got[i]) - float64(w)); d > worst || math.IsNaN(d) {
			worst = d
		}
	}
	if !(worst <= tol) {
		t.Errorf("%s differ by up to %g, want at most %g", what, worst, tol)
	}
	t.Logf("%s: largest difference %.2g", what, worst)
}

func flat(t *testing.T, x *tensors.Tensor) []float32 {
	t.Helper()
	v, err := tensors.CopyFlatData[float32](x)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Every model of oracle/llama: logits, per-token loss and loss as transformers has them.
func TestReferenceEqualsTransformers(t *testing.T) {
	var index struct{ Models map[string]json.RawMessage }
	oracle.JSON(t, &index, "llama", "index.json")
	if len(index.Models) == 0 {
		t.Fatal("llama/index.json lists no models")
	}
	for name := range index.Models {
		t.Run(name, func(t *testing.T) {
			dir := oracle.Dir(t, "llama", name)
			cfg, err := model.ReadConfig(dir)
			if err != nil {
				t.Fatal(err)
			}
			g := openGolden(t, "llama", name, "expect.safetensors")
			out := runReference(t, cfg, dir, g, nil, nil, 0)
			mask, _ := g.int32s("attention_mask")
			logits, _ := g.float32s("logits")
			compareReal(t, "logits", flat(t, out[0]), logits, mask, logitTolerance)
			loss, _ := g.float32s("loss")
			if got := flat(t, out[1])[0]; !(math.Abs(float64(got-loss[0])) <= lossTolerance) {
				t.Errorf("loss %v, want %v within %g", got, loss[0], lossTolerance)
			}
			tokenLoss, shape := g.float32s("token_loss")
			all := slices.Repeat([]int32{1}, shape[0]*shape[1])
			compareReal(t, "token losses", flat(t, out[2]), tokenLoss, all, logitTolerance)
		})
	}
}

// Every adapter of oracle/lora with golden gradients: logits, loss and the
// gradient of each adapter tensor as PEFT has them (Hu et al., arXiv:2106.09685,
// section 4.1; rsLoRA arXiv:2312.03732; DoRA arXiv:2402.09353).
func TestReferenceLoRAEqualsPEFT(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(oracle.Dir(t, "lora"), "*", "adapter_config.json"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no adapters below %s (%v)", oracle.Dir(t, "lora"), err)
	}
	var index struct {
		Adapters map[string]struct {
			Model string `json:"model"`
		} `json:"adapters"`
	}
	oracle.JSON(t, &index, "lora", "index.json")
	for _, d := range dirs {
		name := filepath.Base(filepath.Dir(d))
		t.Run(name, func(t *testing.T) {
			base := index.Adapters[name].Model
			if base == "" {
				t.Fatalf("lora/index.json names no model for %s", name)
			}
			cfg, err := model.ReadConfig(oracle.Dir(t, base))
			if err != nil {
				t.Fatal(err)
			}
			names, values := goldenAdapter(t, name)
			g := openGolden(t, "lora", name, "expect.safetensors")
			out := runReference(t, cfg, oracle.Dir(t, base), g, names, values, adapterScale(t, d))
			mask, _ := g.int32s("attention_mask")
			logits, _ := g.float32s("logits")
			compareReal(t, "logits", flat(t, out[0]), logits, mask, logitTolerance)
			loss, _ := g.float32s("loss")
			if got := flat(t, out[1])[0]; !(math.Abs(float64(got-loss[0])) <= lossTolerance) {
				t.Errorf("loss %v, want %v within %g", got, loss[0], lossTolerance)
			}
			for i, n := range names {
				if strings.HasSuffix(n, ".lora_magnitude_vector") {
					n += ".weight" // PEFT's parameter has the suffix, its file does not
				}
				want, _ := g.float32s("grad." + n)
				got := flat(t, out[3+i])
				for j := range want {
					if d := math.Abs(float64(got[j] - want[j])); !(d <= gradAbsTolerance+gradRelTolerance*math.Abs(float64(want[j]))) {
						t.Errorf("gradient of %s [%d] is %g, want %g", n, j, got[j], want[j])
						break
					}
				}
			}
		})
	}
}

// goldenAdapter reads an adapter's tensors, sorted by name.
func goldenAdapter(t *testing.T, name string) (names []string, values []any) {
	t.Helper()
	g := openGolden(t, "lora", name, "adapter_model.safetensors")
	names = slices.Sorted(slices.Values(g.file.Names()))
	for _, n := range names {
		v, shape := g.float32s(n)
		values = append(values, tensors.FromFlatDataAndDimensions(v, shape...))
	}
	return names, values
}

// adapterScale is α/r, or α/√r for rsLoRA.
func adapterScale(t *testing.T, path string) float64 {
	t.Helper()
	var c struct {
		R         float64 `json:"r"`
		Alpha     float64 `json:"lora_alpha"`
		UseRSLoRA bool    `json:"use_rslora"`
	}
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.UseRSLoRA {
		return c.Alpha / math.Sqrt(c.R)
	}
	return c.Alpha / c.R
}

// A document packed behind another gives the logits it gives alone: tokens see
// only their own segment and positions start again.
func TestReferencePackingKeepsDocumentsApart(t *testing.T) {
	dir := oracle.Dir(t, "llama", "gqa")
	cfg, err := model.ReadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	be, err := backend.Open("xla:cpu")
	if err != nil {
		t.Fatal(err)
	}
	names, values := goldenWeights(t, dir)
	exec, err := graph.NewExec(be, func(in []*graph.Node) *graph.Node {
		w := map[string]*graph.Node{}
		for i, n := range names {
			w[n] = in[3+i]
		}
		return Reference(cfg, w, ReferenceInputs{IDs: in[0], Positions: in[1], Segments: in[2]}, ReferenceOptions{})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer exec.Finalize()
	// Row 0 holds both documents, row 1 the second alone and padding.
	ids := []int32{1, 7, 9, 1, 20, 21, 22, 23, 1, 20, 21, 22, 23, 0, 0, 0}
	pos := []int32{0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0, 0}
	seg := []int32{1, 1, 1, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 0, 0, 0}
	args := []any{}
	for _, x := range [][]int32{ids, pos, seg} {
		args = append(args, tensors.FromFlatDataAndDimensions(x, 2, 8))
	}
	out, err := exec.Call(append(args, values...)...)
	if err != nil {
		t.Fatal(err)
	}
	v := cfg.VocabSize
	got := flat(t, out[0])
	compareReal(t, "packed logits", got[3*v:8*v], got[8*v:13*v], []int32{1, 1, 1, 1, 1}, logitTolerance)
}

// A weight the checkpoint lacks is named in the error.
func TestReferenceNamesMissingWeight(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, `"model.embed_tokens.weight"`) {
			t.Errorf("panic %q does not name the missing weight", got)
		}
	}()
	Reference(&model.Config{}, nil, ReferenceInputs{}, ReferenceOptions{})
}
