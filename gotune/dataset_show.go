package gotune

import (
	"context"
	"fmt"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// Load reads the data set, from the Hub if need be, and shows what it found.
// Loading it again returns at once.
//
// Errors: ErrNotFound for a source, split or text column that is not there,
// ErrConflict for a name in use, ErrNetwork, ErrAuth, ErrInvalid for a file that
// can't be read or has no rows.
func (d Dataset) Load() (DatasetInfo, error) { return d.LoadContext(inCell) }

// LoadContext is [Dataset.Load] for programs.
func (d Dataset) LoadContext(ctx context.Context) (DatasetInfo, error) {
	d, err := d.Resolved()
	if err != nil {
		return DatasetInfo{}, err
	}
	q := request{verb: wire.VerbDatasetLoad, what: "load " + quoted("data set", d.Name), args: struct{ Dataset Dataset }{d}}
	return do(ctx, q, func(i DatasetInfo) (string, string) {
		t := i.table()
		return t.html(), t.text()
	})
}

func (i DatasetInfo) table() table {
	revision := i.Dataset.Revision
	if i.Commit != "" {
		revision += " (" + i.Commit + ")"
	}
	columns := ""
	for j, c := range i.Columns {
		if j > 0 {
			columns += ", "
		}
		columns += c.Name + " " + c.Type
	}
	return facts("Data set "+i.Dataset.Name, "source", i.Dataset.Source, "revision", revision, "split", i.Dataset.Split,
		"rows", countText(i.Rows), "columns", columns, "text column", i.Dataset.TextColumn, "size", sizeText(i.Bytes), "folder", i.Path)
}

// Rows returns limit rows from the row offset on, and shows nothing. Fewer come
// back at the end of the data. The data set is loaded first if need be.
func (d Dataset) Rows(offset, limit int) (Rows, error) { return d.RowsContext(inCell, offset, limit) }

// RowsContext is [Dataset.Rows] for programs.
func (d Dataset) RowsContext(ctx context.Context, offset, limit int) (Rows, error) {
	return d.rows(ctx, offset, limit, nil)
}

func (d Dataset) rows(ctx context.Context, offset, limit int, show func(Rows) (string, string)) (Rows, error) {
	d, err := d.Resolved()
	if err != nil {
		return Rows{}, err
	}
	if offset < 0 || limit < 0 {
		return Rows{}, &Error{Kind: KindInvalid, Op: "read rows of", Object: quoted("data set", d.Name),
			Found: fmt.Sprintf("offset %d, limit %d", offset, limit), Wanted: "numbers that are not negative"}
	}
	return do(ctx, request{verb: wire.VerbDatasetRows, what: "read rows of " + quoted("data set", d.Name),
		args: struct {
			Dataset       Dataset
			Offset, Limit int
		}{d, offset, limit}}, show)
}

// Show shows the first n rows as a table, with long texts in full, and returns
// them.
func (d Dataset) Show(n int) (Rows, error) { return d.ShowContext(inCell, n) }

// ShowContext is [Dataset.Show] for programs.
func (d Dataset) ShowContext(ctx context.Context, n int) (Rows, error) {
	return d.rows(ctx, 0, n, func(r Rows) (string, string) {
		t := r.table()
		if len(r.Columns) == 1 || longCells(t.rows) {
			return t.html(), fmt.Sprintf("%s\n%s", t.title, t.columns())
		}
		return t.html(), t.text()
	})
}

// longCells says whether a text needs more than a terminal's line.
func longCells(rows [][]string) bool {
	for _, row := range rows {
		n := 0
		for _, cell := range row {
			n += len(cell) + 2
		}
		if n > 120 {
			return true
		}
	}
	return false
}

func (r Rows) table() table {
	t := table{title: fmt.Sprintf("%s: %s of %s", r.Dataset, plural(len(r.Values), "row"), countText(r.Total)), left: 1 + len(r.Columns), wrap: true}
	t.head = append([]string{"row"}, r.Columns...)
	for i := range r.Values {
		row := []string{countText(r.Offset + i)}
		for _, c := range r.Columns {
			row = append(row, clip(r.Text(i, c), 2000))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// clip cuts a text to about n bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return fmt.Sprintf("%s … (%s more)", s[:n], sizeText(int64(len(s)-n)))
}

// Lengths counts the tokens of each row with a model's tokenizer, and shows
// nothing. Only the tokenizer of the model is read, not its weights.
func (d Dataset) Lengths(m Model) (Lengths, error) { return d.LengthsContext(inCell, m) }

// LengthsContext is [Dataset.Lengths] for programs.
func (d Dataset) LengthsContext(ctx context.Context, m Model) (Lengths, error) {
	return d.lengths(ctx, m, nil)
}

// ShowLengths counts the tokens of each row with a model's tokenizer and shows
// them as a histogram: it tells what MaxSeqLength cuts off.
func (d Dataset) ShowLengths(m Model) (Lengths, error) { return d.ShowLengthsContext(inCell, m) }

// ShowLengthsContext is [Dataset.ShowLengths] for programs.
func (d Dataset) ShowLengthsContext(ctx context.Context, m Model) (Lengths, error) {
	return d.lengths(ctx, m, func(l Lengths) (string, string) {
		t := l.table()
		return card(l.histogram(cardStyle), l.alt()) + t.html(), l.bars() + t.text()
	})
}

func (d Dataset) lengths(ctx context.Context, m Model, show func(Lengths) (string, string)) (Lengths, error) {
	d, err := d.Resolved()
	if err != nil {
		return Lengths{}, err
	}
	if m, err = m.Resolved(); err != nil {
		return Lengths{}, err
	}
	return do(ctx, request{verb: wire.VerbDatasetLengths, what: "count the tokens of " + quoted("data set", d.Name),
		args: struct {
			Dataset Dataset
			Model   Model
		}{d, m}}, show)
}

func (l Lengths) table() table {
	return table{head: []string{"rows", "tokens", "min", "median", "mean", "90 %", "99 %", "max"}, rows: [][]string{{
		countText(len(l.Counts)), countText(l.Tokens), countText(l.Min), countText(l.Median), fmt.Sprintf("%.1f", l.Mean),
		countText(l.P90), countText(l.P99), countText(l.Max)}}}
}
