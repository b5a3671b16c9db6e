package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/hub"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/safetensors"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// runSave writes a run's adapter in PEFT's format.
func (e *Engine) runSave(c *call, a struct{ Name, Dir string }) (gotune.SaveInfo, error) {
	c.about(a.Name)
	r, err := e.find(a.Name)
	if err != nil {
		return gotune.SaveInfo{}, err
	}
	dir, err := c.outputDir(a.Dir)
	if err != nil {
		return gotune.SaveInfo{}, err
	}
	ad, err := r.trained()
	if err != nil {
		return gotune.SaveInfo{}, err
	}
	if err := ad.Save(dir); err != nil {
		return gotune.SaveInfo{}, err
	}
	if err := r.card("peft").Write(dir, a.Name, true); err != nil {
		return gotune.SaveInfo{}, err
	}
	info := gotune.SaveInfo{Dir: dir, Step: r.info().Step, Params: ad.Parameters()}
	info.Files, info.Bytes, err = listFiles(dir)
	return info, err
}

// runMerge writes the model with the run's adapter merged into its weights. The
// weights come from the model's files, tensor by tensor, so the device's copy is
// not needed, and is given back.
func (e *Engine) runMerge(c *call, a struct {
	Name    string
	Dir     string
	Options gotune.MergeOptions
}) (gotune.MergeInfo, error) {
	c.about(a.Name)
	start := time.Now()
	o, err := a.Options.Resolved()
	if err != nil {
		return gotune.MergeInfo{}, err
	}
	r, err := e.find(a.Name)
	if err != nil {
		return gotune.MergeInfo{}, err
	}
	if r.active() {
		return gotune.MergeInfo{}, busy("run "+quote(a.Name), r)
	}
	dir, err := c.outputDir(a.Dir)
	if err != nil {
		return gotune.MergeInfo{}, err
	}
	ad, err := r.trained()
	if err != nil {
		return gotune.MergeInfo{}, err
	}
	l, _, err := c.model(r.config.Model)
	if err != nil {
		return gotune.MergeInfo{}, err
	}
	info := gotune.MergeInfo{Dir: dir, DType: o.DType, Tensors: len(l.files.Names()), Merged: len(ad.Modules)}
	info.FreedBytes = e.freeDevice(l)
	peak := watchHost()
	defer peak.stop()
	dtype := map[string]safetensors.DType{"float16": safetensors.F16, "bfloat16": safetensors.BF16, "float32": safetensors.F32}[o.DType]
	files, err := l.reopen()
	if err != nil {
		return info, err
	}
	defer files.Close()
	err = lora.Merge(c, files, ad, dir, lora.MergeOptions{DType: dtype, MaxShardBytes: o.MaxShardBytes}, func(done, total int64) {
		c.progress(wire.Progress{Task: "merge", Done: done, Total: total, Unit: "bytes"})
	})
	if err != nil {
		return info, err
	}
	if err := r.card("transformers").Write(dir, a.Name, true); err != nil {
		return info, err
	}
	info.HostPeakBytes, info.Seconds = peak.stop(), time.Since(start).Seconds()
	info.Files, info.Bytes, err = listFiles(dir)
	return info, err
}

// freeDevice gives back the device memory of a model and of the adapters on it,
// unless a run trains it, and returns how much that was.
func (e *Engine) freeDevice(l *model) int64 {
	if r := e.runs.running(); r != nil && r.usesModel(l.config.Name) {
		return 0
	}
	var freed int64
	for _, r := range e.runs.all() {
		if r.usesModel(l.config.Name) {
			freed += r.release()
		}
	}
	freed += l.base.Bytes()
	if old, ok := e.models.remove(l.config.Name); ok {
		old.close()
	}
	return freed
}

// outputDir is a folder to write into, absolute, whose parent is there.
func (c *call) outputDir(dir string) (string, error) {
	if dir == "" {
		return "", &gotune.Error{Kind: gotune.KindInvalid, Object: "folder", Found: "an empty path", Wanted: "where to write", Next: "give a folder"}
	}
	dir = c.path(dir)
	if at, err := os.Stat(dir); err == nil && !at.IsDir() {
		return "", &gotune.Error{Kind: gotune.KindIO, Found: dir + " is a file", Wanted: "a folder, or a path that is free", Next: "give another folder"}
	}
	return dir, makeFolder(filepath.Dir(dir), "folder")
}

// makeFolder makes a folder to write into. field is what a caller corrects when
// that can't be.
func makeFolder(dir, field string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return &gotune.Error{Kind: gotune.KindIO, Found: err.Error(), Wanted: "a folder that can be made and written", Next: "give another " + field}
	}
	return nil
}

