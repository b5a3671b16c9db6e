package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// attribute is of.name where name is a method or a field, not an entry.
func (r *renderer) attribute(of Value, name string, line int) (Value, bool) {
	switch v := of.(type) {
	case *namespace:
		return v.attrs.Get(name)
	case *loopState:
		return v.attr(name)
	case string:
		if m, ok := stringMethods[name]; ok {
			return &function{name, func(r *renderer, a args) Value {
				r.charge(len(v))
				return m(r, v, a)
			}}, true
		}
	case *List:
		switch name {
		case "append", "extend", "insert", "pop", "remove", "reverse", "sort", "clear":
			unsafe(name, of, line)
		}
		return sequenceMethod(name, v.Items)
	case Tuple:
		return sequenceMethod(name, v)
	case *Dict:
		switch name {
		case "update", "pop", "popitem", "setdefault", "clear":
			unsafe(name, of, line)
		}
		return dictMethod(name, v)
	case *macro:
		switch name {
		case "name":
			return v.name, true
		case "arguments":
			t := Tuple{}
			for _, p := range v.def.params {
				t = append(t, p)
			}
			return t, true
		}
	}
	return nil, false
}

// unsafe reports a method that changes its object, which the sandbox forbids.
func unsafe(name string, of Value, line int) {
	fail("SecurityError", line, "access to attribute %s of %s object is unsafe.", repr(name), repr(typeName(of)))
}

func sequenceMethod(name string, items []Value) (Value, bool) {
	switch name {
	case "index":
		return &function{name, func(r *renderer, a args) Value {
			want := a.get(0, "", nil)
			for i, e := range items {
				if r.equal(e, want) {
					return int64(i)
				}
			}
			fail("ValueError", a.line, "%s is not in list", repr(want))
			return nil
		}}, true
	case "count":
		return &function{name, func(r *renderer, a args) Value {
			n := int64(0)
			for _, e := range items {
				if r.equal(e, a.get(0, "", nil)) {
					n++
				}
			}
			return n
		}}, true
	case "copy":
		return &function{name, func(r *renderer, a args) Value {
			return &List{append([]Value(nil), items...)}
		}}, true
	}
	return nil, false
}

func dictMethod(name string, d *Dict) (Value, bool) {
	list := func(pick func(k, v Value) Value) *function {
		return &function{name, func(r *renderer, a args) Value {
			r.work(d.Len())
			l := &List{Items: make([]Value, 0, d.Len())}
			for _, k := range d.keys {
				v, _ := d.get(k)
				l.Items = append(l.Items, pick(k, v))
			}
			return l
		}}
	}
	switch name {
	case "items":
		return list(func(k, v Value) Value { return Tuple{k, v} }), true
	case "keys":
		return list(func(k, v Value) Value { return k }), true
	case "values":
		return list(func(k, v Value) Value { return v }), true
	case "get":
		return &function{name, func(r *renderer, a args) Value {
			if len(a.pos) == 0 {
				fail("TypeError", a.line, "get expected at least 1 argument, got 0")
			}
			if v, ok := d.get(a.pos[0]); ok {
				return v
			}
			return a.get(1, "", nil)
		}}, true
	case "copy":
		return &function{name, func(r *renderer, a args) Value {
			r.work(d.Len())
			c := NewDict()
			for _, k := range d.keys {
				v, _ := d.get(k)
				c.set(k, v)
			}
			return c
		}}, true
	}
	return nil, false
}

// text returns the argument at i as a text, failing for another type.
func (a args) text(i int, name string) string {
	v := a.get(i, name, Undefined{})
	s, ok := v.(string)
	if !ok {
		fail("TypeError", a.line, "must be str, not %s", typeName(v))
	}
	return s
}

// integer returns the argument at i as an integer, def if it is missing.
func (a args) integer(i int, name string, def int64) int64 {
	v := a.get(i, name, def)
	n, _, kind := number(v)
	if kind != intNumber {
		fail("TypeError", a.line, "'%s' object cannot be interpreted as an integer", typeName(v))
	}
	return n
}

// cutset returns the test for characters that strip removes.
func cutset(a args, i int) func(rune) bool {
	v := a.get(i, "chars", nil)
	if v == nil {
		return isSpace
	}
	chars, ok := v.(string)
	if !ok {
		fail("TypeError", a.line, "strip arg must be None or str")
	}
	return func(r rune) bool { return strings.ContainsRune(chars, r) }
}

type stringMethod func(r *renderer, s string, a args) Value

