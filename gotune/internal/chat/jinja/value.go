package jinja

import (
	"sort"
	"strconv"
	"strings"
	"unicode"
)

// A Value is what template expressions are made of: nil (None), bool, int64,
// float64, string, [Undefined], *[List], Tuple, *[Dict], or a callable.
type Value any

// Undefined is the value of a name or attribute that does not exist. It prints as
// nothing and is false; most other uses of it are errors.
type Undefined struct{ hint string }

// List is a Python list; templates can't change it.
type List struct{ Items []Value }

// Tuple is a Python tuple.
type Tuple []Value

// Dict is a Python dictionary: it keeps the order of insertion.
type Dict struct {
	keys []Value
	m    map[Value]Value // by hashKey
}

// NewDict returns an empty dictionary.
func NewDict() *Dict { return &Dict{m: map[Value]Value{}} }

// Set adds or changes an entry.
func (d *Dict) Set(key string, v Value) { d.set(key, v) }

// Get returns an entry.
func (d *Dict) Get(key string) (Value, bool) { v, ok := d.m[key]; return v, ok }

// Len is the number of entries.
func (d *Dict) Len() int { return len(d.keys) }

func (d *Dict) set(key, v Value) {
	h := hashKey(key)
	if _, ok := d.m[h]; !ok {
		d.keys = append(d.keys, key)
	}
	d.m[h] = v
}

func (d *Dict) get(key Value) (Value, bool) {
	v, ok := d.m[hashKey(key)]
	return v, ok
}

// tupleKey is a tuple as the key of a dictionary.
type tupleKey string

// hashKey maps keys that Python holds equal to one Go value: 1, 1.0 and True.
func hashKey(v Value) Value {
	switch v := v.(type) {
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	case Tuple:
		var b strings.Builder
		writeKey(&b, v, 0)
		return tupleKey(b.String())
	case *List, *Dict:
		fail("TypeError", 0, "unhashable type: '%s'", typeName(v))
	case Undefined:
		return Undefined{}
	}
	return v
}

// writeKey writes a text that is equal for equal keys only.
func writeKey(b *strings.Builder, v Value, depth int) {
	if depth > maxValueDepth {
		fail("RecursionError", 0, "tuples nest more than %d deep", maxValueDepth)
	}
	t, ok := v.(Tuple)
	if !ok {
		h := hashKey(v)
		b.WriteString(typeName(h))
		writeRepr(b, h, depth)
		return
	}
	b.WriteByte('(')
	for _, e := range t {
		writeKey(b, e, depth+1)
		b.WriteByte(',')
	}
	b.WriteByte(')')
}

// namespace is the one kind of object whose attributes templates may set.
type namespace struct{ attrs *Dict }

// function is a builtin; name is for messages.
type function struct {
	name string
	call func(r *renderer, a args) Value
}

// args are the arguments of a call.
type args struct {
	pos   []Value
	names []string // of the keyword arguments, in order
	kw    map[string]Value
	line  int
}

// get returns the argument at position i or by name, and def without either.
func (a args) get(i int, name string, def Value) Value {
	if i >= 0 && i < len(a.pos) {
		return a.pos[i]
	}
	if v, ok := a.kw[name]; ok {
		return v
	}
	return def
}

// FromGo turns nil, bool, numbers, string, []any, []string, map[string]any (keys
// sorted) and Values into a Value; anything else becomes its Go type's name in
// angle brackets, as transformers does for images and arrays.
func FromGo(v any) Value {
	switch v := v.(type) {
	case nil, bool, int64, float64, string, *List, *Dict, Tuple, Undefined:
		return v
	case int:
		return int64(v)
	case int32:
		return int64(v)
	case float32:
		return float64(v)
	case []string:
		l := &List{}
		for _, e := range v {
			l.Items = append(l.Items, e)
		}
		return l
	case []any:
		l := &List{}
		for _, e := range v {
			l.Items = append(l.Items, FromGo(e))
		}
		return l
	case map[string]any:
		d := NewDict()
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			d.Set(k, FromGo(v[k]))
		}
		return d
	}
	return "<" + strings.TrimPrefix(goType(v), "*") + ">"
}

