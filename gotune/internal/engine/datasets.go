package engine

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/batch"
	data "github.com/gotune/gotune/gotune/internal/dataset"
	"github.com/gotune/gotune/gotune/internal/wire"
	"github.com/gotune/gotune/notebooks"
)

// A dataset is a loaded data set. Its rows stay in memory.
type dataset struct {
	config gotune.Dataset
	info   gotune.DatasetInfo
	rows   *data.Dataset
}

// dataset returns the data set that a literal means, loading it if it must.
func (c *call) dataset(d gotune.Dataset) (*dataset, bool, error) {
	d, err := d.Resolved()
	if err != nil {
		return nil, false, err
	}
	shelf := &c.engine.datasets
	if d.Bare() {
		v, err := shelf.find(c, d.Name)
		return v, true, err
	}
	d.Source = c.absolute(d.Source)
	return shelf.get(c, d.Name, d, func() (*dataset, error) { return c.loadDataset(d) })
}

func (c *call) loadDataset(d gotune.Dataset) (*dataset, error) {
	start := time.Now()
	spec := data.Spec{Source: d.Source, Revision: d.Revision, Split: d.Split, TextColumn: d.TextColumn, Hub: c.hub()}
	if d.Source == embedded || d.Source == embedded+":heldout" {
		root, err := notebooks.Unpack(filepath.Join(c.engine.options.CacheDir, embedded))
		if err != nil {
			return nil, err
		}
		spec.Source = filepath.Join(root, notebooks.DatasetDir, map[bool]string{true: "train.parquet", false: "heldout.parquet"}[d.Source == embedded])
	}
	rows, err := data.Open(c, spec, func(p data.Progress) {
		c.progress(wire.Progress{Task: p.Task, Done: p.Done, Total: p.Total, Unit: "bytes", Note: p.File})
	})
	if err != nil {
		return nil, datasetError(d, err)
	}
	info := gotune.DatasetInfo{Dataset: d, Path: spec.Source, Commit: rows.Revision, Rows: rows.Len(), Bytes: rows.Bytes(), Seconds: time.Since(start).Seconds()}
	if len(rows.Files) > 0 && !filepath.IsAbs(spec.Source) {
		info.Path = filepath.Dir(rows.Files[0])
	}
	for _, name := range rows.Columns() {
		info.Columns = append(info.Columns, gotune.Column{Name: name, Type: columnType(rows, name)})
	}
	return &dataset{config: d, info: info, rows: rows}, nil
}

// columnType is the type of the first value that is not null.
func columnType(rows *data.Dataset, name string) string {
	for i := range min(rows.Len(), 100) {
		switch v, _ := rows.Row(i).Get(name); v.(type) {
		case nil:
		case string:
			return "string"
		case int64, int:
			return "int64"
		case float64:
			return "float64"
		case bool:
			return "bool"
		case []any:
			return "list"
		default:
			return "struct"
		}
	}
	return "null"
}

func (e *Engine) datasetLoad(c *call, a struct{ Dataset gotune.Dataset }) (gotune.DatasetInfo, error) {
	c.about(a.Dataset.Name)
	d, _, err := c.dataset(a.Dataset)
	if err != nil {
		return gotune.DatasetInfo{}, err
	}
	return d.info, nil
}

func (e *Engine) datasetRows(c *call, a struct {
	Dataset       gotune.Dataset
	Offset, Limit int
}) (gotune.Rows, error) {
	c.about(a.Dataset.Name)
	d, _, err := c.dataset(a.Dataset)
	if err != nil {
		return gotune.Rows{}, err
	}
	out := gotune.Rows{Dataset: d.config.Name, Columns: d.rows.Columns(), Offset: a.Offset, Total: d.rows.Len()}
	if a.Offset < 0 || a.Limit < 0 || a.Offset > out.Total {
		return out, &gotune.Error{Kind: gotune.KindInvalid, Object: fmt.Sprintf("data set %q", d.config.Name), Found: fmt.Sprintf("offset %d, limit %d", a.Offset, a.Limit),
			Wanted: fmt.Sprintf("an offset from 0 to %d and a limit of 0 or more", out.Total)}
	}
	for i := a.Offset; i < min(out.Total, a.Offset+a.Limit); i++ {
		out.Values = append(out.Values, d.rows.Row(i).Values)
	}
	return out, nil
}

func (e *Engine) datasetLengths(c *call, a struct {
	Dataset gotune.Dataset
	Model   gotune.Model
}) (gotune.Lengths, error) {
	c.about(a.Dataset.Name)
	d, _, err := c.dataset(a.Dataset)
	if err != nil {
		return gotune.Lengths{}, err
	}
	tok, name, err := c.tokenizer(a.Model)
	if err != nil {
		return gotune.Lengths{}, err
	}
	set, err := batch.Tokenize(c, d.rows.Texts(), tok, batch.Options{Parity: true}, c.tokenizing) // parity keeps every row; its second BOS is taken off below
	if err != nil {
		return gotune.Lengths{}, err
	}
	counts := batch.Lengths(set.Examples)
	if bos, ok := tok.BOS(); ok {
		for i, ex := range set.Examples {
			if len(ex.IDs) > 1 && ex.IDs[0] == bos && ex.IDs[1] == bos {
				counts[i]--
			}
		}
	}
	return lengths(d.config.Name, name, counts), nil
}

// tokenizing reports the progress of batch.Tokenize.
func (c *call) tokenizing(done, total int) {
	c.progress(wire.Progress{Task: "tokenize", Done: int64(done), Total: int64(total), Unit: "rows"})
}

func lengths(dataset, model string, counts []int) gotune.Lengths {
	l := gotune.Lengths{Dataset: dataset, Model: model, Counts: counts}
	if len(counts) == 0 {
		return l
	}
	sorted := slices.Clone(counts)
	slices.Sort(sorted)
	for _, n := range sorted {
		l.Tokens += int64(n)
	}
	at := func(share float64) int { return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)] }
	l.Min, l.Max = sorted[0], sorted[len(sorted)-1]
	l.Mean = float64(l.Tokens) / float64(len(sorted))
	l.Median, l.P90, l.P99 = at(0.5), at(0.9), at(0.99)
	return l
}

// datasetError puts the failure of package dataset into gotune's words.
func datasetError(d gotune.Dataset, err error) error {
	e, ok := err.(*data.Error)
	if !ok {
		return err
	}
	kind := gotune.KindInvalid
	switch e.Kind {
	case data.ErrNotFound, data.ErrSplit, data.ErrColumn:
		kind = gotune.KindNotFound
	}
	return &gotune.Error{Kind: kind, Op: e.Op, Object: cmp.Or(e.Object, fmt.Sprintf("data set %q", d.Name)), Found: e.Found, Wanted: e.Wanted, Next: e.Next}
}
