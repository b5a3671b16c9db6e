package layerwise

import (
	"encoding/json"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gomlx/compute"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// Every model of oracle/llama: hidden states after each layer, logits, per-token
// loss and loss as transformers has them.
func TestBaseEqualsTransformers(t *testing.T) {
	var index struct{ Models map[string]json.RawMessage }
	oracle.JSON(t, &index, "llama", "index.json")
	if len(index.Models) == 0 {
		t.Fatal("llama/index.json lists no models")
	}
	for name := range index.Models {
		t.Run(name, func(t *testing.T) {
			b := loadDir(t, oracle.Dir(t, "llama", name), LoadOptions{})
			g := openGolden(t, "llama", name, "expect.safetensors")
			bt := goldenBatch(g)
			compareHidden(t, b, g, bt)
			logits, err := b.Logits(nil, bt)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := g.float32s("logits")
			compareReal(t, "logits", logits, want, bt.Segments, logitTolerance)
			loss, _ := g.float32s("loss")
			sum, err := b.lossOf(nil, bt)
			if err != nil {
				t.Fatal(err)
			}
			if got := sum / float64(bt.Supervised()); !(math.Abs(got-float64(loss[0])) <= lossTolerance) {
				t.Errorf("loss %v, want %v within %g", got, loss[0], lossTolerance)
			}
			compareTokenLoss(t, b, g, bt)
		})
	}
}

// compareHidden holds the embedding's and each layer's output.
func compareHidden(t *testing.T, b *Base, g golden, bt *batch.Batch) {
	t.Helper()
	each := func(layer int, y compute.Buffer) error {
		name := "hidden.embed"
		if layer >= 0 {
			name = "hidden.layer" + strconv.Itoa(layer)
		}
		want, _ := g.float32s(name)
		got, err := download[float32](y, len(want))
		compareReal(t, name, got, want, bt.Segments, logitTolerance)
		return err
	}
	if err := b.run(nil, bt, each, func(geometry, meta, compute.Buffer, compute.Buffer) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// compareTokenLoss holds the loss of each token: a batch with one label left.
func compareTokenLoss(t *testing.T, b *Base, g golden, bt *batch.Batch) {
	t.Helper()
	want, _ := g.float32s("token_loss")
	for row := range bt.B {
		for s := 0; s < bt.S-1; s += 5 {
			one := *bt
			one.Labels = slices.Repeat([]int32{batch.Ignore}, len(bt.Labels))
			one.Labels[row*bt.S+s+1] = bt.Labels[row*bt.S+s+1]
			got, err := b.lossOf(nil, &one)
			if err != nil {
				t.Fatal(err)
			}
			if w := float64(want[row*(bt.S-1)+s]); !(math.Abs(got-w) <= logitTolerance) {
				t.Errorf("token loss [%d, %d] is %g, want %g", row, s, got, w)
			}
		}
	}
}

// Every adapter of oracle/lora: logits with and without it, loss and gradients.
// Those that reach most code again with residuals recomputed and the loss in chunks.
func TestTrainerEqualsPEFT(t *testing.T) {
	var index struct {
		Adapters map[string]struct {
			Model string `json:"model"`
		} `json:"adapters"`
	}
	oracle.JSON(t, &index, "lora", "index.json")
	if len(index.Adapters) == 0 {
		t.Fatal("lora/index.json lists no adapters")
	}
	for name, entry := range index.Adapters {
		t.Run(name, func(t *testing.T) {
			b := loadDir(t, oracle.Dir(t, entry.Model), LoadOptions{})
			a := loadAdapter(t, "lora", name)
			g := openGolden(t, "lora", name, "expect.safetensors")
			bt := goldenBatch(g)
			policies := []string{MemorySave}
			if a.Config.UseDoRA || len(a.Config.TargetModules) == len(model.Projections) {
				policies = append(policies, MemoryRecompute)
			}
			for i, memory := range policies {
				if i == 1 {
					b.headBytes = 8 * 16 * b.Config().VocabSize // the loss in chunks of at most 16 rows
				}
				tr := newTrainer(t, b, a, TrainOptions{Memory: memory})
				compareLogits(t, b, tr.Device(), g, bt, "logits")
				compareLogits(t, b, nil, g, bt, "logits_base")
				loss, _ := g.float32s("loss")
				sum, n, err := tr.Evaluate(bt)
				if err != nil {
					t.Fatal(err)
				}
				if got := sum / float64(n); !(math.Abs(got-float64(loss[0])) <= lossTolerance) {
					t.Errorf("loss %v, want %v within %g", got, loss[0], lossTolerance)
				}
				for n, got := range gradientOf(t, tr, bt) {
					if strings.HasSuffix(n, ".lora_magnitude_vector") {
						n += ".weight" // PEFT's parameter has the suffix, its file does not
					}
					want, _ := g.float32s("grad." + n)
					near(t, memory+" grad."+n, got, want, gradAbsTolerance, gradRelTolerance)
				}
			}
		})
	}
}

func compareLogits(t *testing.T, b *Base, ad *DeviceAdapter, g golden, bt *batch.Batch, name string) {
	t.Helper()
	got, err := b.Logits(ad, bt)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := g.float32s(name)
	compareReal(t, name, got, want, bt.Segments, logitTolerance)
}

// trajectory is a golden training run (oracle/lora/t*/trajectory.json).
type trajectory struct {
	Model string
	Hyper struct {
		WD    float64
		Betas [2]float64
		Eps   float64
		Clip  float64
	}
	BaseQuant goldenQuant `json:"base_quant"`
	Steps     int
	Plain     struct {
		Loss     []float64
		GradNorm []float64 `json:"grad_norm"`
		Rate     []float64 `json:"learning_rate"`
	} `json:"plain_f32"`
}

// Every trajectory of oracle/lora: loss and gradient norm of each step and the
// final adapter as torch computes them, on float32 and on 4-bit bases.
func TestTrajectories(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(oracle.Dir(t, "lora"), "*", "trajectory.json"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no trajectories below %s (%v)", oracle.Dir(t, "lora"), err)
	}
	for _, d := range dirs {
		name := filepath.Base(filepath.Dir(d))
		t.Run(name, func(t *testing.T) {
			var want trajectory
			oracle.JSON(t, &want, "lora", name, "trajectory.json")
			// Recomputing gives the same gradients (TestTrainerEqualsPEFT); once is
			// enough for a whole run, on packed layers.
			policies := []string{MemorySave}
			if want.BaseQuant.Double {
				policies = append(policies, MemoryRecompute)
			}
			for _, memory := range policies {
				runTrajectory(t, name, want, memory)
			}
		})
	}
}

func runTrajectory(t *testing.T, name string, want trajectory, memory string) {
	t.Helper()
	q := want.BaseQuant
	load := LoadOptions{Quant: q.Type, BlockSize: q.Block, DoubleQuant: q.Double}
	if memory == MemoryRecompute {
		load.ResidentBytes = -1 // unpack inside the programs
	}
	b := loadDir(t, oracle.Dir(t, want.Model), load)
	tr := newTrainer(t, b, loadAdapter(t, "lora", name, "init"), TrainOptions{MaxGradNorm: want.Hyper.Clip, WeightDecay: want.Hyper.WD,
		Beta1: want.Hyper.Betas[0], Beta2: want.Hyper.Betas[1], Eps: want.Hyper.Eps, Memory: memory})
	steps := goldenSteps(t, "lora", name, "batches.safetensors")
	if len(steps) != want.Steps {
		t.Fatalf("%d steps of batches, want %d", len(steps), want.Steps)
	}
	for i, micro := range steps {
		r, err := tr.Step(micro, want.Plain.Rate[i])
		if err != nil {
			t.Fatal(err)
		}
		if w := want.Plain.Loss[i]; !(math.Abs(r.Loss-w) <= 1e-4) {
			t.Errorf("%s step %d: loss %g, want %g", memory, i, r.Loss, w)
		}
		if w := want.Plain.GradNorm[i]; !(math.Abs(r.GradNorm-w) <= 1e-4*w) {
			t.Errorf("%s step %d: gradient norm %g, want %g", memory, i, r.GradNorm, w)
		}
	}
	// The README's tolerance for the one run with a big rate is wider.
	tol := 2e-6
	if slices.Max(want.Plain.Rate) > 1e-3 {
		tol = 2e-5
	}
	got, err := tr.Adapter()
	if err != nil {
		t.Fatal(err)
	}
	final := loadAdapter(t, "lora", name, "final")
	for module, w := range final.Modules {
		near(t, memory+" A of "+module, got.Modules[module].A, w.A, tol, 0)
		near(t, memory+" B of "+module, got.Modules[module].B, w.B, tol, 0)
	}
}

// goldenQuant is a trajectory's base_quant; null means none.
type goldenQuant struct {
	Type   string `json:"quant_type"`
	Block  int    `json:"blocksize"`
	Double bool   `json:"double_quant"`
}

// goldenSteps reads [steps, accum, batch, T] batches.
func goldenSteps(t *testing.T, elem ...string) (steps [][]*batch.Batch) {
	t.Helper()
	g := openGolden(t, elem...)
	ids, shape := g.int32s("input_ids")
	mask, _ := g.int32s("attention_mask")
	labels, _ := g.int32s("labels")
	rows, length := shape[2], shape[3]
	n := rows * length
	for s := range shape[0] {
		var micro []*batch.Batch
		for m := range shape[1] {
			at := (s*shape[1] + m) * n
			micro = append(micro, batchOf(ids[at:at+n], mask[at:at+n], labels[at:at+n], rows, length))
		}
		steps = append(steps, micro)
	}
	return steps
}

// The models that bitsandbytes packed: logits of the dequantized weights, with
// layers unpacked once and unpacked in every call.
func TestPackedModelsEqualBitsandbytes(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(oracle.Dir(t, "nf4"), "model_*.expect.safetensors"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no packed models below %s (%v)", oracle.Dir(t, "nf4"), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".expect.safetensors")
		t.Run(name, func(t *testing.T) {
			g := openGolden(t, "nf4", filepath.Base(f))
			bt := goldenBatch(g)
			want, _ := g.float32s("logits_f32_of_dequantised_model")
			loss, _ := g.float32s("loss")
			for _, resident := range []int64{0, -1} {
				b := loadDir(t, oracle.Dir(t, "nf4", name), LoadOptions{ResidentBytes: resident})
				if (b.Resident() > 0) != (resident == 0) {
					t.Errorf("%d resident bytes with option %d", b.Resident(), resident)
				}
				got, err := b.Logits(nil, bt)
				if err != nil {
					t.Fatal(err)
				}
				compareReal(t, "logits", got, want, bt.Segments, 2e-4)
				sum, err := b.lossOf(nil, bt)
				if err != nil {
					t.Fatal(err)
				}
				if d := sum/float64(bt.Supervised()) - float64(loss[0]); !(math.Abs(d) <= 1e-4) {
					t.Errorf("loss differs by %g", d)
				}
			}
		})
	}
}
