package gotune_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/gotune/gotune/gotune"
)

func ExampleTrainer_Resolved() {
	run := gotune.Trainer{
		Name:    "run1",
		Model:   gotune.Model{Source: "NousResearch/Llama-2-7b-chat-hf"},
		Dataset: gotune.Dataset{Source: "mlabonne/guanaco-llama2-1k"},
		LoRA:    gotune.LoRA{Rank: 64, Alpha: 16, Targets: []string{"v_proj", "q_proj"}},
	}
	run, err := run.Resolved()
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(run.Model.Name, run.Model.Quant.Type, run.Model.Quant.BlockSize)
	fmt.Println(run.LearningRate, run.BatchSize, run.Optim, run.LRScheduler, run.OutputDir)
	fmt.Println(run.LoRA.Targets, run.LoRA.Scale())

	_, err = gotune.Trainer{Name: "run1", Dataset: run.Dataset, Model: run.Model, LRScheduler: "cosin"}.Resolved()
	fmt.Println(err)
	// Output:
	// Llama-2-7b-chat-hf nf4 64
	// 0.0002 4 paged_adamw_32bit constant results/run1
	// [q_proj v_proj] 0.25
	// check Trainer.LRScheduler: not valid
	// 	have "cosin"
	// 	want one of constant, constant_with_warmup, linear, cosine, cosine_with_restarts, cosine_with_min_lr, polynomial, inverse_sqrt, warmup_stable_decay
	// 	hint: did you mean "cosine"?
}

// trainer is a valid config to spoil.
func trainer(change func(*gotune.Trainer)) gotune.Trainer {
	t := gotune.Trainer{Name: "run1", Model: base, Dataset: data}
	change(&t)
	return t
}