// all returns a method that is true if s has a character and each passes ok.
func all(ok func(rune) bool) stringMethod {
	return func(r *renderer, s string, a args) Value {
		return s != "" && strings.IndexFunc(s, func(c rune) bool { return !ok(c) }) < 0
	}
}

// cased returns isupper or islower: a cased character, and none of the other case.
func cased(has, not func(rune) bool) stringMethod {
	return func(r *renderer, s string, a args) Value {
		return strings.IndexFunc(s, has) >= 0 && strings.IndexFunc(s, not) < 0
	}
}

func affix(has func(s, affix string) bool) stringMethod {
	return func(r *renderer, s string, a args) Value {
		if t, ok := a.get(0, "", nil).(Tuple); ok {
			for _, e := range t {
				if x, ok := e.(string); ok && has(s, x) {
					return true
				}
			}
			return false
		}
		return has(s, a.text(0, ""))
	}
}

// find returns find, rfind, index or rindex; positions count characters.
func find(search func(s, sub string) int, strict bool) stringMethod {
	return func(r *renderer, s string, a args) Value {
		runes := []rune(s)
		ids := sliceIndexes(len(runes), a.integer(1, "", 0), a.integer(2, "", int64(len(runes))), 1, true, true)
		start, part := 0, ""
		if len(ids) > 0 {
			start, part = ids[0], string(runes[ids[0]:ids[len(ids)-1]+1])
		}
		i := search(part, a.text(0, ""))
		if i < 0 {
			if strict {
				fail("ValueError", a.line, "substring not found")
			}
			return int64(-1)
		}
		return int64(start + utf8.RuneCountInString(part[:i]))
	}
}

// adjust returns center, ljust or rjust.
func adjust(sides func(space int) (left, right int)) stringMethod {
	return func(r *renderer, s string, a args) Value {
		fill := a.get(1, "", " ")
		f, ok := fill.(string)
		if !ok || utf8.RuneCountInString(f) != 1 {
			fail("TypeError", a.line, "The fill character must be exactly one character long")
		}
		width := a.integer(0, "", 0)
		space := width - int64(utf8.RuneCountInString(s))
		if space <= 0 {
			return s
		}
		if space > int64(r.limits.Bytes) {
			space = int64(r.limits.Bytes) + 1
		}
		r.charge(int(space) * len(f))
		left, right := sides(int(space))
		return strings.Repeat(f, left) + s + strings.Repeat(f, right)
	}
}

var stringMethods map[string]stringMethod

func init() {
	isAlpha := unicode.IsLetter
	isDigit := func(c rune) bool { return unicode.Is(unicode.Nd, c) || isSuperscript(c) }
	isNumeric := unicode.IsNumber
	stringMethods = map[string]stringMethod{
		"strip": func(r *renderer, s string, a args) Value { return strings.TrimFunc(s, cutset(a, 0)) },
		"lstrip": func(r *renderer, s string, a args) Value {
			return strings.TrimLeftFunc(s, cutset(a, 0))
		},
		"rstrip": func(r *renderer, s string, a args) Value {
			return strings.TrimRightFunc(s, cutset(a, 0))
		},
		"upper":      func(r *renderer, s string, a args) Value { return upper(s) },
		"lower":      func(r *renderer, s string, a args) Value { return strings.ToLower(s) },
		"casefold":   func(r *renderer, s string, a args) Value { return strings.ReplaceAll(strings.ToLower(s), "ß", "ss") },
		"title":      func(r *renderer, s string, a args) Value { return title(s) },
		"capitalize": func(r *renderer, s string, a args) Value { return capitalize(s) },
		"swapcase":   func(r *renderer, s string, a args) Value { return swapCase(s) },
		"startswith": affix(strings.HasPrefix),
		"endswith":   affix(strings.HasSuffix),
		"removeprefix": func(r *renderer, s string, a args) Value {
			return strings.TrimPrefix(s, a.text(0, ""))
		},
		"removesuffix": func(r *renderer, s string, a args) Value {
			return strings.TrimSuffix(s, a.text(0, ""))
		},
		"find":   find(strings.Index, false),
		"rfind":  find(strings.LastIndex, false),
		"index":  find(strings.Index, true),
		"rindex": find(strings.LastIndex, true),
		"count": func(r *renderer, s string, a args) Value {
			return int64(strings.Count(s, a.text(0, "")))
		},
		"replace": func(r *renderer, s string, a args) Value {
			return r.replace(s, a.text(0, "old"), a.text(1, "new"), a.integer(2, "count", -1))
		},
		"split":      splitMethod(false),
		"rsplit":     splitMethod(true),
		"splitlines": splitLines,
		"join": func(r *renderer, s string, a args) Value {
			items := r.iterate(a.get(0, "", Undefined{}), a.line)
			parts := make([]string, len(items))
			for i, e := range items {
				t, ok := e.(string)
				if !ok {
					fail("TypeError", a.line, "sequence item %d: expected str instance, %s found", i, typeName(e))
				}
				r.charge(len(t) + len(s))
				parts[i] = t
			}
			return strings.Join(parts, s)
		},
		"partition":  partition(strings.Index, false),
		"rpartition": partition(strings.LastIndex, true),
		"isspace":    all(isSpace),
		"isalpha":    all(isAlpha),
		"isdigit":    all(isDigit),
		"isdecimal":  all(func(c rune) bool { return unicode.Is(unicode.Nd, c) }),
		"isnumeric":  all(isNumeric),
		"isalnum":    all(func(c rune) bool { return isAlpha(c) || isNumeric(c) }),
		"isascii": func(r *renderer, s string, a args) Value {
			return strings.IndexFunc(s, func(c rune) bool { return c > 127 }) < 0
		},
		"isupper": cased(unicode.IsUpper, func(c rune) bool { return unicode.IsLower(c) || unicode.IsTitle(c) }),
		"islower": cased(unicode.IsLower, func(c rune) bool { return unicode.IsUpper(c) || unicode.IsTitle(c) }),
		"ljust":   adjust(func(n int) (int, int) { return 0, n }),
		"rjust":   adjust(func(n int) (int, int) { return n, 0 }),
		"center":  adjust(func(n int) (int, int) { return n / 2, n - n/2 }),
		"zfill":   zfill,
		"format":  func(r *renderer, s string, a args) Value { return r.format(s, a) },
	}
}