// truth is Python's bool().
func truth(v Value) bool {
	switch v := v.(type) {
	case nil, Undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case *List:
		return len(v.Items) > 0
	case Tuple:
		return len(v) > 0
	case *Dict:
		return v.Len() > 0
	}
	return true
}

// typeName is the name of the Python type.
func typeName(v Value) string {
	switch v.(type) {
	case nil:
		return "NoneType"
	case Undefined:
		return "Undefined"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case *List:
		return "list"
	case Tuple:
		return "tuple"
	case *Dict:
		return "dict"
	case *namespace:
		return "Namespace"
	case *macro:
		return "Macro"
	case *loopState:
		return "LoopContext"
	}
	return "function"
}

// str is Python's str().
func str(v Value) string {
	switch v := v.(type) {
	case string:
		return v
	case Undefined:
		return ""
	}
	return repr(v)
}

// repr is Python's repr().
func repr(v Value) string {
	var b strings.Builder
	writeRepr(&b, v, 0)
	return b.String()
}

// maxRepr bounds the text of a list or dictionary: shared elements could make it
// exponential.
const maxRepr = 16 << 20

func writeRepr(b *strings.Builder, v Value, depth int) {
	if b.Len() > maxRepr {
		fail("LimitError", 0, "the text of a value has more than %d bytes", maxRepr)
	}
	if depth > maxValueDepth {
		fail("RecursionError", 0, "maximum recursion depth exceeded while getting the repr of an object")
	}
	list := func(items []Value) {
		for i, e := range items {
			if i > 0 {
				b.WriteString(", ")
			}
			writeRepr(b, e, depth+1)
		}
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case Undefined:
		b.WriteString("Undefined")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(floatRepr(v))
	case string:
		writeStringRepr(b, v)
	case *List:
		b.WriteByte('[')
		list(v.Items)
		b.WriteByte(']')
	case Tuple:
		b.WriteByte('(')
		list(v)
		if len(v) == 1 {
			b.WriteByte(',')
		}
		b.WriteByte(')')
	case *Dict:
		b.WriteByte('{')
		for i, k := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			writeRepr(b, k, depth+1)
			b.WriteString(": ")
			e, _ := v.get(k)
			writeRepr(b, e, depth+1)
		}
		b.WriteByte('}')
	case *namespace:
		b.WriteString("<Namespace ")
		writeRepr(b, v.attrs, depth+1)
		b.WriteByte('>')
	case *macro:
		b.WriteString("<Macro " + repr(v.name) + ">")
	default:
		b.WriteString("<" + typeName(v) + ">")
	}
}

// writeStringRepr quotes as Python does: single quotes unless only double quotes
// avoid an escape, and escapes for what is not printable.
func writeStringRepr(b *strings.Builder, s string) {
	quote := '\''
	if strings.ContainsRune(s, '\'') && !strings.ContainsRune(s, '"') {
		quote = '"'
	}
	b.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			b.WriteString(`\x` + hex(r, 2))
		case r < 0x10000:
			b.WriteString(`\u` + hex(r, 4))
		default:
			b.WriteString(`\U` + hex(r, 8))
		}
	}
	b.WriteRune(quote)
}

func hex(r rune, width int) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", width-len(s)) + s
}

// floatRepr is the shortest text that reads back, with an exponent below 1e-4 and
// from 1e16 on.
func floatRepr(f float64) string {
	s := strconv.FormatFloat(f, 'e', -1, 64)
	switch s {
	case "+Inf":
		return "inf"
	case "-Inf":
		return "-inf"
	case "NaN":
		return "nan"
	}
	mantissa, exp, _ := strings.Cut(s, "e")
	if e, _ := strconv.Atoi(exp); e < -4 || e >= 16 {
		return mantissa + "e" + exp
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// isSpace is str.isspace for one character: Unicode's White_Space and U+001C–001F.
func isSpace(r rune) bool {
	return r >= 0x1C && r <= 0x1F || unicode.Is(unicode.White_Space, r)
}
