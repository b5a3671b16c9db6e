package dataset

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
)

// maxRow bounds the bytes of one row of a text format.
const maxRow = 256 << 20

// jsonRows reads objects one after another, a line each (JSON lines) or as the
// elements of one array.
type jsonRows struct {
	*plainFile
	b     *bufio.Reader
	array bool
	ended bool // the array's bracket has been read
	row   int
	line  int
	buf   []byte
}

func openJSON(f *os.File, path string, size int64) (rows, error) {
	p, err := newPlainFile(f, path, size)
	if err != nil {
		return nil, err
	}
	r := &jsonRows{plainFile: p, b: bufio.NewReaderSize(p.r, 1<<18), line: 1}
	if head, _ := r.b.Peek(3); bytes.Equal(head, []byte("\ufeff")) {
		r.b.Discard(3)
	}
	c, err := r.skip()
	if err == io.EOF {
		return r, nil
	}
	if err != nil {
		return nil, r.readError(err, path)
	}
	switch c {
	case '[':
		r.b.Discard(1)
		r.array = true
	case '{':
	default:
		return nil, corrupt(path, fmt.Sprintf("the first character %q", c), "an object a line, or an array of objects")
	}
	return r, nil
}

// skip goes to the next byte that is no white space and returns it unread.
func (r *jsonRows) skip() (byte, error) {
	for {
		c, err := r.b.ReadByte()
		if err != nil {
			return 0, err
		}
		switch c {
		case '\n':
			r.line++
		case ' ', '\t', '\r':
		default:
			return c, r.b.UnreadByte()
		}
	}
}

func (r *jsonRows) columns() []string { return nil }

func (r *jsonRows) object() string { return fmt.Sprintf("%s, row %d, line %d", r.path, r.row, r.line) }

func (r *jsonRows) next() (Row, error) {
	c, err := r.skip()
	if err == io.EOF {
		if r.array && !r.ended {
			return Row{}, corrupt(r.object(), "the file ends inside the array", "a closing bracket")
		}
		return Row{}, io.EOF
	}
	if err != nil {
		return Row{}, r.readError(err, r.object())
	}
	if r.array {
		done, err := r.separator(c)
		if err != nil || done {
			return Row{}, orEOF(err)
		}
	}
	line := r.line
	if err := r.element(); err != nil {
		return Row{}, err
	}
	v, err := decodeJSON(r.buf)
	if err != nil {
		return Row{}, corrupt(fmt.Sprintf("%s, row %d, line %d", r.path, r.row, line), err.Error(), "a JSON object")
	}
	row, ok := v.(Row)
	if !ok {
		return Row{}, corrupt(r.object(), kindOf(v), "an object: the columns by name")
	}
	r.row++
	return row, nil
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// separator handles what stands between the elements of the array.
func (r *jsonRows) separator(c byte) (done bool, err error) {
	if r.ended {
		return false, corrupt(r.object(), "text after the array", "the end of the file")
	}
	if c == ']' {
		r.b.Discard(1)
		r.ended = true
		if _, err := r.skip(); err != io.EOF {
			if err != nil {
				return false, r.readError(err, r.object())
			}
			return false, corrupt(r.object(), "text after the array", "the end of the file")
		}
		return true, nil
	}
	if r.row > 0 {
		if c != ',' {
			return false, corrupt(r.object(), fmt.Sprintf("the character %q", c), "a comma or the array's end")
		}
		r.b.Discard(1)
		if _, err := r.skip(); err != nil {
			if err == io.EOF {
				return false, corrupt(r.object(), "the file ends inside the array", "a closing bracket")
			}
			return false, r.readError(err, r.object())
		}
	}
	return false, nil
}

// element copies one balanced value into buf. Its grammar is checked later.
func (r *jsonRows) element() error {
	r.buf = r.buf[:0]
	depth, inString, escaped := 0, false, false
	for {
		c, err := r.b.ReadByte()
		if err == io.EOF {
			if depth > 0 || inString {
				return corrupt(r.object(), "the file ends in the middle of a row", "a whole JSON object")
			}
			return nil
		}
		if err != nil {
			return r.readError(err, r.object())
		}
		if len(r.buf) >= maxRow {
			return &Error{Op: "read", Object: r.object(), Found: fmt.Sprintf("a row of more than %d MiB", maxRow>>20), Kind: ErrTooLarge, Next: "cut the row into several"}
		}
		if depth == 0 && !inString && len(r.buf) > 0 && (c == ',' || c == ']') {
			return r.b.UnreadByte() // a number or a word in an array
		}
		r.buf = append(r.buf, c)
		switch {
		case inString:
			switch {
			case escaped:
				escaped = false
			case c == '\\':
				escaped = true
			case c == '"':
				if inString = false; depth == 0 {
					return nil
				}
			case c == '\n':
				return corrupt(r.object(), "the line ends inside a string", "a whole JSON object on the line")
			}
			continue
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == '\n':
			r.line++
		}
		if depth == 0 && (c == '}' || c == ']' || c == '\n') {
			return nil
		}
		if depth < 0 {
			return corrupt(r.object(), fmt.Sprintf("a stray %q", c), "a JSON object")
		}
	}
}
