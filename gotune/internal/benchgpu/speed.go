package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/model"
)

// load measures loading twice: the second time the pages are warm for certain.
func load(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("load", flag.ContinueOnError)
	s.flags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	for _, name := range []string{"first", "second"} {
		ses, err := s.open(ctx)
		if err != nil {
			return err
		}
		gb := float64(ses.ck.Bytes()) / 1e9
		emit("load", name, s.quant+" "+s.dtype, map[string]float64{"s": ses.loaded.Seconds(), "checkpoint GB": gb, "GB/s": gb / ses.loaded.Seconds(),
			"device GiB": float64(ses.base.Bytes()) / (1 << 30)})
		ses.base.Free()
		ses.ck.Close()
	}
	return nil
}

// trainSpeed measures optimizer steps for every length and memory policy.
func trainSpeed(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("train", flag.ContinueOnError)
	s.flags(fs)
	lengths := fs.String("lengths", "512,1024,2048", "tokens of a row")
	memories := fs.String("memory", "recompute,save", "memory policies: save, recompute, offload; auto takes the first that fits")
	rows := fs.Int("batch", 4, "rows")
	kept := fs.Int("kept", 0, "layers that keep their residuals under recompute and offload")
	attends := fs.Bool("keep-attention", false, "layers that are computed again keep their attention's output")
	chunk := fs.Int("chunk", 0, "tokens that a layer which is computed again takes at a time; 0 for all")
	fp8 := fs.String("fp8", layerwise.FP8Off, fp8Usage)
	steps := fs.Int("steps", 6, "steps after the first")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ses, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer ses.base.Free()
	emit("train", "loaded", s.dtype, map[string]float64{"s": ses.loaded.Seconds(), "GiB": ses.gib()})
	var failed []string
	for _, memory := range strings.Split(*memories, ",") {
		for _, l := range strings.Split(*lengths, ",") {
			n, err := strconv.Atoi(l)
			if err != nil {
				return fmt.Errorf("-lengths %q: %w", *lengths, err)
			}
			if err := trainCase(ses, s.dtype, layerwise.TrainOptions{Memory: memory, Kept: *kept, KeepAttention: *attends, Chunk: *chunk, FP8: *fp8}, *rows, n, *steps); err != nil {
				failed = append(failed, fmt.Sprintf("%s S=%d: %v", memory, n, err))
			}
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%s", strings.Join(failed, "; "))
	}
	return nil
}

// trainCase measures one geometry.
func trainCase(ses *session, dtype string, o layerwise.TrainOptions, rows, length, steps int) error {
	memory := o.Memory
	o.Dropout, o.MaxGradNorm, o.WeightDecay, o.Optim = 0.1, 0.3, 0.001, "paged_adamw_32bit"
	tr, err := ses.base.NewTrainer(ses.adapter, o)
	if err != nil {
		return err
	}
	defer tr.Free()
	micro := []*batch.Batch{full(rows, length, ses.ck.Config.VocabSize)}
	ses.trace.reset()
	start := time.Now()
	fit, err := plan(tr, memory, micro)
	if err != nil {
		return err
	}
	peakBefore := ses.peak()
	res, err := tr.Step(micro, 2e-4)
	if err != nil {
		return err
	}
	first, compile, loss := time.Since(start), ses.trace.reset(), res.Loss
	var took []float64
	for range steps {
		start := time.Now()
		if res, err = tr.Step(micro, 2e-4); err != nil {
			return err
		}
		took = append(took, time.Since(start).Seconds())
	}
	// One more step, each call awaited, says where the time goes.
	cuda.AwaitCalls(true)
	defer cuda.AwaitCalls(false)
	ses.trace.reset()
	start = time.Now()
	if _, err = tr.Step(micro, 2e-4); err != nil {
		return err
	}
	awaitedStep := time.Since(start)
	inside := 0.0
	var programs []string
	for _, c := range ses.trace.summary() {
		ms := c.total.Seconds() * 1e3
		inside += ms
		programs = append(programs, fmt.Sprintf("%s %d× %.1f ms", c.name, c.n, ms))
	}
	slices.Sort(took)
	step := took[len(took)/2]
	title := dtype + " " + memory
	if o.Kept > 0 {
		title += fmt.Sprintf(" kept %d", o.Kept)
	}
	if o.KeepAttention {
		title += " keep attention"
	}
	if o.Chunk > 0 {
		title += fmt.Sprintf(" chunk %d", o.Chunk)
	}
	if o.FP8 != layerwise.FP8Off {
		title += " fp8 " + o.FP8
	}
	found, missed := backend.Programs(ses.device)
	if ses.base.Resident() > 0 {
		title += " resident"
	}
	if ses.plain {
		title += " plain attention"
	}
	if ses.pool > 0 {
		title += fmt.Sprintf("%s%g GiB", poolTitle, ses.pool)
	}
	emit("train", fmt.Sprintf("%s B=%d S=%d", title, rows, length), ses.runsOn()+", "+strings.Join(programs, ", ")+"; "+fit.String()+"; "+fit.Account(), predicted(map[string]float64{
		"tok/s": float64(rows*length) / step, "step ms": step * 1e3, "fastest ms": took[0] * 1e3, "inside calls ms": inside, "awaited step ms": awaitedStep.Seconds() * 1e3, "first step s": first.Seconds(),
		"compile s": compile.Seconds(), "GiB": ses.gib(), "programs found": float64(found), "programs compiled": float64(missed), "first loss": loss, "last loss": res.Loss}, fit, peakBefore, ses.peak()))
	return nil
}

// merge measures writing the merged model, and copying the model's files.
func merge(ctx context.Context, args []string) error {
	var s settings
	fs := flag.NewFlagSet("merge", flag.ContinueOnError)
	s.flags(fs)
	out := fs.String("out", "", "folder to write and remove again")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *out == "" {
		return fmt.Errorf("-out is missing: name a folder")
	}
	ck, err := model.Open(s.model)
	if err != nil {
		return err
	}
	defer ck.Close()
	a, err := newAdapter(ck.Config, s.rank, s.targets)
	if err != nil {
		return err
	}
	start := time.Now()
	copied, err := copyFiles(ck, *out+".copy")
	if err != nil {
		return err
	}
	copying := time.Since(start)
	start = time.Now()
	if err := lora.Merge(ctx, ck, a, *out, lora.MergeOptions{}, nil); err != nil {
		return err
	}
	merging := time.Since(start)
	emit("merge", "float16", "", map[string]float64{"s": merging.Seconds(), "copy s": copying.Seconds(), "ratio": merging.Seconds() / copying.Seconds(), "GB": float64(copied) / 1e9})
	return os.RemoveAll(*out)
}

// copyFiles copies the weight files to dir, brings them to disk, removes them and
// returns their bytes.
func copyFiles(ck *model.Checkpoint, dir string) (total int64, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for _, name := range ck.Files() {
		n, err := copyFile(filepath.Join(ck.Dir(), name), filepath.Join(dir, name))
		if err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

func copyFile(from, to string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 4<<20))
	if err == nil {
		err = out.Sync()
	}
	return n, err
}
