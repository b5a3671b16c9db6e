package jinja

import (
	"html"
	"math"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type filterFunc func(r *renderer, v Value, a args) Value

// filters by name; set in init because map and select look filters up.
var filters map[string]filterFunc

func knownFilter(name string) bool { return filters[name] != nil }

// filter applies a filter.
func (r *renderer) filter(name string, v Value, a args) Value {
	f := filters[name]
	if f == nil {
		fail("TemplateRuntimeError", a.line, "No filter named %s.", repr(name))
	}
	if s, ok := v.(string); ok {
		r.charge(len(s))
	}
	return f(r, v, a)
}

// onText makes a filter of a function of texts.
func onText(f func(string) string) filterFunc {
	return func(r *renderer, v Value, a args) Value {
		s := f(str(v))
		r.charge(len(s))
		return s
	}
}

func init() {
	filters = map[string]filterFunc{
		"trim":       func(r *renderer, v Value, a args) Value { return strings.TrimFunc(str(v), cutset(a, 0)) },
		"upper":      onText(upper),
		"lower":      onText(strings.ToLower),
		"capitalize": onText(capitalize),
		"title":      onText(filterTitle),
		"string":     onText(func(s string) string { return s }),
		"safe":       func(r *renderer, v Value, a args) Value { return v },
		"escape":     onText(escapeHTML), "e": onText(escapeHTML), "forceescape": onText(escapeHTML),
		"length": filterLength, "count": filterLength,
		"default": filterDefault, "d": filterDefault,
		"first": filterFirst, "last": filterLast, "reverse": filterReverse,
		"list":  func(r *renderer, v Value, a args) Value { return &List{append([]Value(nil), r.iterate(v, a.line)...)} },
		"items": filterItems, "dictsort": filterDictSort,
		"join": filterJoin, "replace": filterReplace, "indent": filterIndent, "tojson": filterToJSON,
		"int": filterInt, "float": filterFloat, "abs": filterAbs, "round": filterRound,
		"sort": filterSort, "unique": filterUnique, "min": extreme(-1), "max": extreme(1), "sum": filterSum,
		"map": filterMap, "select": choose(false, true), "reject": choose(false, false),
		"selectattr": choose(true, true), "rejectattr": choose(true, false),
		"wordcount": filterWordCount, "batch": filterBatch, "attr": filterAttr, "format": filterFormat,
		"center": func(r *renderer, v Value, a args) Value {
			if len(a.pos) == 0 {
				a.pos = []Value{a.get(-1, "width", int64(80))}
			}
			return stringMethods["center"](r, str(v), a)
		},
	}
}

// escapeHTML escapes as markupsafe does.
func escapeHTML(s string) string { return html.EscapeString(s) }

// filterTitle is Jinja2's title, which also starts words behind - ( { [ <.
func filterTitle(s string) string {
	var b strings.Builder
	start := true
	for _, c := range s {
		if start {
			b.WriteString(upper(string(c)))
		} else {
			b.WriteString(strings.ToLower(string(c)))
		}
		start = isSpace(c) || strings.ContainsRune("-({[<", c)
	}
	return b.String()
}

func filterLength(r *renderer, v Value, a args) Value {
	switch v := v.(type) {
	case string:
		return int64(utf8.RuneCountInString(v))
	case *List:
		return int64(len(v.Items))
	case Tuple:
		return int64(len(v))
	case *Dict:
		return int64(v.Len())
	case Undefined:
		return int64(0)
	}
	fail("TypeError", a.line, "object of type '%s' has no len()", typeName(v))
	return nil
}

func filterDefault(r *renderer, v Value, a args) Value {
	_, undefined := v.(Undefined)
	if undefined || truth(a.get(1, "boolean", false)) && !truth(v) {
		return a.get(0, "default_value", "")
	}
	return v
}

func filterFirst(r *renderer, v Value, a args) Value {
	if items := r.iterate(v, a.line); len(items) > 0 {
		return items[0]
	}
	return Undefined{"No first item, sequence was empty."}
}

func filterLast(r *renderer, v Value, a args) Value {
	if items := r.iterate(v, a.line); len(items) > 0 {
		return items[len(items)-1]
	}
	return Undefined{"No last item, sequence was empty."}
}

func filterReverse(r *renderer, v Value, a args) Value {
	items := reversed(r.iterate(v, a.line))
	if _, ok := v.(string); !ok {
		return &List{items}
	}
	var b strings.Builder
	for _, e := range items {
		b.WriteString(e.(string))
	}
	return b.String()
}

func filterItems(r *renderer, v Value, a args) Value {
	d, ok := v.(*Dict)
	if !ok {
		if _, undefined := v.(Undefined); undefined {
			return &List{}
		}
		fail("TypeError", a.line, "Can only get item pairs from a mapping.")
	}
	m, _ := dictMethod("items", d)
	return m.(*function).call(r, args{line: a.line})
}

func filterDictSort(r *renderer, v Value, a args) Value {
	items := filterItems(r, v, a).(*List).Items
	at := 0
	if a.get(1, "by", "key") == "value" {
		at = 1
	}
	key := func(e Value) Value { return fold(e.(Tuple)[at], truth(a.get(0, "case_sensitive", false))) }
	return &List{r.sorted(items, key, truth(a.get(2, "reverse", false)), a.line)}
}

// fold makes texts lower case unless the order is case-sensitive.
func fold(v Value, caseSensitive bool) Value {
	if s, ok := v.(string); ok && !caseSensitive {
		return strings.ToLower(s)
	}
	return v
}

// sorted is a stable sort of a copy by key.
func (r *renderer) sorted(items []Value, key func(Value) Value, reverse bool, line int) []Value {
	keys := make([]Value, len(items))
	order := make([]int, len(items))
	for i, e := range items {
		r.step()
		keys[i], order[i] = key(e), i
	}
	sort.SliceStable(order, func(i, j int) bool {
		a, b := keys[order[i]], keys[order[j]]
		if reverse {
			a, b = b, a
		}
		c, _ := r.order(a, b, "<", line)
		return c < 0
	})
	out := make([]Value, len(items))
	for i, k := range order {
		out[i] = items[k]
	}
	return out
}

// getter returns the function behind attribute="a.b" or "0": nested lookups, def
// for what is undefined.
func (r *renderer) getter(attr, def Value, line int) func(Value) Value {
	if attr == nil {
		return func(v Value) Value { return v }
	}
	parts := strings.Split(str(attr), ".")
	return func(v Value) Value {
		for _, p := range parts {
			r.step()
			var key Value = p
			if n, err := strconv.ParseInt(p, 10, 64); err == nil {
				key = n
			}
			defined(v, line)
			got, ok := r.item(v, key)
			if !ok {
				if got, ok = r.attribute(v, p, line); !ok {
					got = missing(v, p)
				}
			}
			if _, undefined := got.(Undefined); undefined && def != nil {
				got = def
			}
			v = got
		}
		return v
	}
}

func filterSort(r *renderer, v Value, a args) Value {
	attr := a.get(2, "attribute", nil)
	sensitive := truth(a.get(1, "case_sensitive", false))
	var getters []func(Value) Value
	if s, ok := attr.(string); ok {
		for _, part := range strings.Split(s, ",") {
			getters = append(getters, r.getter(part, nil, a.line))
		}
	} else {
		getters = append(getters, r.getter(attr, nil, a.line))
	}
	key := func(e Value) Value {
		t := &List{}
		for _, g := range getters {
			t.Items = append(t.Items, fold(g(e), sensitive))
		}
		return t
	}
	return &List{r.sorted(r.iterate(v, a.line), key, truth(a.get(0, "reverse", false)), a.line)}
}

func filterUnique(r *renderer, v Value, a args) Value {
	key := r.getter(a.get(1, "attribute", nil), nil, a.line)
	sensitive := truth(a.get(0, "case_sensitive", false))
	seen := map[Value]bool{}
	out := &List{}
	for _, e := range r.iterate(v, a.line) {
		r.step()
		folded := fold(key(e), sensitive)
		r.work(size(folded))
		k := hashKey(folded)
		if !seen[k] {
			seen[k] = true
			out.Items = append(out.Items, e)
		}
	}
	return out
}

// extreme returns min (sign -1) or max (1).
func extreme(sign int) filterFunc {
	return func(r *renderer, v Value, a args) Value {
		key := r.getter(a.get(1, "attribute", nil), nil, a.line)
		sensitive := truth(a.get(0, "case_sensitive", false))
		items := r.iterate(v, a.line)
		if len(items) == 0 {
			return Undefined{"No aggregated item, sequence was empty."}
		}
		best := items[0]
		for _, e := range items[1:] {
			c, _ := r.order(fold(key(e), sensitive), fold(key(best), sensitive), "<", a.line)
			if c*sign > 0 {
				best = e
			}
		}
		return best
	}
}

func filterSum(r *renderer, v Value, a args) Value {
	key := r.getter(a.get(0, "attribute", nil), nil, a.line)
	sum := a.get(1, "start", int64(0))
	for _, e := range r.iterate(v, a.line) {
		r.step()
		sum = r.arithmetic("+", sum, key(e), a.line)
	}
	return sum
}

func filterMap(r *renderer, v Value, a args) Value {
	items := r.iterate(v, a.line)
	out := &List{Items: make([]Value, 0, len(items))}
	if attr, ok := a.kw["attribute"]; ok && len(a.pos) == 0 {
		get := r.getter(attr, a.kw["default"], a.line)
		for _, e := range items {
			out.Items = append(out.Items, get(e))
		}
		return out
	}
	if len(a.pos) == 0 {
		fail("FilterArgumentError", a.line, "map requires a filter argument")
	}
	name := a.text(0, "")
	rest := args{pos: a.pos[1:], names: a.names, kw: a.kw, line: a.line}
	for _, e := range items {
		r.step()
		out.Items = append(out.Items, r.filter(name, e, rest))
	}
	return out
}

// choose returns select, reject, selectattr or rejectattr.
func choose(byAttr, keep bool) filterFunc {
	return func(r *renderer, v Value, a args) Value {
		get := func(v Value) Value { return v }
		if byAttr {
			if len(a.pos) == 0 {
				fail("FilterArgumentError", a.line, "Missing parameter for attribute name")
			}
			get = r.getter(a.pos[0], nil, a.line)
			a.pos = a.pos[1:]
		}
		test := func(v Value) bool { return truth(v) }
		if len(a.pos) > 0 {
			name := a.text(0, "")
			f := tests[name]
			if f == nil {
				fail("TemplateRuntimeError", a.line, "No test named %s.", repr(name))
			}
			rest := args{pos: a.pos[1:], names: a.names, kw: a.kw, line: a.line}
			test = func(v Value) bool { return f(r, v, rest) }
		}
		out := &List{}
		for _, e := range r.iterate(v, a.line) {
			r.step()
			if test(get(e)) == keep {
				out.Items = append(out.Items, e)
			}
		}
		return out
	}
}

func filterJoin(r *renderer, v Value, a args) Value {
	sep := str(a.get(0, "d", ""))
	get := r.getter(a.get(1, "attribute", nil), nil, a.line)
	items := r.iterate(v, a.line)
	parts := make([]string, len(items))
	for i, e := range items {
		g := get(e)
		r.work(size(g))
		parts[i] = str(g)
		r.charge(len(parts[i]) + len(sep))
	}
	return strings.Join(parts, sep)
}

func filterReplace(r *renderer, v Value, a args) Value {
	n := int64(-1)
	if c := a.get(2, "count", nil); c != nil {
		n = a.integer(2, "count", -1)
	}
	return r.replace(str(v), str(a.get(0, "old", "")), str(a.get(1, "new", "")), n)
}

// filterIndent puts width spaces in front of each line but the first.
func filterIndent(r *renderer, v Value, a args) Value {
	pad := ""
	if w, ok := a.get(0, "width", int64(4)).(string); ok {
		pad = w
	} else {
		n := max(0, min(a.integer(0, "width", 4), int64(r.limits.Bytes)+1))
		r.charge(int(n))
		pad = strings.Repeat(" ", int(n))
	}
	first, blank := truth(a.get(1, "first", false)), truth(a.get(2, "blank", false))
	lines := splitLines(r, str(v)+"\n", args{line: a.line}).(*List).Items
	var b strings.Builder
	for i, e := range lines {
		line := e.(string)
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == 0 && first || i > 0 && (blank || line != "") {
			r.charge(len(pad))
			b.WriteString(pad)
		}
		b.WriteString(line)
	}
	r.charge(b.Len())
	return b.String()
}

func filterInt(r *renderer, v Value, a args) Value {
	def := a.get(0, "default", int64(0))
	i, f, kind := number(v)
	switch {
	case kind == intNumber:
		return i
	case kind == floatNumber:
		if f != f || math.Abs(f) >= 1<<63 {
			return def
		}
		return int64(f)
	}
	s, ok := v.(string)
	if !ok {
		return def
	}
	s = strings.TrimFunc(s, isSpace)
	base := int(max(0, min(a.integer(1, "base", 10), 36)))
	if base == 1 {
		return def
	}
	digits := strings.ReplaceAll(s, "_", "")
	if mark := map[int]string{16: "0x", 8: "0o", 2: "0b"}[base]; mark != "" {
		digits = strings.TrimPrefix(strings.ToLower(digits), mark)
	}
	if n, err := strconv.ParseInt(digits, base, 64); err == nil {
		return n
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) < 1<<63 {
		return int64(f)
	}
	return def
}

func filterFloat(r *renderer, v Value, a args) Value {
	if _, f, kind := number(v); kind != notNumber {
		return f
	}
	if s, ok := v.(string); ok {
		if f, err := strconv.ParseFloat(strings.TrimFunc(s, isSpace), 64); err == nil {
			return f
		}
	}
	return a.get(0, "default", 0.0)
}

func filterAbs(r *renderer, v Value, a args) Value {
	defined(v, a.line)
	i, f, kind := number(v)
	switch {
	case kind == intNumber && i < 0:
		return subInt(0, i, a.line)
	case kind == intNumber:
		return i
	case kind == floatNumber:
		return math.Abs(f)
	}
	fail("TypeError", a.line, "bad operand type for abs(): '%s'", typeName(v))
	return nil
}

// filterRound rounds halves to even, as Python's round, or up or down by method.
func filterRound(r *renderer, v Value, a args) Value {
	i, f, kind := number(v)
	if kind == notNumber {
		fail("TypeError", a.line, "type %s doesn't define __round__ method", typeName(v))
	}
	p := max(-300, min(a.integer(0, "precision", 0), 300))
	scale := math.Pow(10, float64(p))
	switch a.get(1, "method", "common") {
	case "ceil":
		return math.Ceil(f*scale) / scale
	case "floor":
		return math.Floor(f*scale) / scale
	}
	if kind == intNumber && p >= 0 {
		return i
	}
	if p < 0 {
		return math.RoundToEven(f*scale) / scale
	}
	out, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(p), 64), 64)
	if err != nil {
		return f
	}
	return out
}

