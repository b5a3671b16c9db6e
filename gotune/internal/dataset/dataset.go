package dataset

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/gotune/gotune/gotune/internal/hub"
)

// DefaultTextColumn is the column that training reads unless told otherwise.
const DefaultTextColumn = "text"

// A Spec says which rows to read.
type Spec struct {
	// Source is a file, a folder, or a Hub id "owner/name". What exists on disk
	// wins; a path that starts with "." or "/" or has a data file's suffix is
	// never looked for on the Hub.
	Source string

	// Config names the configuration of a data set that has several. Default:
	// the one called "default" or marked so, or the only one.
	Config string

	// Revision is a branch, tag or commit on the Hub. Default "main".
	Revision string

	// Split is a split expression such as "train", "train[:100]" or
	// "train[:80%]+test". Default "train".
	Split string

	// TextColumn names the column of training texts. Default "text".
	TextColumn string

	// NoText reads rows without a text column: Text gives "" for each.
	NoText bool

	// Dir is the folder that relative paths start from. Default: the process's own.
	Dir string

	// MaxBytes bounds the rows in memory: a small file can stand for very many.
	// Default: half of the memory that is free.
	MaxBytes int64

	// Hub fetches data sets by id. Default: hub.FromEnv(nil).
	Hub *hub.Client
}

// Progress is the state of Open.
type Progress struct {
	Task        string // "download" or "read"
	File        string // the file at work
	Done, Total int64  // bytes; Total is 0 when unknown
	Rows        int    // rows read so far
}

// A Dataset is the rows of a Spec, in memory. It is safe for concurrent use.
type Dataset struct {
	// Files are the files that were read, in order.
	Files []string

	// Revision is the Hub commit they are from, or "".
	Revision string

	textColumn string
	columns    []string
	max        int64
	texts      []string // "" where null
	null       []int    // rows whose text is null, ascending
	rest       []string // the other columns of a row as JSON
	bytes      int64
}