// isSuperscript is the part of No that str.isdigit accepts.
func isSuperscript(c rune) bool {
	return c == '²' || c == '³' || c == '¹' || c == 0x2070 || c >= 0x2074 && c <= 0x2079 || c >= 0x2080 && c <= 0x2089 ||
		c >= 0x2460 && c <= 0x2468
}

func zfill(r *renderer, s string, a args) Value {
	sign := ""
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, s = s[:1], s[1:]
	}
	n := a.integer(0, "", 0) - int64(len(sign)+utf8.RuneCountInString(s))
	n = max(0, min(n, int64(r.limits.Bytes)+1))
	r.charge(int(n))
	return sign + strings.Repeat("0", int(n)) + s
}

// partition returns partition or rpartition.
func partition(search func(s, sep string) int, last bool) stringMethod {
	return func(r *renderer, s string, a args) Value {
		sep := a.text(0, "")
		if sep == "" {
			fail("ValueError", a.line, "empty separator")
		}
		i := search(s, sep)
		switch {
		case i >= 0:
			return Tuple{s[:i], sep, s[i+len(sep):]}
		case last:
			return Tuple{"", "", s}
		}
		return Tuple{s, "", ""}
	}
}

// replace is str.replace; n < 0 means all.
func (r *renderer) replace(s, old, with string, n int64) string {
	count := int64(strings.Count(s, old))
	if n >= 0 {
		count = min(count, n)
	}
	if grow := len(with) - len(old); grow > 0 {
		if count > int64(r.limits.Bytes/grow) {
			r.charge(r.limits.Bytes + 1)
		}
		r.charge(int(count) * grow)
	}
	r.charge(len(s))
	return strings.Replace(s, old, with, int(count))
}

// splitMethod returns split or rsplit.
func splitMethod(right bool) stringMethod {
	return func(r *renderer, s string, a args) Value {
		sep := a.get(0, "sep", nil)
		limit := a.integer(1, "maxsplit", -1)
		if limit < 0 {
			limit = int64(len(s)) + 1
		}
		r.work(len(s) / 4)
		var parts []string
		switch t := sep.(type) {
		case nil:
			parts = splitSpace(s, int(min(limit, int64(len(s))+1)), right)
		case string:
			if t == "" {
				fail("ValueError", a.line, "empty separator")
			}
			parts = splitText(s, t, int(min(limit, int64(len(s))+1)), right)
		default:
			fail("TypeError", a.line, "must be str or None, not %s", typeName(sep))
		}
		l := &List{Items: make([]Value, len(parts))}
		for i, p := range parts {
			l.Items[i] = p
		}
		return l
	}
}

func splitText(s, sep string, limit int, right bool) []string {
	if !right {
		return strings.SplitN(s, sep, limit+1)
	}
	var out []string
	for ; limit > 0; limit-- {
		i := strings.LastIndex(s, sep)
		if i < 0 {
			break
		}
		out = append(out, s[i+len(sep):])
		s = s[:i]
	}
	return reversed(append(out, s))
}