func TestTrainerChecks(t *testing.T) {
	for field, tt := range map[string]gotune.Trainer{
		"Trainer.Name":                     {Model: base, Dataset: data},
		"Trainer.Epochs":                   trainer(func(t *gotune.Trainer) { t.Epochs = -1 }),
		"Trainer.LearningRate":             trainer(func(t *gotune.Trainer) { t.LearningRate = math.NaN() }),
		"Trainer.MaxGradNorm":              trainer(func(t *gotune.Trainer) { t.MaxGradNorm = -2 }),
		"Trainer.MaxSteps":                 trainer(func(t *gotune.Trainer) { t.MaxSteps = -2 }),
		"Trainer.BatchSize":                trainer(func(t *gotune.Trainer) { t.BatchSize = -4 }),
		"Trainer.MaxSeqLength":             trainer(func(t *gotune.Trainer) { t.MaxSeqLength = 3 }),
		"Trainer.WarmupRatio":              trainer(func(t *gotune.Trainer) { t.WarmupRatio = 3 }),
		"Trainer.SaveSteps":                trainer(func(t *gotune.Trainer) { t.SaveSteps = -2 }),
		"Trainer.GradientCheckpointing":    trainer(func(t *gotune.Trainer) { t.GradientCheckpointing = "yes" }),
		"Trainer.FP8":                      trainer(func(t *gotune.Trainer) { t.FP8 = "yes" }),
		"Trainer.Optim":                    trainer(func(t *gotune.Trainer) { t.Optim = "adam" }),
		"Trainer.EvalSteps":                trainer(func(t *gotune.Trainer) { t.EvalSteps = 5 }),
		"Trainer.GroupByLength":            trainer(func(t *gotune.Trainer) { t.Packing, t.GroupByLength = true, true }),
		"Trainer.Packing":                  trainer(func(t *gotune.Trainer) { t.Packing, t.Parity = true, true }),
		"Trainer.Model.Source":             trainer(func(t *gotune.Trainer) { t.Model = gotune.Model{Name: "x", Device: "go"} }),
		"Trainer.Model.Device":             trainer(func(t *gotune.Trainer) { t.Model.Device = "cuda" }),
		"Trainer.Model.Quant.Type":         trainer(func(t *gotune.Trainer) { t.Model.Quant.Type = "int4" }),
		"Trainer.Model.Quant.BlockSize":    trainer(func(t *gotune.Trainer) { t.Model.Quant.BlockSize = 100 }),
		"Trainer.Model.Quant.DoubleQuant":  trainer(func(t *gotune.Trainer) { t.Model.Quant.Type, t.Model.Quant.DoubleQuant = "none", true }),
		"Trainer.Model.Quant.ComputeDType": trainer(func(t *gotune.Trainer) { t.Model.Quant.ComputeDType = "fp16" }),
		"Trainer.Dataset.Name":             trainer(func(t *gotune.Trainer) { t.Dataset = gotune.Dataset{} }),
		"Trainer.Dataset.Split":            trainer(func(t *gotune.Trainer) { t.Dataset.Split = "train[5" }),
		"Trainer.Dataset.Revision":         trainer(func(t *gotune.Trainer) { t.Dataset.Source, t.Dataset.Revision = "./rows.jsonl", "main" }),
		"Trainer.Dataset.Source":           trainer(func(t *gotune.Trainer) { t.Dataset.Source = "embedded:rest" }),
		"Trainer.Eval as Dataset.Source":   trainer(func(t *gotune.Trainer) { t.Eval = gotune.Dataset{Source: "embedded:held"} }),
		"Trainer.LoRA.Rank":                trainer(func(t *gotune.Trainer) { t.LoRA.Rank = -1 }),
		"Trainer.LoRA.Alpha":               trainer(func(t *gotune.Trainer) { t.LoRA.Alpha = math.Inf(1) }),
		"Trainer.LoRA.Dropout":             trainer(func(t *gotune.Trainer) { t.LoRA.Dropout = 1 }),
		"Trainer.LoRA.Targets":             trainer(func(t *gotune.Trainer) { t.LoRA.Targets = []string{"q"} }),
	} {
		_, err := tt.Resolved()
		var e *gotune.Error
		if !errors.As(err, &e) || e.Kind != gotune.KindInvalid || e.Object != field || e.Found == "" || e.Wanted == "" {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestOtherChecks(t *testing.T) {
	for field, err := range map[string]error{
		"Sampling.Temperature":       second(gotune.Sampling{TopK: 5}.Resolved()),
		"Sampling.TopP":              second(gotune.Sampling{Temperature: 1, TopP: 1.5}.Resolved()),
		"Sampling.RepetitionPenalty": second(gotune.Sampling{RepetitionPenalty: -1}.Resolved()),
		"Sampling.MaxLength":         second(gotune.Sampling{MaxLength: 5, MaxNewTokens: 5}.Resolved()),
		"Sampling.MaxNewTokens":      second(gotune.Sampling{MaxNewTokens: -5}.Resolved()),
		"MergeOptions.DType":         second(gotune.MergeOptions{DType: "fp16"}.Resolved()),
		"MergeOptions.MaxShardBytes": second(gotune.MergeOptions{MaxShardBytes: 5}.Resolved()),
		"PushOptions.Endpoint":       second(gotune.PushOptions{Endpoint: "hub"}.Resolved()),
		"PlotOptions.Smooth":         gotune.Plot(gotune.PlotOptions{Smooth: -1}, run),
	} {
		var e *gotune.Error
		if !errors.As(err, &e) || e.Kind != gotune.KindInvalid || e.Object != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Resolving what is resolved changes nothing, and JSON brings everything back.
func TestResolvedIsStable(t *testing.T) {
	once, err := run.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(once)
	if err != nil {
		t.Fatal(err)
	}
	var back gotune.Trainer
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	twice, err := back.Resolved()
	if err != nil || !reflect.DeepEqual(once, twice) {
		t.Errorf("resolved again:\n%+v\n%+v\n%v", once, twice, err)
	}
	bare := gotune.Trainer{Name: "run1"}
	if got, err := bare.Resolved(); err != nil || !reflect.DeepEqual(got, bare) || !got.Bare() || once.Bare() {
		t.Errorf("a bare literal became %+v, %v", got, err)
	}
	if got, want := gotune.Changes(once), "LoRA.Rank 64, LoRA.Alpha 16, LoRA.Dropout 0.1, LoRA.Targets q_proj v_proj, WeightDecay 0.001, GroupByLength"; !strings.Contains(got, "LoRA.Rank 64") || got != want {
		t.Errorf("Changes = %s", got)
	}
}

func TestParseSplit(t *testing.T) {
	for _, tt := range []struct {
		in       string
		name     string
		from, to int
		ok       bool
	}{
		{"train", "train", 0, -1, true}, {"train[:100]", "train", 0, 100, true}, {"test[5:]", "test", 5, -1, true}, {"a[2:7]", "a", 2, 7, true},
		{"", "", 0, 0, false}, {"train[7:2]", "train", 7, 2, false}, {"train[-5:]", "", 0, 0, false}, {"train[10%:]", "", 0, 0, false}, {"train[5]", "", 0, 0, false}, {"train]", "", 0, 0, false},
	} {
		name, from, to, ok := gotune.ParseSplit(tt.in)
		if ok != tt.ok || ok && (name != tt.name || from != tt.from || to != tt.to) {
			t.Errorf("ParseSplit(%q) = %q, %d, %d, %v", tt.in, name, from, to, ok)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		kind *gotune.Error
	}{
		{fmt.Errorf("x: %w", fs.ErrNotExist), gotune.ErrNotFound}, {syscall.ENOSPC, gotune.ErrIO}, {&fs.PathError{Err: syscall.EACCES}, gotune.ErrIO},
		{syscall.ENOMEM, gotune.ErrMemory}, {errors.New("x"), gotune.ErrInternal},
		{fmt.Errorf("x: %w", &gotune.Error{Kind: gotune.KindBusy, Op: "train"}), gotune.ErrBusy},
	} {
		if got := gotune.AsError("do", tt.err); !errors.Is(got, tt.kind) || errors.Is(got, gotune.ErrConflict) {
			t.Errorf("AsError(%v) = %v", tt.err, got)
		}
	}
	if gotune.AsError("do", nil) != nil {
		t.Error("AsError(nil) is something")
	}
}

// Losses that are not finite survive JSON.
func TestRecordJSON(t *testing.T) {
	in := gotune.RunInfo{Name: "x", Loss: math.NaN(), MeanLoss: math.Inf(1), EvalLoss: 1.5, Records: []gotune.StepRecord{
		{Step: 3, Loss: math.NaN(), GradNorm: math.Inf(1), MeanLoss: math.Inf(-1), EvalLoss: 0.1, Tokens: 7, Saved: "c"}}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out gotune.RunInfo
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	r := out.Records[0]
	if !math.IsNaN(out.Loss) || !math.IsInf(out.MeanLoss, 1) || out.EvalLoss != 1.5 || out.Name != "x" ||
		!math.IsNaN(r.Loss) || !math.IsInf(r.GradNorm, 1) || !math.IsInf(r.MeanLoss, -1) || r.EvalLoss != 0.1 || r.Tokens != 7 || r.Saved != "c" || r.Step != 3 {
		t.Errorf("%s came back as %+v", b, out)
	}
}

// TestNoEngine: without a binary the error says where it was looked for.
func TestNoEngine(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GOTUNE_SOCKET", dir+"/s")
	t.Setenv("GOTUNE_BIN", "")
	t.Setenv("PATH", dir)
	t.Setenv("XDG_CACHE_HOME", dir)
	var out strings.Builder
	gotune.UseText(t, &out)
	_, err := base.Load()
	if !errors.Is(err, gotune.ErrNotFound) || !strings.Contains(err.Error(), dir+"/gotune/bin/gotune") || !strings.Contains(err.Error(), "GOTUNE_BIN") {
		t.Errorf("Load() = %v", err)
	}
	if info, err := gotune.Status(); err != nil || info.PID != 0 || !strings.Contains(out.String(), "No engine is running") {
		t.Errorf("Status() = %+v, %v", info, err)
	}
	// One that ends at once: its last words are in the error.
	bin := dir + "/gotune"
	if err := os.WriteFile(bin, []byte("#!/bin/sh\necho last words: $1 $GONB_PIPE\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GONB_PIPE_BACK", "/none")
	_, err = base.Load()
	if !errors.Is(err, gotune.ErrIO) || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "last words: engine") {
		t.Errorf("Load() = %v", err)
	}
}
