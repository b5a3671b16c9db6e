package jinja

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
)

// filterToJSON is json.dumps(v, ensure_ascii=False, indent, separators, sort_keys).
func filterToJSON(r *renderer, v Value, a args) Value {
	w := jsonWriter{r: r, item: ", ", key: ": ", line: a.line}
	w.ascii = truth(a.get(0, "ensure_ascii", false))
	w.sort = truth(a.get(3, "sort_keys", false))
	switch in := a.get(1, "indent", nil).(type) {
	case nil:
	case string:
		w.indent, w.lines = in, true
	default:
		n := max(0, min(a.integer(1, "indent", 0), 1000))
		w.indent, w.lines = strings.Repeat(" ", int(n)), true
	}
	if w.lines {
		w.item = ","
	}
	if sep := a.get(2, "separators", nil); sep != nil {
		parts := r.iterate(sep, a.line)
		if len(parts) != 2 {
			fail("ValueError", a.line, "separators must be two texts")
		}
		w.item, w.key = str(parts[0]), str(parts[1])
	}
	w.write(v, 0)
	r.charge(w.b.Len())
	return w.b.String()
}

type jsonWriter struct {
	r         *renderer
	b         strings.Builder
	item, key string // separators
	indent    string
	lines     bool // each element on a line of its own
	ascii     bool
	sort      bool
	line      int
}

func (w *jsonWriter) newline(depth int) {
	if w.lines {
		w.r.charge(len(w.indent)*depth + 1)
		w.b.WriteString("\n" + strings.Repeat(w.indent, depth))
	}
}

func (w *jsonWriter) write(v Value, depth int) {
	w.r.step()
	if depth > maxValueDepth {
		fail("RecursionError", w.line, "maximum recursion depth exceeded while encoding a JSON object")
	}
	switch v := v.(type) {
	case nil:
		w.b.WriteString("null")
	case bool:
		w.b.WriteString(strconv.FormatBool(v))
	case int64:
		w.b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		w.b.WriteString(jsonFloat(v))
	case string:
		w.text(v)
	case *List:
		w.list(v.Items, depth)
	case Tuple:
		w.list(v, depth)
	case *Dict:
		w.dict(v, depth)
	default:
		fail("TypeError", w.line, "Object of type %s is not JSON serializable", typeName(v))
	}
}

func jsonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return floatRepr(f)
}

func (w *jsonWriter) list(items []Value, depth int) {
	if len(items) == 0 {
		w.b.WriteString("[]")
		return
	}
	w.b.WriteByte('[')
	for i, e := range items {
		if i > 0 {
			w.b.WriteString(w.item)
		}
		w.newline(depth + 1)
		w.write(e, depth+1)
	}
	w.newline(depth)
	w.b.WriteByte(']')
}

func (w *jsonWriter) dict(d *Dict, depth int) {
	if d.Len() == 0 {
		w.b.WriteString("{}")
		return
	}
	keys := d.keys
	if w.sort {
		keys = w.r.sorted(keys, func(k Value) Value { return k }, false, w.line)
	}
	w.b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			w.b.WriteString(w.item)
		}
		w.newline(depth + 1)
		switch k := k.(type) {
		case string:
			w.text(k)
		case nil, bool, int64, float64:
			w.b.WriteByte('"')
			w.write(k, depth+1)
			w.b.WriteByte('"')
		default:
			fail("TypeError", w.line, "keys must be str, int, float, bool or None, not %s", typeName(k))
		}
		w.b.WriteString(w.key)
		v, _ := d.get(k)
		w.write(v, depth+1)
	}
	w.newline(depth)
	w.b.WriteByte('}')
}

func (w *jsonWriter) text(s string) {
	w.r.charge(len(s))
	w.b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			w.b.WriteByte('\\')
			w.b.WriteRune(c)
		case c == '\n':
			w.b.WriteString(`\n`)
		case c == '\r':
			w.b.WriteString(`\r`)
		case c == '\t':
			w.b.WriteString(`\t`)
		case c == '\f':
			w.b.WriteString(`\f`)
		case c == '\b':
			w.b.WriteString(`\b`)
		case c < ' ' || w.ascii && c > '~' && c < 0x10000:
			w.b.WriteString(`\u` + hex(c, 4))
		case w.ascii && c >= 0x10000:
			hi, lo := utf16.EncodeRune(c)
			w.b.WriteString(`\u` + hex(hi, 4) + `\u` + hex(lo, 4))
		default:
			w.b.WriteRune(c)
		}
	}
	w.b.WriteByte('"')
}

// FromJSON reads a JSON text into a Value, keeping the order of keys. Numbers
// without a point or exponent are integers, if they fit in 64 bits.
func FromJSON(data []byte) (Value, error) {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	v, err := readJSON(d, 0)
	if err != nil {
		return nil, fmt.Errorf("jinja: not JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("jinja: not JSON: text behind the value")
	}
	return v, nil
}

func readJSON(d *json.Decoder, depth int) (Value, error) {
	if depth > maxValueDepth {
		return nil, fmt.Errorf("nested more than %d deep", maxValueDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
			return n, nil
		}
		return t.Float64()
	case json.Delim:
		if t == '[' {
			l := &List{}
			for d.More() {
				v, err := readJSON(d, depth+1)
				if err != nil {
					return nil, err
				}
				l.Items = append(l.Items, v)
			}
			_, err := d.Token()
			return l, err
		}
		o := NewDict()
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := readJSON(d, depth+1)
			if err != nil {
				return nil, err
			}
			key, _ := k.(string)
			o.Set(key, v)
		}
		_, err := d.Token()
		return o, err
	}
	return t, nil // nil, bool, string
}
