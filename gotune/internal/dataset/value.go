package dataset

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// A Row is one row, or one nested struct, with its columns in the file's order.
// A value is nil, bool, int64, float64, string, []any or Row. Times are ISO 8601
// texts, decimals are digits in a text, and bytes that are no text are base64.
type Row struct {
	Columns []string
	Values  []any
}

// Get returns the value of the named column.
func (r Row) Get(name string) (any, bool) {
	for i, c := range r.Columns {
		if c == name {
			return r.Values[i], true
		}
	}
	return nil, false
}

// MarshalJSON writes the row as an object in column order.
func (r Row) MarshalJSON() ([]byte, error) { return appendJSON(nil, r), nil }

// String is the row as JSON.
func (r Row) String() string { return string(appendJSON(nil, r)) }

// appendJSON writes a value so that decodeJSON gives the same one back: integers
// and floats stay apart, NaN and Infinity are written as Python does.
func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case float64:
		return appendFloat(b, v)
	case string:
		return appendString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, e)
		}
		return append(b, ']')
	case Row:
		b = append(b, '{')
		for i, e := range v.Values {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, v.Columns[i]), ':')
			b = appendJSON(b, e)
		}
		return append(b, '}')
	}
	return appendString(b, fmt.Sprint(v))
}

func appendFloat(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, "NaN"...)
	case math.IsInf(f, 1):
		return append(b, "Infinity"...)
	case math.IsInf(f, -1):
		return append(b, "-Infinity"...)
	}
	start := len(b)
	b = strconv.AppendFloat(b, f, 'g', -1, 64)
	for _, c := range b[start:] {
		if c == '.' || c == 'e' {
			return b
		}
	}
	return append(b, ".0"...)
}

func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(b, s[start:]...), '"')
}

// sizeOf is about the length of a value as JSON. A text that a dictionary has
// once and a row many times counts every time.
func sizeOf(v any) int64 {
	switch v := v.(type) {
	case string:
		return int64(len(v)) + 2
	case []any:
		n := int64(2)
		for _, e := range v {
			n += sizeOf(e) + 1
		}
		return n
	case Row:
		n := int64(2)
		for i, e := range v.Values {
			n += int64(len(v.Columns[i])) + 4 + sizeOf(e)
		}
		return n
	}
	return 8
}

// bytesValue is a column value of bytes: a text where it is one.
func bytesValue(b []byte) any {
	if utf8.Valid(b) {
		return string(b)
	}
	return base64.StdEncoding.EncodeToString(b)
}

// kindOf names a value's type for messages.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a truth value"
	case int64:
		return "an integer"
	case float64:
		return "a number"
	case string:
		return "text"
	case []any:
		return "a list"
	case Row:
		return "a struct"
	}
	return fmt.Sprintf("%T", v)
}
