package dataset

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

// csvRows reads comma or tab separated values as pandas.read_csv does with its
// defaults, which is what datasets uses: the types of the columns come from all
// their values (so the file is read twice), and an empty field is null.
type csvRows struct {
	*plainFile
	scan  *csvScanner
	names []string
	kinds []csvKind
	nulls []bool // per column: some field is missing
	row   int
}

// A csvKind is the type of a column; a larger one holds the values of a smaller.
type csvKind int

const (
	csvUnknown csvKind = iota // only nulls so far
	csvBool
	csvInt
	csvFloat
	csvString
)

// csvNull are the fields that pandas takes for a missing value.
var csvNull = map[string]bool{
	"": true, "#N/A": true, "#N/A N/A": true, "#NA": true, "-1.#IND": true, "-1.#QNAN": true, "-NaN": true, "-nan": true, "1.#IND": true, "1.#QNAN": true,
	"<NA>": true, "N/A": true, "NA": true, "NULL": true, "NaN": true, "None": true, "n/a": true, "nan": true, "null": true,
}

var csvBools = map[string]bool{"True": true, "TRUE": true, "true": true, "False": false, "FALSE": false, "false": false}

func openCSV(f *os.File, path string, size int64) (rows, error) {
	p, err := newPlainFile(f, path, size)
	if err != nil {
		return nil, err
	}
	r := &csvRows{plainFile: p}
	if err := r.header(); err == io.EOF {
		return r, nil
	} else if err != nil {
		return nil, err
	}
	r.kinds, r.nulls = make([]csvKind, len(r.names)), make([]bool, len(r.names))
	for {
		fields, err := r.record()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		for i := range r.names {
			if i >= len(fields) || csvNull[string(fields[i])] {
				r.nulls[i] = true
				continue
			}
			r.kinds[i] = widen(r.kinds[i], fields[i])
		}
		r.row++
	}
	for i, k := range r.kinds {
		if k == csvInt && r.nulls[i] {
			r.kinds[i] = csvFloat // pandas has no missing integer
		}
	}
	if err := r.rewind(); err != nil {
		return nil, err
	}
	r.row = 0
	return r, r.header()
}

// header reads the first record: the names of the columns.
func (r *csvRows) header() error {
	sep := byte(',')
	if strings.HasSuffix(strings.TrimSuffix(strings.ToLower(r.path), ".gz"), ".tsv") {
		sep = '\t'
	}
	r.scan = &csvScanner{b: bufio.NewReaderSize(r.r, 1<<18), sep: sep, line: 1}
	if head, _ := r.scan.b.Peek(3); bytes.Equal(head, []byte("\ufeff")) {
		r.scan.b.Discard(3)
	}
	fields, err := r.scan.record()
	if err != nil {
		return r.explain(err)
	}
	r.names = nil
	seen := map[string]int{}
	for i, n := range fields {
		name := string(n)
		if name == "" {
			name = fmt.Sprintf("Unnamed: %d", i)
		}
		base := name
		for seen[name] > 0 { // pandas: a, a.1, a.2
			name = fmt.Sprintf("%s.%d", base, seen[base])
			seen[base]++
		}
		seen[name]++
		r.names = append(r.names, name)
	}
	return nil
}

func (r *csvRows) explain(err error) error {
	if err == io.EOF {
		return err
	}
	object := fmt.Sprintf("%s, row %d, line %d", r.path, r.row, r.scan.line)
	if e, ok := err.(*csvError); ok {
		return corrupt(object, e.found, e.wanted)
	}
	return r.readError(err, object)
}

// record reads one record and checks its width.
func (r *csvRows) record() ([][]byte, error) {
	fields, err := r.scan.record()
	if err != nil {
		return nil, r.explain(err)
	}
	if len(fields) > len(r.names) {
		return nil, corrupt(fmt.Sprintf("%s, row %d, line %d", r.path, r.row, r.scan.line), fmt.Sprintf("%d fields", len(fields)), fmt.Sprintf("%d, as the header has", len(r.names)))
	}
	return fields, nil
}

func (r *csvRows) columns() []string { return r.names }