// filterWordCount counts runs of letters, digits and underscores.
func filterWordCount(r *renderer, v Value, a args) Value {
	n, in := int64(0), false
	for _, c := range str(v) {
		word := c == '_' || unicode.IsLetter(c) || unicode.IsNumber(c)
		if word && !in {
			n++
		}
		in = word
	}
	return n
}

func filterBatch(r *renderer, v Value, a args) Value {
	n := a.integer(0, "linecount", 0)
	if n <= 0 || n > maxRange {
		fail("ValueError", a.line, "batch size must be 1 to %d", maxRange)
	}
	out := &List{}
	var row []Value
	for _, e := range r.iterate(v, a.line) {
		if int64(len(row)) == n {
			out.Items = append(out.Items, &List{row})
			row = nil
		}
		row = append(row, e)
	}
	if len(row) > 0 {
		if fill := a.get(1, "fill_with", nil); fill != nil {
			r.work(int(n))
			for int64(len(row)) < n {
				row = append(row, fill)
			}
		}
		out.Items = append(out.Items, &List{row})
	}
	return out
}

func filterAttr(r *renderer, v Value, a args) Value {
	name := a.text(0, "name")
	if got, ok := r.attribute(v, name, a.line); ok {
		return got
	}
	return missing(v, name)
}

func filterFormat(r *renderer, v Value, a args) Value {
	if len(a.names) > 0 {
		fail("TypeError", a.line, "format by name is not supported")
	}
	return r.percent(str(v), Tuple(a.pos), a.line)
}