// Open reads the rows of spec. It fails when there is no row, or no column of
// that name with texts. Rows whose text is null are read; CheckText reports them.
func Open(ctx context.Context, spec Spec, progress func(Progress)) (*Dataset, error) {
	if spec.Split == "" {
		spec.Split = "train"
	}
	if spec.TextColumn == "" {
		spec.TextColumn = DefaultTextColumn
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	cuts, err := parseSplit(spec.Split)
	if err != nil {
		return nil, err
	}
	src, err := resolve(ctx, spec)
	if err != nil {
		return nil, err
	}
	d := &Dataset{textColumn: spec.TextColumn, Revision: src.revision, max: spec.MaxBytes}
	if d.max <= 0 {
		d.max = freeMemory() / 2
	}
	if spec.NoText {
		d.textColumn = ""
	}
	if err := d.readCuts(ctx, spec, src, cuts, progress); err != nil {
		return nil, err
	}
	return d, d.checkColumns(spec)
}

// readCuts reads each split that cuts name once and takes the cuts of it.
func (d *Dataset) readCuts(ctx context.Context, spec Spec, src *source, cuts []cut, progress func(Progress)) error {
	limits := map[string]int{}
	for _, c := range cuts {
		if old, seen := limits[c.split]; seen && (old < 0 || c.limit() < 0) {
			limits[c.split] = -1
		} else {
			limits[c.split] = max(old, c.limit())
			if c.limit() < 0 {
				limits[c.split] = -1
			}
		}
	}
	read := map[string]*Dataset{}
	for _, c := range cuts {
		one := read[c.split]
		if one == nil {
			one = &Dataset{textColumn: d.textColumn, max: d.max}
			files, err := src.fetch(ctx, c.split, progress)
			if err != nil {
				return err
			}
			for _, f := range files {
				if err := one.readFile(ctx, f, src.format, limits[c.split], progress); err != nil {
					return err
				}
				d.Files = append(d.Files, f)
			}
			read[c.split] = one
		}
		from, to, err := c.rows(len(one.rest))
		if err != nil {
			return err
		}
		d.take(one, from, to)
	}
	return nil
}

// take appends the rows from..to of another data set.
func (d *Dataset) take(o *Dataset, from, to int) {
	if len(d.rest) == 0 && from == 0 && to == len(o.rest) {
		files, revision := d.Files, d.Revision
		*d = *o
		d.Files, d.Revision = files, revision
		return
	}
	for _, c := range o.columns {
		if !slices.Contains(d.columns, c) {
			d.columns = append(slices.Clone(d.columns), c)
		}
	}
	shift := len(d.rest) - from
	d.null = slices.Clone(d.null)
	for _, i := range o.null {
		if i >= from && i < to {
			d.null = append(d.null, i+shift)
		}
	}
	// Strings are shared; the slices must not be, since a split may be cut twice.
	d.rest = append(slices.Clone(d.rest), o.rest[from:to]...)
	d.texts = append(slices.Clone(d.texts), o.texts[from:to]...)
	d.bytes = 0
	for i := range d.rest {
		d.bytes += int64(len(d.rest[i]) + len(d.texts[i]))
	}
}

// readFile appends the rows of a file, up to limit rows in all if it is not negative.
func (d *Dataset) readFile(ctx context.Context, path, format string, limit int, progress func(Progress)) error {
	r, err := openRows(path, format)
	if err != nil {
		return err
	}
	defer r.close()
	known := map[string]bool{}
	for _, c := range d.columns {
		known[c] = true
	}
	addColumns := func(cs []string) {
		for _, c := range cs {
			if !known[c] {
				known[c] = true
				d.columns = append(d.columns, c)
			}
		}
	}
	addColumns(r.columns())
	var buf []byte
	for limit < 0 || len(d.rest) < limit {
		row, err := safeNext(r, path)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		addColumns(row.Columns)
		if buf, err = d.add(row, buf, path); err != nil {
			return err
		}
		if len(d.rest)%1024 == 0 {
			if err := ctx.Err(); err != nil {
				return &Error{Op: "read", Object: path, Found: "interrupted", Kind: err, Err: err}
			}
			done, total := r.progress()
			progress(Progress{Task: "read", File: path, Done: done, Total: total, Rows: len(d.rest)})
		}
	}
	_, total := r.progress()
	progress(Progress{Task: "read", File: path, Done: total, Total: total, Rows: len(d.rest)})
	return nil
}

// add stores one row.
func (d *Dataset) add(row Row, buf []byte, path string) ([]byte, error) {
	n := len(d.rest)
	if d.bytes+sizeOf(row) > d.max+1<<16 {
		return buf, d.tooLarge(path)
	}
	text, isNull := "", true
	rest := row
	for i, c := range row.Columns {
		if c != d.textColumn || d.textColumn == "" {
			continue
		}
		switch v := row.Values[i].(type) {
		case string:
			text, isNull = v, false
		case nil:
		default:
			return buf, &Error{Op: "read", Object: fmt.Sprintf("%s, row %d, column %s", path, n, strconv.Quote(c)), Found: kindOf(v), Wanted: "text", Kind: ErrColumn,
				Next: "name another column in TextColumn, or turn this one into text first"}
		}
		rest.Columns = slices.Delete(slices.Clone(row.Columns), i, i+1)
		rest.Values = slices.Delete(slices.Clone(row.Values), i, i+1)
		break
	}
	if isNull {
		d.null = append(d.null, n)
	}
	buf = appendJSON(buf[:0], rest)
	d.texts = append(d.texts, text)
	d.rest = append(d.rest, string(buf))
	d.bytes += int64(len(text) + len(buf))
	if d.bytes > d.max {
		return buf, d.tooLarge(path)
	}
	return buf, nil
}

func (d *Dataset) tooLarge(path string) error {
	n := len(d.rest)
	return &Error{Op: "read", Object: fmt.Sprintf("%s, row %d", path, n), Found: fmt.Sprintf("rows of more than %d MB", d.max/1e6), Wanted: "rows that fit into memory", Kind: ErrTooLarge,
		Next: fmt.Sprintf("take a slice, such as train[:%d]", max(1, n/2))}
}

// checkColumns reports an empty data set and a missing text column.
func (d *Dataset) checkColumns(spec Spec) error {
	object := spec.Source + " [" + spec.Split + "]"
	if len(d.rest) == 0 {
		return &Error{Op: "read", Object: object, Found: fmt.Sprintf("no row in %d files (%s)", len(d.Files), names(d.Files)), Wanted: "at least one", Kind: ErrEmpty,
			Next: "check the split and the file"}
	}
	if d.textColumn != "" && !slices.Contains(d.columns, d.textColumn) {
		return &Error{Op: "read", Object: object, Found: "the columns " + names(d.columns), Wanted: "a column " + strconv.Quote(d.textColumn), Kind: ErrColumn,
			Next: "set TextColumn to the one that holds the training text"}
	}
	return nil
}

// Columns returns the names of all columns in the file's order.
func (d *Dataset) Columns() []string { return slices.Clone(d.columns) }

// TextColumn is the name of the column that Text reads, or "".
func (d *Dataset) TextColumn() string { return d.textColumn }

// Len is the number of rows.
func (d *Dataset) Len() int { return len(d.rest) }

// Bytes is the size of all rows in memory, texts and other columns.
func (d *Dataset) Bytes() int64 { return d.bytes }

// Text returns the text of row i, "" when it is null.
func (d *Dataset) Text(i int) string { return d.texts[i] }

// Texts returns the texts of all rows; don't change the slice.
func (d *Dataset) Texts() []string { return d.texts }

// NullTexts returns the numbers of the rows whose text is null, ascending from 0.
func (d *Dataset) NullTexts() []int { return slices.Clone(d.null) }

// CheckText is nil when every row has a text, and else an ErrNullText that says
// how many rows have none and which are the first.
func (d *Dataset) CheckText() error {
	if len(d.null) == 0 {
		return nil
	}
	var first []string
	for _, i := range d.null[:min(10, len(d.null))] {
		first = append(first, strconv.Itoa(i))
	}
	list := strings.Join(first, ", ")
	if len(d.null) > len(first) {
		list += ", …"
	}
	return &Error{Op: "read", Object: "column " + strconv.Quote(d.textColumn), Found: fmt.Sprintf("no text in %d of %d rows (rows %s)", len(d.null), d.Len(), list), Wanted: "a text in every row",
		Kind: ErrNullText, Next: "remove or fill those rows; an empty field of a CSV file counts as no text"}
}

// WithoutNull returns the data set without the rows whose text is null.
func (d *Dataset) WithoutNull() *Dataset {
	if len(d.null) == 0 {
		return d
	}
	out := &Dataset{Files: d.Files, Revision: d.Revision, textColumn: d.textColumn, columns: d.columns}
	next := 0
	for i := range d.rest {
		if next < len(d.null) && d.null[next] == i {
			next++
			continue
		}
		out.rest, out.texts = append(out.rest, d.rest[i]), append(out.texts, d.texts[i])
		out.bytes += int64(len(d.rest[i]) + len(d.texts[i]))
	}
	return out
}

// Row returns row i with every column of the data set; a column that the row
// doesn't have is null.
func (d *Dataset) Row(i int) Row {
	var rest Row
	if v, err := decodeJSON([]byte(d.rest[i])); err == nil { // always: appendJSON wrote it
		rest, _ = v.(Row)
	}
	byName := make(map[string]any, len(rest.Columns))
	for j, c := range rest.Columns {
		byName[c] = rest.Values[j]
	}
	out := Row{Columns: d.Columns(), Values: make([]any, len(d.columns))}
	_, null := slices.BinarySearch(d.null, i)
	for j, c := range out.Columns {
		if c == d.textColumn && c != "" {
			if !null {
				out.Values[j] = d.texts[i]
			}
			continue
		}
		out.Values[j] = byName[c]
	}
	return out
}