func (r *csvRows) next() (Row, error) {
	if r.names == nil {
		return Row{}, io.EOF
	}
	fields, err := r.record()
	if err != nil {
		return Row{}, err
	}
	row := Row{Columns: r.names, Values: make([]any, len(r.names))}
	for i, f := range fields {
		if !utf8.Valid(f) {
			return Row{}, corrupt(fmt.Sprintf("%s, row %d, line %d", r.path, r.row, r.scan.line), "text that is not UTF-8", "UTF-8")
		}
		row.Values[i] = csvValue(string(f), r.kinds[i])
	}
	r.row++
	return row, nil
}

// widen is the kind that also holds the field b, which is not null.
func widen(k csvKind, b []byte) csvKind {
	if k == csvString {
		return k
	}
	v := string(b)
	is := csvString
	if _, ok := csvBools[v]; ok {
		is = csvBool
	} else if _, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
		is = csvInt
	} else if isDecimal(v) {
		is = csvFloat
	}
	switch {
	case k == csvUnknown || k == is:
		return is
	case (k == csvInt && is == csvFloat) || (k == csvFloat && is == csvInt):
		return csvFloat
	}
	return csvString
}

// isDecimal reports whether v is a number as pandas reads it: no hexadecimal
// digits and no underscores.
func isDecimal(v string) bool {
	v = strings.TrimSpace(v)
	if strings.ContainsAny(v, "xX_pP") {
		return false
	}
	_, err := strconv.ParseFloat(v, 64)
	return err == nil
}

func csvValue(v string, k csvKind) any {
	if csvNull[v] {
		return nil
	}
	switch k {
	case csvBool:
		return csvBools[v]
	case csvInt:
		if i, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
			return i
		}
	case csvFloat:
		if f, err := strconv.ParseFloat(strings.TrimSpace(v), 64); err == nil {
			return f
		}
	}
	return v
}

// A csvError is a record that is not CSV.
type csvError struct{ found, wanted string }

func (e *csvError) Error() string { return e.found }

// A csvScanner cuts a stream into records (RFC 4180): quoted fields keep their
// line ends as they are. Blank lines are skipped.
type csvScanner struct {
	b    *bufio.Reader
	sep  byte
	line int
	data []byte // the fields of the record, one after another
	ends []int
}

// record returns the fields of the next record; they are valid until the next call.
func (s *csvScanner) record() ([][]byte, error) {
	for {
		blank, err := s.read()
		if err != nil {
			return nil, err
		}
		if !blank {
			break
		}
	}
	fields := make([][]byte, len(s.ends))
	start := 0
	for i, end := range s.ends {
		fields[i] = s.data[start:end]
		start = end
	}
	return fields, nil
}

// read fills data and ends with one line's record.
func (s *csvScanner) read() (blank bool, err error) {
	s.data, s.ends = s.data[:0], s.ends[:0]
	started := false  // the field has a character; a quote is then one like any other
	anything := false // the record has one
	end := func() { s.ends = append(s.ends, len(s.data)); started = false }
	for {
		c, err := s.b.ReadByte()
		if err == io.EOF {
			if !anything {
				return false, io.EOF
			}
			end()
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if len(s.data) > maxRow {
			return false, &csvError{fmt.Sprintf("a row of more than %d MiB", maxRow>>20), "a closing quote, or shorter rows"}
		}
		switch {
		case c == '"' && !started:
			anything, started = true, true
			if err := s.quoted(); err != nil {
				return false, err
			}
		case c == s.sep:
			anything = true
			end()
		case c == '\r' || c == '\n':
			if c == '\r' {
				if nc, err := s.b.Peek(1); err == nil && nc[0] == '\n' {
					s.b.Discard(1)
				}
			}
			s.line++
			if !anything {
				return true, nil
			}
			end()
			return false, nil
		default:
			anything, started = true, true
			s.data = append(s.data, c)
		}
	}
}

// quoted reads up to the closing quote; a doubled quote is one.
func (s *csvScanner) quoted() error {
	for {
		c, err := s.b.ReadByte()
		if err == io.EOF {
			return &csvError{"the file ends inside a quoted field", "a closing quote"}
		}
		if err != nil {
			return err
		}
		if c == '\n' {
			s.line++
		}
		if c == '"' {
			nc, err := s.b.Peek(1)
			if err != nil || nc[0] != '"' {
				return nil
			}
			s.b.Discard(1)
		}
		if len(s.data) > maxRow {
			return &csvError{fmt.Sprintf("a field of more than %d MiB", maxRow>>20), "a closing quote"}
		}
		s.data = append(s.data, c)
	}
}
