package gotune_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/gotunetest"
)

var update = flag.Bool("update", false, "write the golden files in testdata anew")

// golden compares with testdata/name, with times made equal.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = regexp.MustCompile(`in \d\.\d s`).ReplaceAllString(got, "in 0.0 s")
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("output differs from %s (go test -update writes it anew):\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}

var (
	data = gotune.Dataset{Name: "guanaco", Source: "mlabonne/guanaco-llama2-1k"}
	base = gotune.Model{Name: "base", Source: "NousResearch/Llama-2-7b-chat-hf"}
	run  = gotune.Trainer{Name: "run1", Model: base, Dataset: data,
		LoRA: gotune.LoRA{Rank: 64, Alpha: 16, Dropout: 0.1, Targets: []string{"q_proj", "v_proj"}}, WeightDecay: 0.001, GroupByLength: true}
)

// script makes the engine answer every verb like the walkthrough's.
func script(t *testing.T) *gotunetest.Engine {
	e := gotunetest.Start(t)
	d, err := data.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	m, err := base.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	r, err := run.Resolved()
	if err != nil {
		t.Fatal(err)
	}
	info := gotune.DatasetInfo{Dataset: d, Path: "/hub/guanaco", Commit: "f1c0", Rows: 1000, Bytes: 966693,
		Columns: []gotune.Column{{Name: "text", Type: "string"}}}
	model := gotune.ModelInfo{Model: m, Path: "/hub/llama", Architecture: "LlamaForCausalLM", Layers: 32, HiddenSize: 4096, IntermediateSize: 11008,
		Heads: 32, KVHeads: 32, HeadDim: 128, VocabSize: 32000, MaxPositions: 4096, Params: 6738415616, DiskBytes: 13476831232, DeviceBytes: 4115000000,
		HostPeakBytes: 700 << 20, Backend: "xla:cuda", ComputeDType: "float16", Seconds: 21.4,
		Tokenizer: gotune.TokenizerInfo{Kind: "sentencepiece BPE", VocabSize: 32000, BOS: "<s>", EOS: "</s>", Pad: "<unk>", PaddingSide: "right"},
		Tensors: []gotune.TensorInfo{
			{Name: "model.embed_tokens.weight", Count: 1, Shape: []int{32000, 4096}, DType: "F16", HeldAs: "float16", Params: 131072000, Bytes: 262144000},
			{Name: "model.layers.*.self_attn.q_proj.weight", Count: 32, Shape: []int{4096, 4096}, DType: "F16", HeldAs: "nf4/64", Params: 536870912, Bytes: 301989888},
		}}
	e.Handle("dataset.load", func(_ context.Context, _ gotunetest.Request, s *gotunetest.Stream) (any, error) {
		return info, errors.Join(s.Progress("download", 400_000, 966_693, "bytes"), s.Progress("download", 966_693, 966_693, "bytes"))
	})
	e.Reply("dataset.rows", gotune.Rows{Dataset: "guanaco", Columns: []string{"text", "score"}, Total: 1000, Values: [][]any{
		{"<s>[INST] What is a slice? [/INST] A view of an array. </s>", 0.5},
		{"<s>[INST] <b>bold</b> & \x1b[31mred [/INST] <script>alert(1)</script> </s>", nil}}})
	var l gotune.Lengths
	l.Dataset, l.Model, l.Min, l.Max, l.Mean, l.Median, l.P90, l.P99 = "guanaco", "base", 20, 820, 264.5, 230, 500, 780
	for i := range 1000 {
		n := 20 + int(800*math.Pow(float64(i)/999, 2))
		l.Counts = append(l.Counts, n)
		l.Tokens += int64(n)
	}
	e.Reply("dataset.lengths", l)
	e.Handle("model.load", func(_ context.Context, _ gotunetest.Request, s *gotunetest.Stream) (any, error) {
		return model, errors.Join(s.Progress("quantize", 224, 224, "tensors"), s.Log("<note> & a log line"))
	})
	status := gotune.StatusInfo{Version: "v0.1.0", PID: 7, Socket: "/run/s", LogFile: "/run/engine.log", Seconds: 754, Backend: "xla:cuda",
		DeviceBytes: 5 << 30, DevicePeak: 9 << 30, HostBytes: 1 << 30, IdleExit: 1800, Models: []gotune.ModelInfo{model}, Datasets: []gotune.DatasetInfo{info},
		Runs: []gotune.RunInfo{{Name: "run1", State: "running", OutputDir: "/nb/results/run1", Step: 10, TotalSteps: 250, Loss: math.NaN()}},
		Jobs: []gotune.JobInfo{{Verb: "run.train", Object: "run1", Task: "train", Done: 10, Total: 250, Seconds: 61}}}
	for _, verb := range []string{"status", "free", "model.unload"} {
		e.Reply(verb, status)
	}
	e.Reply("doctor", gotune.DoctorInfo{Version: "v0.1.0", Go: "go1.26.8", OS: "linux/amd64", Backend: "xla:cuda", Plugin: "jax-cuda12-pjrt 0.11.2", Precision: "float16",
		Advice: "this GPU has no bfloat16", CPUs: 2, HostMemory: 12 << 30, HostFree: 9 << 30, CacheDir: "/c", CacheFree: 80 << 30, HubCache: "/hub",
		Devices: []gotune.Device{{Name: "Tesla T4", Capability: "7.5", Driver: "550.54", Memory: 15 << 30, Free: 14 << 30}},
		Checks:  []gotune.Finding{{What: "CUDA plugin", Found: "none", Next: "gotune doctor --fetch"}, {What: "disk", Found: "80 GiB", OK: true}}})
	losses := make([]float64, 0, 40)
	for i := range 40 {
		losses = append(losses, 1.2+math.Exp(-float64(i)/8)+0.1*math.Sin(float64(i)))
	}
	e.Handle("run.train", func(ctx context.Context, q gotunetest.Request, s *gotunetest.Stream) (any, error) {
		if err := s.Progress("compile", 2, 2, "graphs"); err != nil {
			return nil, err
		}
		i, err := gotunetest.Run(losses...)(ctx, q, s)
		info := i.(gotune.RunInfo)
		info.OutputDir, info.Params, info.TrainableParams, info.PeakBytes, info.Fit = "/nb/results/run1", 6738415616, 33554432, 9<<30, "fits: 9.0 of 14.6 GiB at B=4×S=1024"
		info.EvalLoss, info.TensorBoardDir, info.Notes = math.NaN(), "/nb/results/run1/runs", []string{"first note", "second <note>"}
		return info, err
	})
	record := func(ctx context.Context, q gotunetest.Request, s *gotunetest.Stream) (any, error) {
		info := gotune.RunInfo{Name: "run1", State: gotune.RunDone, Trainer: r, OutputDir: "/nb/results/run1", Step: 40, TotalSteps: 40, Loss: losses[39], MeanLoss: 1.4,
			EvalLoss: 1.31, Seconds: 40, Tokens: 40000, TokensPerSecond: 1000}
		for i, loss := range losses {
			rec := gotune.StepRecord{Step: i + 1, TotalSteps: 40, Loss: loss, LearningRate: 2e-4, GradNorm: 0.3, TokensPerSecond: 1000, ETA: float64(39 - i), Seconds: float64(i + 1)}
			if rec.Step%5 == 0 {
				rec.Logged, rec.MeanLoss = true, loss
			}
			if rec.Step == 20 {
				rec.Evaluated, rec.EvalLoss = true, 1.31
			}
			info.Records = append(info.Records, rec)
		}
		return info, nil
	}
	e.Handle("run.record", record)
	e.Handle("run.attach", record)
	e.Reply("run.stop", gotune.RunInfo{Name: "run1", State: gotune.RunStopped, Step: 12, TotalSteps: 40, Checkpoints: []string{"/nb/results/run1/checkpoint-12"}})
	for _, verb := range []string{"model.generate", "run.generate"} {
		e.Handle(verb, gotunetest.Text("A slice", " is <b>a", " view</b> \x1b[2J", "of an array."))
	}
	files := []gotune.FileInfo{{Name: "adapter_config.json", Bytes: 700}, {Name: "adapter_model.safetensors", Bytes: 134 << 20}}
	e.Reply("run.save", gotune.SaveInfo{Dir: "/nb/out/adapter", Step: 40, Params: 33554432, Files: files, Bytes: 134<<20 + 700})
	e.Reply("run.merge", gotune.MergeInfo{Dir: "/nb/out/merged", DType: "float16", Tensors: 291, Merged: 64, Files: files, Bytes: 13 << 30, HostPeakBytes: 900 << 20, FreedBytes: 4 << 30, Seconds: 93})
	pushed := append([]gotune.FileInfo(nil), files...)
	pushed[0].How, pushed[1].How = "regular", "lfs"
	e.Reply("push", gotune.PushInfo{Repo: "me/x", URL: "http://hub/me/x", Commit: "abc", Files: pushed, Bytes: 134 << 20, Seconds: 3})
	return e
}

// everyVerb calls every verb that shows something.
func everyVerb() error {
	var errs []error
	add := func(_ any, err error) { errs = append(errs, err) }
	add(gotune.Doctor())
	add(data.Load())
	add(data.Show(2))
	add(data.ShowTemplate(0))
	add(data.ShowLengths(base))
	add(base.Load())
	add(run.Train())
	add(run.Attach())
	add(run.Show())
	add(run.Stop())
	add(nil, gotune.Plot(gotune.PlotOptions{}, run, gotune.Trainer{Name: "run2"}))
	add(run.Save("out/adapter"))
	add(base.Generate("What is a slice?", gotune.Sampling{}))
	add(run.Generate("What is a slice?", gotune.Sampling{Temperature: 0.7, TopK: 50, TopP: 0.9, RepetitionPenalty: 1.1}))
	add(run.Compare("What is a slice?", "And a map?"))
	add(run.Merge("out/merged", gotune.MergeOptions{}))
	add(run.Push("me/x", gotune.PushOptions{DryRun: true}))
	add(base.Unload())
	add(gotune.Free())
	add(gotune.Status())
	return errors.Join(errs...)
}

func TestTextOutput(t *testing.T) {
	script(t)
	var out bytes.Buffer
	gotune.UseText(t, &out)
	if err := everyVerb(); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsRune(out.String(), 0x1b) || strings.ContainsRune(out.String(), '\r') {
		t.Error("the text has an escape or a carriage return")
	}
	golden(t, "walkthrough.txt", out.String())
}

// What a notebook is sent: no tag or control character from the data, every
// picture well-formed with its alternative text, ids that are used once.
func TestNotebookOutput(t *testing.T) {
	script(t)
	g := gotune.NewFakeGoNB(t)
	gotune.UseNotebook(t, g)
	if err := everyVerb(); err != nil {
		t.Fatal(err)
	}
	shown := g.Displays()
	if len(shown) < 20 {
		t.Fatalf("%d displays", len(shown))
	}
	var page strings.Builder
	pictures := 0
	for _, d := range shown {
		html, _ := d.Data["text/html"].(string)
		plain, _ := d.Data["text/plain"].(string)
		if html == "" || plain == "" {
			t.Errorf("a display without html or text: %+v", d)
		}
		for _, bad := range []string{"<script", "<b>bold", "<b>a", "<note>", "\x1b", " id=", "onload"} {
			if strings.Contains(html, bad) {
				t.Errorf("the HTML has %q: %.300s", bad, html)
			}
		}
		for _, m := range regexp.MustCompile(`<img alt="([^"]+)"[^>]* src="data:image/svg\+xml;base64,([^"]+)">`).FindAllStringSubmatch(html, -1) {
			svg, err := base64.StdEncoding.DecodeString(m[2])
			if err != nil {
				t.Fatal(err)
			}
			pictures++
			checkSVG(t, string(svg), true)
		}
		for _, m := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(html, -1) {
			checkSVG(t, m, false)
		}
		checkBalanced(t, html)
	}
	for _, d := range g.Final() {
		fmt.Fprintf(&page, "%s\n", d.Data["text/html"])
	}
	if pictures < 4 {
		t.Errorf("%d pictures, want the lengths, the run, its attachment, its record and the plot", pictures)
	}
	lookAt(t, "page.html", page.String())
}

// lookAt writes HTML into the folder $GOTUNE_PAGE, if that is set, for people to
// look at.
func lookAt(t *testing.T, name, html string) {
	if dir := os.Getenv("GOTUNE_PAGE"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(html), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// checkSVG wants well-formed XML, a label, no ids or references, and colours
// that fit where it stands.
func checkSVG(t *testing.T, svg string, card bool) {
	t.Helper()
	dec := xml.NewDecoder(strings.NewReader(svg))
	for {
		tok, err := dec.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%.500s", err, svg)
		}
		if el, ok := tok.(xml.StartElement); ok {
			for _, a := range el.Attr {
				if a.Name.Local == "id" || strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					t.Errorf("<%s %s=%q>", el.Name.Local, a.Name.Local, a.Value)
				}
			}
		}
	}
	if !strings.Contains(svg, `role="img" aria-label="`) {
		t.Error("no label")
	}
	if card == strings.Contains(svg, "currentColor") || card != strings.Contains(svg, "prefers-color-scheme") {
		t.Errorf("wrong colours for card=%v", card)
	}
}

// checkBalanced wants every tag closed.
func checkBalanced(t *testing.T, html string) {
	t.Helper()
	var open []string
	for _, m := range regexp.MustCompile(`<(/?)([a-z0-9]+)[^>]*?(/?)>`).FindAllStringSubmatch(html, -1) {
		switch {
		case m[3] == "/" || m[2] == "img":
		case m[1] == "":
			open = append(open, m[2])
		case len(open) == 0 || open[len(open)-1] != m[2]:
			t.Errorf("</%s> closes %v in %.300s", m[2], open, html)
			return
		default:
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Errorf("%v stay open in %.300s", open, html)
	}
}

// slowRun sends a step every 20 ms until it is told to stop.
func slowRun(ctx context.Context, _ gotunetest.Request, s *gotunetest.Stream) (any, error) {
	for i := 1; ; i++ {
		if err := s.Step(gotune.StepRecord{Step: i, TotalSteps: 10000, Loss: 2 / float64(i), LearningRate: 2e-4, GradNorm: math.Inf(1), Skipped: i == 3, Logged: i%5 == 0, MeanLoss: 1, ETA: 5}); err != nil {
			return nil, err
		}
		select {
		case <-s.Cancelled():
			return gotune.RunInfo{Name: "run1", State: gotune.RunStopped, Step: i, TotalSteps: 10000, Checkpoints: []string{"/c/checkpoint-9"}}, nil
		case <-s.Gone():
			return nil, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// interruptAfter sends this process SIGINT, as GoNB does to a cell.
func interruptAfter(t *testing.T, times ...time.Duration) {
	for _, d := range times {
		time.AfterFunc(d, func() {
			if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestInterruptTraining(t *testing.T) {
	e := gotunetest.Start(t)
	e.Handle("run.train", slowRun)
	var errs bytes.Buffer
	codes := gotune.CatchExit(t, &errs)
	g := gotune.NewFakeGoNB(t)
	gotune.UseNotebook(t, g)
	interruptAfter(t, 900*time.Millisecond)
	info, err := run.Train()
	if info.State != gotune.RunStopped || !errors.Is(err, gotune.ErrInterrupted) {
		t.Errorf("Train() = %+v, %v", info, err)
	}
	if len(*codes) != 1 || (*codes)[0] != 0 || errs.Len() > 0 {
		t.Errorf("exit codes %v, standard error %q", *codes, errs.String())
	}
	final := g.Final()
	last := final[len(final)-1].Data["text/plain"].(string)
	if !strings.Contains(last, "checkpoint /c/checkpoint-9; run the cell again to go on from there") {
		t.Errorf("the last output is %q", last)
	}
	live := 0
	for _, d := range g.Displays() {
		if d.DisplayID != "" {
			live++
			html := d.Data["text/html"].(string)
			for _, m := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(html, -1) {
				checkSVG(t, m, false)
				lookAt(t, "live.html", html)
			}
			checkBalanced(t, html)
		}
	}
	// 0.9 s: at most one at the start, four a second, one for stopping, one headline.
	if live < 3 || live > 7 {
		t.Errorf("%d live updates in 0.9 s", live)
	}
}

func TestInterruptOthers(t *testing.T) {
	e := gotunetest.Start(t)
	e.Handle("model.load", func(ctx context.Context, _ gotunetest.Request, s *gotunetest.Stream) (any, error) {
		<-s.Cancelled()
		return nil, &gotune.Error{Kind: gotune.KindInterrupted, Op: "model.load", Found: "3 of 35 tensors were loaded"}
	})
	var errs, out bytes.Buffer
	codes := gotune.CatchExit(t, &errs)
	gotune.UseText(t, &out)
	interruptAfter(t, 50*time.Millisecond)
	if _, err := base.Load(); !errors.Is(err, gotune.ErrInterrupted) {
		t.Errorf("Load() = %v", err)
	}
	if want := "load model \"base\": interrupted: 3 of 35 tensors were loaded\n"; len(*codes) != 1 || (*codes)[0] != 1 || errs.String() != want {
		t.Errorf("exit codes %v, standard error %q, want 1 and %q", *codes, errs.String(), want)
	}
}

// An engine that does not answer an interrupt: a second one ends the program at
// once, and a notebook is not kept waiting until GoNB kills the cell.
func TestInterruptUnanswered(t *testing.T) {
	e := gotunetest.Start(t)
	deaf := func(_ context.Context, _ gotunetest.Request, s *gotunetest.Stream) (any, error) {
		<-s.Gone()
		return nil, nil
	}
	e.Handle("model.load", deaf)
	e.Handle("run.train", deaf)
	var errs, out bytes.Buffer
	codes := gotune.CatchExit(t, &errs)
	gotune.UseText(t, &out)
	interruptAfter(t, 30*time.Millisecond, 130*time.Millisecond)
	begin := time.Now()
	base.Load()
	if (*codes)[0] != 130 || time.Since(begin) > 2*time.Second {
		t.Errorf("exit codes %v after %v", *codes, time.Since(begin))
	}
	*codes = nil
	gotune.ShortGrace(t, 100*time.Millisecond)
	g := gotune.NewFakeGoNB(t)
	gotune.UseNotebook(t, g)
	interruptAfter(t, 30*time.Millisecond)
	run.Train()
	if len(*codes) != 1 || (*codes)[0] != 0 {
		t.Errorf("exit codes %v", *codes)
	}
	if f := g.Final(); !strings.Contains(fmt.Sprint(f[len(f)-1].Data), "writing a checkpoint") {
		t.Errorf("the last output is %v", f[len(f)-1].Data)
	}
}

func TestInterruptAttach(t *testing.T) {
	e := gotunetest.Start(t)
	told := make(chan string, 1)
	e.Handle("run.attach", func(_ context.Context, _ gotunetest.Request, s *gotunetest.Stream) (any, error) {
		select {
		case <-s.Cancelled():
			told <- "cancelled"
		case <-s.Gone():
			told <- "gone"
		}
		return nil, nil
	})
	var errs, out bytes.Buffer
	codes := gotune.CatchExit(t, &errs)
	gotune.UseText(t, &out)
	interruptAfter(t, 50*time.Millisecond)
	gotune.Trainer{Name: "run1"}.Attach()
	if len(*codes) != 1 || (*codes)[0] != 0 || !strings.Contains(out.String(), "goes on in the engine") {
		t.Errorf("exit codes %v, output %q", *codes, out.String())
	}
	if got := <-told; got != "gone" {
		t.Errorf("the engine saw %q, want that the watcher is gone", got)
	}
}

func TestContextTwins(t *testing.T) {
	e := gotunetest.Start(t)
	e.Handle("run.train", slowRun)
	var out bytes.Buffer
	gotune.UseText(t, &out)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	info, err := run.TrainContext(ctx)
	if info.State != gotune.RunStopped || !errors.Is(err, gotune.ErrInterrupted) || len(info.Records) == 0 {
		t.Errorf("TrainContext = %s after %d records, %v", info.State, len(info.Records), err)
	}
	if !math.IsInf(info.Records[0].GradNorm, 1) || info.Records[0].Loss != 2 {
		t.Errorf("first record is %+v", info.Records[0])
	}
}

func TestTerminal(t *testing.T) {
	script(t)
	var out bytes.Buffer
	gotune.UseTerminal(t, &out)
	if _, err := run.Train(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\r"); n < 40 {
		t.Errorf("the line was written over %d times", n)
	}
	if !strings.Contains(out.String(), "run1 ██████████░░░░░░░░░░ step 20 of 40") {
		t.Errorf("no bar in %q", out.String()[:500])
	}
	// What a terminal shows in the end: the last text of each line.
	var lines []string
	for line := range strings.SplitSeq(out.String(), "\n") {
		lines = append(lines, strings.TrimRight(line[strings.LastIndexByte(line, '\r')+1:], " "))
	}
	if seen := strings.Join(lines, "\n"); strings.Contains(seen, "░") {
		t.Errorf("a status line stays:\n%s", seen)
	}
}

func TestMust(t *testing.T) {
	e := gotunetest.Start(t)
	e.Fail("model.load", &gotune.Error{Kind: gotune.KindConflict, Op: "model.load", Object: `model "base"`, Found: `{"Source":"a"}`, Wanted: `{"Source":"b"}`, Next: "choose a new Name"})
	var errs, out bytes.Buffer
	codes := gotune.CatchExit(t, &errs)
	gotune.UseText(t, &out)
	gotune.Must(base.Load())
	want := "load model \"base\": the name is in use with a different config\n\thave {\"Source\":\"a\"}\n\twant {\"Source\":\"b\"}\n\thint: choose a new Name\n"
	if len(*codes) != 1 || (*codes)[0] != 1 || errs.String() != want {
		t.Errorf("exit codes %v, standard error\n%s\nwant\n%s", *codes, errs.String(), want)
	}
}

// An engine that dies in the middle: the error says so, and where its log is.
func TestEngineDies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 4096))
			c.Write([]byte(`{"event":"progress","data":{"task":"quantize","done":1,"total":2}}` + "\n"))
			c.Close()
		}
	}()
	t.Setenv("GOTUNE_SOCKET", path)
	var out bytes.Buffer
	gotune.UseText(t, &out)
	_, err = base.Load()
	if !errors.Is(err, gotune.ErrInternal) || !strings.Contains(err.Error(), "the engine ended before it answered") || !strings.Contains(err.Error(), filepath.Join(filepath.Dir(path), "engine.log")) {
		t.Errorf("Load() = %v", err)
	}
}

func TestRequestsCarryTheCaller(t *testing.T) {
	e := script(t)
	t.Setenv("HF_TOKEN", "hf_hush")
	var out bytes.Buffer
	gotune.UseText(t, &out)
	if _, err := data.Load(); err != nil {
		t.Fatal(err)
	}
	q := e.Requests()[0]
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if q.Dir != dir || q.Env["HF_TOKEN"] != "hf_hush" {
		t.Errorf("request is %+v", q)
	}
	var args struct{ Dataset gotune.Dataset }
	if err := q.Decode(&args); err != nil || args.Dataset.Split != "train" || args.Dataset.Revision != "main" {
		t.Errorf("arguments are %+v, %v", args, err)
	}
	if _, err := (gotune.Trainer{Name: "old"}).Save(""); err != nil {
		t.Fatal(err)
	}
	all := e.Requests()
	var save struct{ Name, Dir string }
	if err := all[len(all)-1].Decode(&save); err != nil || save.Dir != "/nb/results/run1/adapter" {
		t.Errorf("a bare run saves to %+v, %v: want the folder of its record", save, err)
	}
}
