package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of values in every format.
const maxDepth = 200

// decodeJSON reads one JSON value that fills b, keeping the order of an object's
// keys; of a key that comes twice the last value counts. NaN, Infinity and
// -Infinity are accepted as Python writes them. An integer beyond int64 becomes
// a float64.
func decodeJSON(b []byte) (any, error) {
	d := jsonDecoder{b: b}
	v, err := d.value(0)
	if err != nil {
		return nil, err
	}
	d.space()
	if d.pos != len(d.b) {
		return nil, d.bad("text after the value")
	}
	return v, nil
}

type jsonDecoder struct {
	b   []byte
	pos int
}

func (d *jsonDecoder) bad(what string) error {
	if d.pos >= len(d.b) {
		return errors.New("it ends in the middle of a value")
	}
	return fmt.Errorf("%s at byte %d", what, d.pos+1)
}

func (d *jsonDecoder) space() {
	for d.pos < len(d.b) {
		switch d.b[d.pos] {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return
		}
	}
}

func (d *jsonDecoder) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("values nested more than %d deep", maxDepth)
	}
	d.space()
	if d.pos >= len(d.b) {
		return nil, d.bad("")
	}
	switch c := d.b[d.pos]; {
	case c == '{':
		return d.object(depth)
	case c == '[':
		return d.array(depth)
	case c == '"':
		return d.str()
	case c == '-' || (c >= '0' && c <= '9'):
		return d.number()
	}
	for _, w := range []struct {
		word string
		v    any
	}{{"null", nil}, {"true", true}, {"false", false}, {"NaN", math.NaN()}, {"Infinity", math.Inf(1)}} {
		if bytes.HasPrefix(d.b[d.pos:], []byte(w.word)) {
			d.pos += len(w.word)
			return w.v, nil
		}
	}
	return nil, d.bad("no JSON value")
}

func (d *jsonDecoder) object(depth int) (any, error) {
	d.pos++
	var r Row
	var index map[string]int // made for wide objects only
	d.space()
	if d.pos < len(d.b) && d.b[d.pos] == '}' {
		d.pos++
		return Row{Columns: []string{}, Values: []any{}}, nil
	}
	for {
		d.space()
		if d.pos >= len(d.b) || d.b[d.pos] != '"' {
			return nil, d.bad("no key")
		}
		k, err := d.str()
		if err != nil {
			return nil, err
		}
		d.space()
		if d.pos >= len(d.b) || d.b[d.pos] != ':' {
			return nil, d.bad("no colon")
		}
		d.pos++
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		r, index = r.set(k, v, index)
		d.space()
		if d.pos < len(d.b) && d.b[d.pos] == ',' {
			d.pos++
			continue
		}
		if d.pos < len(d.b) && d.b[d.pos] == '}' {
			d.pos++
			return r, nil
		}
		return nil, d.bad("no comma or closing brace")
	}
}

// set adds a column or replaces its value.
func (r Row) set(k string, v any, index map[string]int) (Row, map[string]int) {
	if index == nil && len(r.Columns) >= 16 {
		index = make(map[string]int, 32)
		for i, c := range r.Columns {
			index[c] = i
		}
	}
	at := -1
	if index != nil {
		if i, ok := index[k]; ok {
			at = i
		} else {
			index[k] = len(r.Columns)
		}
	} else {
		for i, c := range r.Columns {
			if c == k {
				at = i
			}
		}
	}
	if at >= 0 {
		r.Values[at] = v
		return r, index
	}
	r.Columns, r.Values = append(r.Columns, k), append(r.Values, v)
	return r, index
}

func (d *jsonDecoder) array(depth int) (any, error) {
	d.pos++
	out := []any{}
	d.space()
	if d.pos < len(d.b) && d.b[d.pos] == ']' {
		d.pos++
		return out, nil
	}
	for {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		d.space()
		if d.pos < len(d.b) && d.b[d.pos] == ',' {
			d.pos++
			continue
		}
		if d.pos < len(d.b) && d.b[d.pos] == ']' {
			d.pos++
			return out, nil
		}
		return nil, d.bad("no comma or closing bracket")
	}
}

