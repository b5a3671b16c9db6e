package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/gotunetest"
	"github.com/gotune/gotune/gotune/internal/wire"
)

const walkthrough = `
name: llama-2-7b-miniguanaco
model:
  source: NousResearch/Llama-2-7b-chat-hf
  quantization: {bnb_4bit_quant_type: nf4, bnb_4bit_compute_dtype: float16, bnb_4bit_use_double_quant: false}
dataset: mlabonne/guanaco-llama2-1k
lora: {r: 64, lora_alpha: 16, lora_dropout: 0.1, target_modules: [q_proj, v_proj]}
output_dir: ./results
num_train_epochs: 1
per_device_train_batch_size: 4
gradient_accumulation_steps: 1
gradient_checkpointing: true
max_grad_norm: 0.3
learning_rate: 2e-4
weight_decay: 0.001
optim: paged_adamw_32bit
lr_scheduler_type: constant
max_steps: -1
warmup_ratio: 0.03
group_by_length: true
save_steps: 25
logging_steps: 25
max_seq_length:
`

func TestConfig(t *testing.T) {
	got, err := parseConfig([]byte(walkthrough), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := gotune.Trainer{
		Name:    "llama-2-7b-miniguanaco",
		Model:   gotune.Model{Source: "NousResearch/Llama-2-7b-chat-hf", Quant: gotune.Quantization{Type: "nf4", ComputeDType: "float16"}},
		Dataset: gotune.Dataset{Source: "mlabonne/guanaco-llama2-1k"},
		LoRA:    gotune.LoRA{Rank: 64, Alpha: 16, Dropout: 0.1, Targets: []string{"q_proj", "v_proj"}},
		Epochs:  1, BatchSize: 4, GradAccum: 1, GradientCheckpointing: "on", MaxGradNorm: 0.3, LearningRate: 2e-4, WeightDecay: 0.001,
		Optim: "paged_adamw_32bit", LRScheduler: "constant", MaxSteps: -1, WarmupRatio: 0.03, GroupByLength: true, SaveSteps: 25, LogSteps: 25,
		OutputDir: "./results",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if _, err := got.Resolved(); err != nil {
		t.Error(err)
	}
	got, err = parseConfig([]byte(walkthrough), []string{"learning_rate=1e-3", "lora.rank=8", "dataset.split=train[:10]", "batch_size=2", "eval=rows.jsonl"})
	if err != nil {
		t.Fatal(err)
	}
	if got.LearningRate != 1e-3 || got.LoRA.Rank != 8 || got.Dataset.Split != "train[:10]" || got.Dataset.Source == "" || got.BatchSize != 2 || got.Eval.Source != "rows.jsonl" {
		t.Errorf("with settings: %+v", got)
	}
}

func TestConfigErrors(t *testing.T) {
	for _, tt := range []struct{ yaml, set, want string }{
		{"learning_rat: 1", "", `learning_rat: no such key; did you mean "learning_rate"?`},
		{"lora: {lora_alfa: 1}", "", `lora.lora_alfa: no such key; did you mean "lora_alpha"?`},
		{"LearningRate: 1", "", `did you mean "learning_rate"?`},
		{"lora: {q: 1}", "", "lora.q: no such key; there are alpha, dora, dropout, rank, rslora, targets"},
		{"lora: 5", "", "lora: have 5, want keys and values"},
		{"batch_size: 4.5", "", "batch_size: have 4.5, want a whole number"},
		{"batch_size: four", "", "batch_size: have four, want a whole number"},
		{"packing: 1", "", "packing: have 1, want true or false"},
		{"name: 7", "", "name: have 7, want a text"},
		{"learning_rate: fast", "", "learning_rate: have fast, want a number"},
		{"lora: {targets: [1]}", "", "lora.targets: have [1], want a list of texts"},
		{"epochs: 1\nnum_train_epochs: 2", "", "mean the same"},
		{"epochs: 1\nepochs: 2", "", "not YAML"},
		{"a: [", "", "not YAML"},
		{"- a", "", "not YAML"},
		{"", "x", "want key=value"},
		{"", "optim.x=1", "optim: have map[x:1], want a text"},
		{"optim: sgd", "optim.x=1", "--set optim.x=1: optim"},
	} {
		var set []string
		if tt.set != "" {
			set = []string{tt.set}
		}
		if _, err := parseConfig([]byte(tt.yaml), set); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q %q: %v, want %q", tt.yaml, tt.set, err, tt.want)
		}
	}
}

// Every field has a key, and every other name leads to one.
func TestKeys(t *testing.T) {
	text := keys(reflect.TypeFor[gotune.Trainer](), "")
	for other := range otherNames {
		if !strings.Contains(text, other) {
			t.Errorf("the help does not have %s", other)
		}
	}
	for _, key := range []string{"lr_scheduler:", "max_grad_norm:", "group_by_length:", "lora:", "rslora:", "compute_dtype:", "no_tensorboard:"} {
		if !strings.Contains(text, key) {
			t.Errorf("no key %s in\n%s", key, text)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(walkthrough), "lora.rank=8")
	f.Add([]byte("a: &a [*a]"), "x=1")
	f.Add([]byte("? {a: 1}\n: 2"), "a.b.c={}")
	f.Fuzz(func(t *testing.T, b []byte, set string) {
		c, err := parseConfig(b, []string{set})
		if err == nil {
			_, _ = c.Resolved()
		}
	})
}

// gotuneCmd runs a command line and returns its exit code and what it wrote.
func gotuneCmd(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	var b bytes.Buffer
	gotune.SetOutput(&b)
	defer gotune.SetOutput(os.Stdout)
	root := newRoot()
	root.SetOut(&b)
	root.SetErr(&b)
	code = runRoot(root, args)
	return code, b.String()
}

func TestCommands(t *testing.T) {
	e := gotunetest.Start(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "run.yaml")
	if err := os.WriteFile(config, []byte(walkthrough), 0o600); err != nil {
		t.Fatal(err)
	}
	e.Handle(wire.VerbRunTrain, gotunetest.Run(2, 1.5, 1))
	e.Handle(wire.VerbRunRecord, gotunetest.Run(2, 1.5, 1))
	e.Handle(wire.VerbRunGenerate, gotunetest.Text("A view ", "of an array."))
	e.Reply(wire.VerbRunGenerateAll, []gotune.Generation{{Prompt: "one", Text: "A view.", Tokens: 3, Seconds: 1}, {Prompt: "two", Text: "A map.", Tokens: 4, Seconds: 1, Stop: "length"}})
	e.Reply(wire.VerbRunMerge, gotune.MergeInfo{Dir: "/m", Tensors: 3})
	e.Reply(wire.VerbPush, gotune.PushInfo{URL: "http://hub/me/x", DryRun: true})
	e.Reply(wire.VerbRunStop, gotune.RunInfo{Name: "r", State: gotune.RunStopped, Step: 3, TotalSteps: 9})
	e.Reply(wire.VerbRunPause, gotune.RunInfo{Name: "r", State: gotune.RunPaused, Step: 3, TotalSteps: 9, Controls: []gotune.Control{{Step: 3, What: gotune.ControlPause}}})
	e.Reply(wire.VerbRunSetLR, gotune.RunInfo{Name: "r", State: gotune.RunRunning, Step: 3, TotalSteps: 9,
		Controls: []gotune.Control{{Step: 3, What: gotune.ControlRate, Old: 2e-4, New: 1e-4}}})
	e.Fail(wire.VerbRunResume, &gotune.Error{Kind: gotune.KindInvalid, Op: "resume", Object: `run "r"`, Found: "it is not paused", Wanted: "a paused run"})
	e.Handle(wire.VerbRunSample, gotunetest.Text("A view ", "so far."))
	e.Fail(wire.VerbDoctor, &gotune.Error{Kind: gotune.KindMemory, Op: "look", Found: "little", Next: "buy more"})
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"train " + config, 0, "2.0000 → 1.0000"},
		{"train " + config + " --set lora.rank=-1", 1, "check the config: lora.rank: not valid\n\thave -1"},
		{"train " + config + " --set model.quant.type=int4", 1, "check the config: model.quant.type: not valid\n\thave \"int4\""},
		{"train " + config + " --set model.device=gpu", 1, "check the config: model.device: not valid"},
		{"train " + dir + "/none.yaml", 1, "read the config: open " + dir + "/none.yaml: no such file"},
		{"train", 2, "Run 'gotune train --help'"},
		{"trian", 2, `unknown command "trian"`},
		{"generate --run r hello", 0, "A view of an array."},
		{"generate --run r one two", 0, "prompt:\n    two\nanswer:\n    A map. …[cut at the length limit]"},
		{"engine stop", 2, ""}, // it says why on the process's own stderr
		{"generate hello", 2, "give one of --model and --run"},
		{"generate --run r --top-p x hello", 2, "invalid argument"},
		{"generate --run r --top-k 5 hello", 1, "Sampling.Temperature: not valid"},
		{"merge r --dtype bfloat16", 0, "Merged model of r"},
		{"push out me/x --dry-run", 0, "nothing was sent"},
		{"push out nowhere", 1, `a repository "owner/name"`},
		{"stop r", 0, "r: stopped at step 3 of 9"},
		{"pause r", 0, "r, after step 3: paused until Resume()"},
		{"pause", 2, "Run 'gotune pause --help'"},
		{"resume r", 1, "resume run \"r\": not valid\n\thave it is not paused"},
		{"lr r 1e-4", 0, "r, after step 3: learning rate 2.00e-04 → 1.00e-04"},
		{"lr r fast", 2, `VALUE is "fast"`},
		{"lr r 3", 1, "a number above 0 and below 1"},
		{"sample r hello --max-new-tokens 9", 0, "A view so far."},
		{"sample r", 2, "Run 'gotune sample --help'"},
		{"doctor", 1, "hint: buy more"},
		{"version", 0, "gotune "},
		{"help train", 0, "also per_device_train_batch_size"},
	} {
		if code, out := gotuneCmd(t, strings.Fields(tt.args)...); code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("gotune %s: code %d, want %d and %q in\n%s", tt.args, code, tt.code, tt.want, out)
		}
	}
	var merge struct {
		Name, Dir string
		Options   gotune.MergeOptions
	}
	for _, r := range e.Requests() {
		if r.Verb == wire.VerbRunMerge {
			if err := r.Decode(&merge); err != nil {
				t.Fatal(err)
			}
		}
	}
	if merge.Options.DType != "bfloat16" || filepath.Base(merge.Dir) != "merged" {
		t.Errorf("merge was asked for %+v", merge)
	}
}