// splitSpace splits at runs of white space, with none at the ends.
func splitSpace(s string, limit int, right bool) []string {
	var out []string
	if right {
		for s = strings.TrimRightFunc(s, isSpace); s != "" && limit > 0; limit-- {
			i := strings.LastIndexFunc(s, isSpace)
			if i < 0 {
				break
			}
			_, n := utf8.DecodeRuneInString(s[i:])
			out = append(out, s[i+n:])
			s = strings.TrimRightFunc(s[:i], isSpace)
		}
		if s != "" {
			out = append(out, s)
		}
		return reversed(out)
	}
	for s = strings.TrimLeftFunc(s, isSpace); s != ""; limit-- {
		i := strings.IndexFunc(s, isSpace)
		if i < 0 || limit <= 0 {
			out = append(out, s)
			break
		}
		out = append(out, s[:i])
		s = strings.TrimLeftFunc(s[i:], isSpace)
	}
	return out
}

func reversed[T any](in []T) []T {
	out := make([]T, len(in))
	for i, e := range in {
		out[len(in)-1-i] = e
	}
	return out
}

// splitLines is str.splitlines.
func splitLines(r *renderer, s string, a args) Value {
	keep := truth(a.get(0, "keepends", false))
	r.work(len(s) / 4)
	l := &List{}
	for s != "" {
		i := strings.IndexFunc(s, func(c rune) bool {
			return c >= 0x0A && c <= 0x0D || c >= 0x1C && c <= 0x1E || c == 0x85 || c == 0x2028 || c == 0x2029
		})
		if i < 0 {
			l.Items = append(l.Items, s)
			break
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			n = 2
		}
		if keep {
			l.Items = append(l.Items, s[:i+n])
		} else {
			l.Items = append(l.Items, s[:i])
		}
		s = s[i+n:]
	}
	return l
}

// upper is str.upper, which writes ß as SS.
func upper(s string) string { return strings.ReplaceAll(strings.ToUpper(s), "ß", "SS") }

func capitalize(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return titleChar(s[:n]) + strings.ToLower(s[n:])
}

func titleChar(s string) string {
	if s == "ß" {
		return "Ss"
	}
	return strings.ToTitle(s)
}

// title is str.title: a letter behind another letter is lower case.
func title(s string) string {
	var b strings.Builder
	inWord := false
	for _, c := range s {
		if inWord {
			b.WriteString(strings.ToLower(string(c)))
		} else {
			b.WriteString(titleChar(string(c)))
		}
		inWord = unicode.IsUpper(c) || unicode.IsLower(c) || unicode.IsTitle(c)
	}
	return b.String()
}

func swapCase(s string) string {
	var b strings.Builder
	for _, c := range s {
		if unicode.IsUpper(c) {
			b.WriteString(strings.ToLower(string(c)))
		} else {
			b.WriteString(upper(string(c)))
		}
	}
	return b.String()
}

// format is str.format for {}, {0}, {name} with !s or !r and no format spec.
func (r *renderer) format(s string, a args) string {
	var b strings.Builder
	auto := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c == '{' || c == '}') && i+1 < len(s) && s[i+1] == c {
			b.WriteByte(c)
			i++
			continue
		}
		if c == '}' {
			fail("ValueError", a.line, "Single '}' encountered in format string")
		}
		if c != '{' {
			b.WriteByte(c)
			continue
		}
		n := strings.IndexByte(s[i:], '}')
		if n < 0 {
			fail("ValueError", a.line, "expected '}' before end of string")
		}
		field, conv, _ := strings.Cut(s[i+1:i+n], "!")
		v := a.formatField(field, &auto)
		r.work(size(v))
		t := str(v)
		if conv == "r" {
			t = repr(v)
		} else if conv != "" && conv != "s" {
			fail("ValueError", a.line, "format specification %s is not supported", repr(conv))
		}
		r.charge(len(t))
		b.WriteString(t)
		i += n
	}
	r.charge(b.Len())
	return b.String()
}

// formatField finds the argument that a field of format names.
func (a args) formatField(field string, auto *int) Value {
	if v, ok := a.kw[field]; ok {
		return v
	}
	i := 0
	if field == "" {
		i = *auto
		*auto++
	}
	for _, c := range []byte(field) {
		if c < '0' || c > '9' || i > 1000 {
			fail("KeyError", a.line, "%s", repr(field))
		}
		i = i*10 + int(c-'0')
	}
	if i >= len(a.pos) {
		fail("IndexError", a.line, "Replacement index %d out of range for positional args tuple", i)
	}
	return a.pos[i]
}
