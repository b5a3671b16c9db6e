package dataset

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"unicode/utf8"
)

// textRows reads a row a line into the column "text", as datasets does.
type textRows struct {
	*plainFile
	b    *bufio.Reader
	line int
}

func openText(f *os.File, path string, size int64) (rows, error) {
	p, err := newPlainFile(f, path, size)
	if err != nil {
		return nil, err
	}
	return &textRows{plainFile: p, b: bufio.NewReaderSize(p.r, 1<<18)}, nil
}

func (r *textRows) columns() []string { return []string{DefaultTextColumn} }

func (r *textRows) next() (Row, error) {
	r.line++
	var line []byte
	for {
		part, err := r.b.ReadSlice('\n')
		line = append(line, part...)
		if err == nil || (err == io.EOF && len(line) > 0) {
			break
		}
		if err == io.EOF {
			return Row{}, err
		}
		object := fmt.Sprintf("%s, line %d", r.path, r.line)
		if err != bufio.ErrBufferFull {
			return Row{}, r.readError(err, object)
		}
		if len(line) > maxRow {
			return Row{}, &Error{Op: "read", Object: object, Found: fmt.Sprintf("a line of more than %d MiB", maxRow>>20), Kind: ErrTooLarge, Next: "break the line"}
		}
	}
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
		if n > 1 && line[n-2] == '\r' {
			line = line[:n-2]
		}
	}
	if !utf8.Valid(line) {
		return Row{}, corrupt(fmt.Sprintf("%s, line %d", r.path, r.line), "text that is not UTF-8", "UTF-8")
	}
	return Row{Columns: r.columns(), Values: []any{string(line)}}, nil
}