// str reads a string; a lone surrogate escape becomes U+FFFD.
func (d *jsonDecoder) str() (string, error) {
	d.pos++
	start := d.pos
	for d.pos < len(d.b) { // the common case: no escape
		c := d.b[d.pos]
		if c == '"' {
			s := d.b[start:d.pos]
			if !utf8.Valid(s) {
				d.pos = start
				return "", d.bad("a string that is not UTF-8")
			}
			d.pos++
			return string(s), nil
		}
		if c == '\\' || c < ' ' {
			break
		}
		d.pos++
	}
	out := append([]byte(nil), d.b[start:d.pos]...)
	for d.pos < len(d.b) {
		c := d.b[d.pos]
		switch {
		case c == '"':
			if !utf8.Valid(out) {
				return "", d.bad("a string that is not UTF-8")
			}
			d.pos++
			return string(out), nil
		case c < ' ':
			return "", d.bad("a control character in a string")
		case c != '\\':
			out = append(out, c)
			d.pos++
		default:
			var err error
			if out, err = d.escape(out); err != nil {
				return "", err
			}
		}
	}
	return "", d.bad("")
}

func (d *jsonDecoder) escape(out []byte) ([]byte, error) {
	d.pos++
	if d.pos >= len(d.b) {
		return nil, d.bad("")
	}
	c := d.b[d.pos]
	d.pos++
	switch c {
	case '"', '\\', '/':
		return append(out, c), nil
	case 'b':
		return append(out, '\b'), nil
	case 'f':
		return append(out, '\f'), nil
	case 'n':
		return append(out, '\n'), nil
	case 'r':
		return append(out, '\r'), nil
	case 't':
		return append(out, '\t'), nil
	case 'u':
		r, ok := d.hex4()
		if !ok {
			return nil, d.bad(`\u without four hexadecimal digits`)
		}
		if utf16.IsSurrogate(r) {
			if d.pos+1 < len(d.b) && d.b[d.pos] == '\\' && d.b[d.pos+1] == 'u' {
				save := d.pos
				d.pos += 2
				if low, ok := d.hex4(); ok {
					if full := utf16.DecodeRune(r, low); full != utf8.RuneError {
						return utf8.AppendRune(out, full), nil
					}
				}
				d.pos = save
			}
			r = utf8.RuneError
		}
		return utf8.AppendRune(out, r), nil
	}
	d.pos--
	return nil, d.bad("an unknown escape")
}

func (d *jsonDecoder) hex4() (rune, bool) {
	if d.pos+4 > len(d.b) {
		return 0, false
	}
	var r rune
	for _, c := range d.b[d.pos : d.pos+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	d.pos += 4
	return r, true
}

func (d *jsonDecoder) number() (any, error) {
	start := d.pos
	if d.b[d.pos] == '-' {
		d.pos++
		if bytes.HasPrefix(d.b[d.pos:], []byte("Infinity")) {
			d.pos += len("Infinity")
			return math.Inf(-1), nil
		}
	}
	digits := func() int {
		n := 0
		for d.pos < len(d.b) && d.b[d.pos] >= '0' && d.b[d.pos] <= '9' {
			d.pos++
			n++
		}
		return n
	}
	first := d.pos
	if n := digits(); n == 0 || (n > 1 && d.b[first] == '0') {
		return nil, d.bad("no number")
	}
	isInt := true
	if d.pos < len(d.b) && d.b[d.pos] == '.' {
		isInt = false
		d.pos++
		if digits() == 0 {
			return nil, d.bad("no digits after the point")
		}
	}
	if d.pos < len(d.b) && (d.b[d.pos] == 'e' || d.b[d.pos] == 'E') {
		isInt = false
		d.pos++
		if d.pos < len(d.b) && (d.b[d.pos] == '+' || d.b[d.pos] == '-') {
			d.pos++
		}
		if digits() == 0 {
			return nil, d.bad("no digits in the exponent")
		}
	}
	text := string(d.b[start:d.pos])
	if isInt {
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			return i, nil
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return nil, err
	}
	return f, nil
}