// card is the model card of a run's result.
func (r *run) card(library string) hub.Card {
	t, i := r.config, r.info()
	c := hub.Card{Title: t.Name, BaseModel: t.Model.Source, Library: library, Tags: []string{"lora", "qlora"}, Languages: []string{"en"},
		Summary: fmt.Sprintf("%s, fine-tuned on %s with [gotune](https://github.com/gotune/gotune).", modelTitle(t.Model), dataTitle(t.Dataset))}
	if hub.ValidID(t.Dataset.Source) && strings.Contains(t.Dataset.Source, "/") {
		c.Datasets = []string{t.Dataset.Source}
	}
	pair := func(k string, v any) { c.Training = append(c.Training, hub.Pair{Name: k, Value: fmt.Sprint(v)}) }
	pair("steps", i.Step)
	pair("epochs", t.Epochs)
	pair("batch size", fmt.Sprintf("%d × %d", t.BatchSize, t.GradAccum))
	pair("learning rate", fmt.Sprintf("%g, %s", t.LearningRate, t.LRScheduler))
	pair("weight decay", t.WeightDecay)
	pair("optimizer", t.Optim)
	if t.FP8 != "" {
		pair("products in 8-bit floats", t.FP8)
	}
	pair("LoRA", fmt.Sprintf("r=%d, α=%g, dropout %g on %s", t.LoRA.Rank, t.LoRA.Alpha, t.LoRA.Dropout, strings.Join(t.LoRA.Targets, ", ")))
	pair("base weights", t.Model.Quant.Type)
	pair("sequence length", t.MaxSeqLength)
	pair("seed", t.Seed)
	result := func(k string, v float64) {
		if v == v { // not NaN: there was such a loss
			c.Results = append(c.Results, hub.Pair{Name: k, Value: fmt.Sprintf("%.4f", v)})
		}
	}
	result("training loss (mean)", i.MeanLoss)
	result("evaluation loss", i.EvalLoss)
	return c
}

func modelTitle(m gotune.Model) string {
	if m.Source == embedded {
		return "gotune's embedded model"
	}
	if filepath.IsAbs(m.Source) {
		return filepath.Base(m.Source)
	}
	return m.Source
}

func dataTitle(d gotune.Dataset) string {
	if d.Source == embedded {
		return "gotune's embedded instruction data set"
	}
	if filepath.IsAbs(d.Source) {
		return filepath.Base(d.Source)
	}
	return d.Source
}

func listFiles(dir string) (files []gotune.FileInfo, total int64, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		files = append(files, gotune.FileInfo{Name: name, Bytes: st.Size()})
		total += st.Size()
		return nil
	})
	return files, total, err
}

// push sends a folder to the Hub.
func (e *Engine) push(c *call, a struct {
	Dir, Repo string
	Options   gotune.PushOptions
}) (gotune.PushInfo, error) {
	c.about(a.Repo)
	start := time.Now()
	o, err := a.Options.Resolved()
	if err != nil {
		return gotune.PushInfo{}, err
	}
	dir := c.path(a.Dir)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return gotune.PushInfo{}, &gotune.Error{Kind: gotune.KindNotFound, Object: dir, Found: "no such folder", Wanted: "a folder that Merge or Save wrote", Next: "run the cell that writes it"}
	}
	h := c.hub()
	if o.Endpoint != "" {
		h.Endpoint = o.Endpoint
	}
	repo := hub.Model(a.Repo, o.Revision)
	info := gotune.PushInfo{Repo: a.Repo, Revision: o.Revision, DryRun: o.DryRun, URL: strings.TrimRight(h.Endpoint, "/") + "/" + a.Repo}
	if !o.DryRun {
		if h.Token.IsZero() {
			return info, &gotune.Error{Kind: gotune.KindAuth, Object: a.Repo, Found: "no token", Wanted: "a Hub token with the right to write",
				Next: "make one in the Hub's settings and set it: %env HF_TOKEN=hf_…; or look first what would be sent: PushOptions{DryRun: true}"}
		}
		_, err := h.CreateRepo(c, repo, hub.CreateOptions{Private: o.Private})
		info.Created = err == nil
		if err != nil && !errors.Is(err, hub.ErrConflict) {
			return info, err
		}
	}
	up, err := h.Upload(c, repo, dir, hub.UploadOptions{Message: o.Message, DryRun: o.DryRun, Progress: func(p hub.Progress) {
		c.progress(wire.Progress{Task: "upload", Done: p.Done, Total: p.Total, Unit: "bytes", Note: p.File})
	}})
	if err != nil {
		return info, err
	}
	info.Commit, info.Bytes, info.Seconds = up.CommitOID, up.Bytes(), time.Since(start).Seconds()
	for _, f := range up.Files {
		how := string(f.Mode)
		switch {
		case f.Unchanged:
			how = "unchanged"
		case f.Ignored:
			how = "ignored"
		}
		info.Files = append(info.Files, gotune.FileInfo{Name: f.Path, Bytes: f.Size, How: how})
	}
	return info, nil
}
