package gotune

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// Stop stops the run at its next step with a checkpoint, and shows where. A run
// that has ended stays as it is. Only the Name matters.
func (t Trainer) Stop() (RunInfo, error) { return t.StopContext(inCell) }

// StopContext is [Trainer.Stop] for programs.
func (t Trainer) StopContext(ctx context.Context) (RunInfo, error) {
	q := request{verb: wire.VerbRunStop, what: "stop " + quoted("run", t.Name), args: named{t.Name}}
	return do(ctx, q, func(i RunInfo) (string, string) {
		line := i.Name + ": " + i.stateText()
		return "<div>" + escape(line) + "</div>", plainText(line) + "\n"
	})
}

// Record returns the run's state and every step of it, and shows nothing. A run
// that the engine does not know, from another day, is read from OutputDir.
func (t Trainer) Record() (RunInfo, error) { return t.RecordContext(inCell) }

// RecordContext is [Trainer.Record] for programs.
func (t Trainer) RecordContext(ctx context.Context) (RunInfo, error) { return t.record(ctx, nil) }

// Show shows the run's chart and numbers, as Train does at its end, from its
// record.
func (t Trainer) Show() (RunInfo, error) { return t.ShowContext(inCell) }

// ShowContext is [Trainer.Show] for programs.
func (t Trainer) ShowContext(ctx context.Context) (RunInfo, error) {
	return t.record(ctx, func(i RunInfo) (string, string) { return i.html(), i.text(true) })
}

func (t Trainer) record(ctx context.Context, show func(RunInfo) (string, string)) (RunInfo, error) {
	dir := t.OutputDir
	if dir == "" && !t.Bare() {
		r, err := t.Resolved()
		if err != nil {
			return RunInfo{}, err
		}
		dir = r.OutputDir
	}
	return do(ctx, request{verb: wire.VerbRunRecord, what: "read the record of " + quoted("run", t.Name),
		args: struct{ Name, OutputDir string }{t.Name, dir}}, show)
}

// Save writes the run's adapter to the folder dir in PEFT's format, as it is
// after the latest step. An empty dir stands for "adapter" in OutputDir.
func (t Trainer) Save(dir string) (SaveInfo, error) { return t.SaveContext(inCell, dir) }

// SaveContext is [Trainer.Save] for programs.
func (t Trainer) SaveContext(ctx context.Context, dir string) (SaveInfo, error) {
	dir, err := t.folder(ctx, dir, "adapter")
	if err != nil {
		return SaveInfo{}, err
	}
	q := request{verb: wire.VerbRunSave, what: "save the adapter of " + quoted("run", t.Name), args: struct{ Name, Dir string }{t.Name, dir}}
	return do(ctx, q, func(i SaveInfo) (string, string) {
		files := fileTable(fmt.Sprintf("Adapter of %s after step %d: %s weights, %s in %s", t.Name, i.Step, paramsText(i.Params), sizeText(i.Bytes), i.Dir), i.Files)
		return files.html(), files.text()
	})
}

// Merge adds the run's adapter to the weights of its model and writes the whole
// model to the folder dir in the Hugging Face layout, tensor by tensor, with no
// second copy in memory. An empty dir stands for "merged" in OutputDir.
func (t Trainer) Merge(dir string, o MergeOptions) (MergeInfo, error) {
	return t.MergeContext(inCell, dir, o)
}

// MergeContext is [Trainer.Merge] for programs.
func (t Trainer) MergeContext(ctx context.Context, dir string, o MergeOptions) (MergeInfo, error) {
	o, err := o.Resolved()
	if err != nil {
		return MergeInfo{}, err
	}
	if dir, err = t.folder(ctx, dir, "merged"); err != nil {
		return MergeInfo{}, err
	}
	return do(ctx, request{verb: wire.VerbRunMerge, what: "merge " + quoted("run", t.Name),
		args: struct {
			Name, Dir string
			Options   MergeOptions
		}{t.Name, dir, o}}, func(i MergeInfo) (string, string) {
		title := fmt.Sprintf("Merged model of %s: %s, %d of them changed, %s in %s, written in %s", t.Name,
			plural(i.Tensors, "tensor"), i.Merged, i.DType, i.Dir, secondsText(i.Seconds))
		if i.HostPeakBytes > 0 {
			title += ", host memory " + sizeText(i.HostPeakBytes) + " at most"
		}
		if i.FreedBytes > 0 {
			title += ", device memory freed " + sizeText(i.FreedBytes)
		}
		files := fileTable(title, i.Files)
		return files.html(), files.text()
	})
}

// folder is dir, or name in the run's OutputDir if dir is empty.
func (t Trainer) folder(ctx context.Context, dir, name string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	if t.Bare() {
		info, err := t.RecordContext(ctx)
		return filepath.Join(info.OutputDir, name), err
	}
	r, err := t.Resolved()
	return filepath.Join(r.OutputDir, name), err
}

// Push sends the merged model, the folder that [Trainer.Merge] writes when its
// dir is empty, to the Hub repository repo ("owner/name"), with a model card.
// [Push] sends any folder.
func (t Trainer) Push(repo string, o PushOptions) (PushInfo, error) {
	return t.PushContext(inCell, repo, o)
}

// PushContext is [Trainer.Push] for programs.
func (t Trainer) PushContext(ctx context.Context, repo string, o PushOptions) (PushInfo, error) {
	dir, err := t.folder(ctx, "", "merged")
	if err != nil {
		return PushInfo{}, err
	}
	return PushContext(ctx, dir, repo, o)
}

// Push sends a folder, a merged model or an adapter, to the Hub repository repo
// ("owner/name"), which is made if need be, in one commit with a model card.
// Files that are there already are not sent again.
func Push(dir, repo string, o PushOptions) (PushInfo, error) {
	return PushContext(inCell, dir, repo, o)
}

// PushContext is [Push] for programs.
func PushContext(ctx context.Context, dir, repo string, o PushOptions) (PushInfo, error) {
	o, err := o.Resolved()
	if err != nil {
		return PushInfo{}, err
	}
	if !hubID(repo) {
		return PushInfo{}, &Error{Kind: KindInvalid, Op: "push", Object: dir, Found: jsonText(repo), Wanted: `a repository "owner/name"`}
	}
	return do(ctx, request{verb: wire.VerbPush, what: "push " + dir + " to " + repo,
		args: struct {
			Dir, Repo string
			Options   PushOptions
		}{dir, repo, o}}, func(i PushInfo) (string, string) {
		title := fmt.Sprintf("Pushed %s to %s in %s, commit %s", sizeText(i.Bytes), i.URL, secondsText(i.Seconds), i.Commit)
		if i.DryRun {
			title = fmt.Sprintf("Dry run: %s would go to %s; nothing was sent", sizeText(i.Bytes), i.URL)
		}
		files := fileTable(title, i.Files)
		return files.html(), files.text()
	})
}

func fileTable(title string, files []FileInfo) table {
	t := table{title: title, head: []string{"file", "size"}, left: 1}
	how := false
	for _, f := range files {
		how = how || f.How != ""
	}
	for _, f := range files {
		row := []string{f.Name, sizeText(f.Bytes)}
		if how {
			row = append(row, f.How)
		}
		t.rows = append(t.rows, row)
	}
	if how {
		t.head = append(t.head, "sent as")
	}
	return t
}