func TestStopWithoutEngine(t *testing.T) {
	t.Setenv("GOTUNE_SOCKET", filepath.Join(t.TempDir(), "s"))
	for _, args := range []string{"stop", "status"} {
		if code, out := gotuneCmd(t, args); code != 0 || !strings.Contains(out, "No engine is running") {
			t.Errorf("gotune %s: code %d, %s", args, code, out)
		}
	}
}

// A talk is one text in the Llama-2 form, and the model sees all of it.
func TestChat(t *testing.T) {
	e := gotunetest.Start(t)
	e.Handle(wire.VerbRunGenerate, gotunetest.Text("Hi", " there "))
	var b bytes.Buffer
	gotune.SetOutput(&b)
	defer gotune.SetOutput(os.Stdout)
	root := newRoot()
	root.SetOut(&b)
	root.SetIn(strings.NewReader("hello\nagain\n/new\n\nfresh"))
	if code := runRoot(root, []string{"chat", "--run", "r", "--system", "Be kind."}); code != 0 {
		t.Fatalf("code %d: %s", code, b.String())
	}
	var prompts []string
	for _, r := range e.Requests() {
		var args struct {
			Name, Prompt string
			Sampling     gotune.Sampling
		}
		if err := r.Decode(&args); err != nil || !args.Sampling.Raw || args.Sampling.MaxNewTokens != 256 {
			t.Errorf("%+v, %v", args, err)
		}
		prompts = append(prompts, args.Prompt)
	}
	sys := "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n"
	want := []string{sys + "hello [/INST]", sys + "hello [/INST] Hi there </s><s>[INST] again [/INST]", sys + "fresh [/INST]"}
	if !reflect.DeepEqual(prompts, want) {
		t.Errorf("prompts are %q\nwant %q", prompts, want)
	}
}
