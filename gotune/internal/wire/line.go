package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// MaxLine is the largest line that is read or written, in bytes.
const MaxLine = 64 << 20

// A Reader reads lines of JSON.
type Reader struct {
	b   *bufio.Reader
	max int
}

// NewReader returns a Reader of r that refuses lines of more than MaxLine bytes.
func NewReader(r io.Reader) *Reader {
	return &Reader{b: bufio.NewReaderSize(r, 64<<10), max: MaxLine}
}

// Line returns the next line without its end. Empty lines are passed over. At
// the end of the stream it returns io.EOF, or io.ErrUnexpectedEOF in the middle
// of a line.
func (r *Reader) Line() ([]byte, error) {
	for {
		line, err := r.line()
		if err != nil {
			return nil, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return line, nil
		}
	}
}

func (r *Reader) line() ([]byte, error) {
	var line []byte
	for {
		part, err := r.b.ReadSlice('\n')
		if len(line)+len(part) > r.max {
			return nil, fmt.Errorf("wire: a line of more than %d MiB: the peer does not speak this protocol", r.max>>20)
		}
		line = append(line, part...)
		switch err {
		case nil:
			return line, nil
		case bufio.ErrBufferFull:
			continue
		case io.EOF:
			if len(bytes.TrimSpace(line)) > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, io.EOF
		default:
			return nil, err
		}
	}
}

// Request reads a request line. The version is checked by the server, not here.
func (r *Reader) Request() (*Request, error) {
	var q Request
	if err := r.decode(&q); err != nil {
		return nil, err
	}
	if q.Verb == "" {
		return nil, fmt.Errorf("wire: a request without a verb")
	}
	return &q, nil
}

// Message reads a message line. It has exactly one of Event, Reply and Error.
func (r *Reader) Message() (*Message, error) {
	var m Message
	if err := r.decode(&m); err != nil {
		return nil, err
	}
	n := 0
	for _, has := range []bool{m.Event != "", m.Reply != nil, m.Error != nil} {
		if has {
			n++
		}
	}
	if n != 1 {
		return nil, fmt.Errorf("wire: a message must be one of event, reply and error, and has %d of them", n)
	}
	return &m, nil
}

func (r *Reader) decode(v any) error {
	line, err := r.Line()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		if len(line) > 60 {
			line = append(line[:60:60], "…"...)
		}
		return fmt.Errorf("wire: the line %q is not a message: %w", line, err)
	}
	return nil
}

// writeLine writes v as one line in one Write.
func writeLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("wire: encode %T: %w", v, err)
	}
	if len(b) >= MaxLine {
		return fmt.Errorf("wire: a message of %d MiB is over the limit of %d MiB: ask for less at a time", len(b)>>20, MaxLine>>20)
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Marshal is json.Marshal for arguments, replies and event data.
func Marshal(v any) (json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("wire: encode %T: %w", v, err)
	}
	return b, nil
}
