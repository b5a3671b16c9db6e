package jinja

import (
	"strings"
	"unicode/utf8"
)

func (e *literal) eval(*renderer) Value { return e.v }

func (e *nameExpr) eval(r *renderer) Value {
	r.step()
	return r.lookup(e.name)
}

func evalAll(r *renderer, es []expr) []Value {
	out := make([]Value, len(es))
	for i, e := range es {
		r.step()
		out[i] = e.eval(r)
	}
	return out
}

func (e *listExpr) eval(r *renderer) Value  { return &List{evalAll(r, e.items)} }
func (e *tupleExpr) eval(r *renderer) Value { return Tuple(evalAll(r, e.items)) }

func (e *dictExpr) eval(r *renderer) Value {
	d := NewDict()
	for i, k := range e.keys {
		r.step()
		key := k.eval(r)
		r.work(size(key))
		d.set(key, e.values[i].eval(r))
	}
	return d
}

func (e *condExpr) eval(r *renderer) Value {
	if truth(e.cond.eval(r)) {
		return e.then.eval(r)
	}
	if e.els == nil {
		return Undefined{"the inline if-expression evaluated to false and no else section was defined."}
	}
	return e.els.eval(r)
}

func (e *unaryExpr) eval(r *renderer) Value {
	v := e.of.eval(r)
	if e.op == "not" {
		return !truth(v)
	}
	defined(v, e.line)
	i, f, kind := number(v)
	switch {
	case kind == notNumber:
		fail("TypeError", e.line, "bad operand type for unary %s: '%s'", e.op, typeName(v))
	case e.op == "+" && kind == intNumber:
		return i
	case e.op == "+":
		return f
	case kind == intNumber:
		return subInt(0, i, e.line)
	}
	return -f
}

func (e *binaryExpr) eval(r *renderer) Value {
	r.step()
	left := e.left.eval(r)
	switch e.op {
	case "or":
		if truth(left) {
			return left
		}
		return e.right.eval(r)
	case "and":
		if !truth(left) {
			return left
		}
		return e.right.eval(r)
	}
	right := e.right.eval(r)
	if e.op == "~" {
		a, b := str(left), str(right)
		r.charge(len(a) + len(b))
		return a + b
	}
	return r.arithmetic(e.op, left, right, e.line)
}

func (e *compareExpr) eval(r *renderer) Value {
	left := e.first.eval(r)
	for i, op := range e.ops {
		r.step()
		right := e.rest[i].eval(r)
		if !r.compare(op, left, right, e.line) {
			return false
		}
		left = right
	}
	return true
}

func (e *sliceExpr) eval(*renderer) Value { // resolved by itemExpr; alone it is no value
	return Undefined{"a slice is not a value"}
}

func (e *itemExpr) eval(r *renderer) Value {
	r.step()
	of := e.of.eval(r)
	if s, ok := e.key.(*sliceExpr); ok {
		return r.slice(of, s, e.line)
	}
	key := e.key.eval(r)
	if u, ok := of.(Undefined); ok {
		fail("UndefinedError", e.line, "%s", u.hint)
	}
	if v, ok := r.item(of, key); ok {
		return v
	}
	if name, ok := key.(string); ok {
		if v, ok := r.attribute(of, name, e.line); ok {
			return v
		}
		return missing(of, name)
	}
	return Undefined{objectType(of) + " has no element " + repr(key)}
}

func missing(of Value, name string) Value {
	return Undefined{repr(objectType(of)) + " has no attribute " + repr(name)}
}

func (e *attrExpr) eval(r *renderer) Value {
	r.step()
	of := e.of.eval(r)
	if u, ok := of.(Undefined); ok {
		fail("UndefinedError", e.line, "%s", u.hint)
	}
	if v, ok := r.attribute(of, e.name, e.line); ok {
		return v
	}
	if v, ok := r.item(of, e.name); ok {
		return v
	}
	return missing(of, e.name)
}

// objectType is Jinja2's object_type_repr.
func objectType(v Value) string {
	if v == nil {
		return "None"
	}
	return typeName(v) + " object"
}

// item is of[key].
func (r *renderer) item(of, key Value) (Value, bool) {
	switch of := of.(type) {
	case *Dict:
		switch key.(type) {
		case *List, *Dict, *namespace, *macro, *function, *loopState:
			return nil, false
		}
		r.work(size(key) - 1)
		return of.get(key)
	case *namespace:
		return nil, false
	}
	i, _, kind := number(key)
	if kind != intNumber {
		return nil, false
	}
	switch of := of.(type) {
	case string:
		runes := []rune(of)
		r.work(len(runes) / 64)
		if i, ok := index(i, len(runes)); ok {
			return string(runes[i]), true
		}
	case *List:
		if i, ok := index(i, len(of.Items)); ok {
			return of.Items[i], true
		}
	case Tuple:
		if i, ok := index(i, len(of)); ok {
			return of[i], true
		}
	}
	return nil, false
}

// index resolves a Python index, negative from the end.
func index(i int64, n int) (int, bool) {
	if i < 0 {
		i += int64(n)
	}
	return int(i), i >= 0 && i < int64(n)
}

// slice is of[start:stop:step].
func (r *renderer) slice(of Value, s *sliceExpr, line int) Value {
	bound := func(e expr) (int64, bool) {
		if e == nil {
			return 0, false
		}
		v := e.eval(r)
		if v == nil {
			return 0, false
		}
		i, _, kind := number(v)
		if kind != intNumber {
			fail("TypeError", line, "slice indices must be integers or None or have an __index__ method")
		}
		return i, true
	}
	start, hasStart := bound(s.start)
	stop, hasStop := bound(s.stop)
	step, hasStep := bound(s.step)
	if !hasStep {
		step = 1
	}
	if step == 0 {
		fail("ValueError", line, "slice step cannot be zero")
	}
	pick := func(n int) []int {
		r.work(n / 16)
		return sliceIndexes(n, start, stop, step, hasStart, hasStop)
	}
	switch of := of.(type) {
	case string:
		runes := []rune(of)
		r.charge(len(of))
		var b strings.Builder
		for _, i := range pick(len(runes)) {
			b.WriteRune(runes[i])
		}
		return b.String()
	case *List:
		out := &List{}
		for _, i := range pick(len(of.Items)) {
			out.Items = append(out.Items, of.Items[i])
		}
		return out
	case Tuple:
		out := Tuple{}
		for _, i := range pick(len(of)) {
			out = append(out, of[i])
		}
		return out
	case Undefined:
		fail("UndefinedError", line, "%s", of.hint)
	}
	if _, isDict := of.(*Dict); isDict {
		fail("TypeError", line, "unhashable type: 'slice'")
	}
	return Undefined{objectType(of) + " has no element slice"}
}

// sliceIndexes lists the indexes of a slice of n elements (Python's slice.indices).
func sliceIndexes(n int, start, stop, step int64, hasStart, hasStop bool) []int {
	size := int64(n)
	low, high := int64(0), size
	if step < 0 {
		low, high = -1, size-1
	}
	clamp := func(i int64, has bool, def int64) int64 {
		if !has {
			return def
		}
		if i < 0 {
			i += size
		}
		return min(max(i, low), high)
	}
	var out []int
	if step > 0 {
		start, stop = clamp(start, hasStart, low), clamp(stop, hasStop, high)
		for i := start; i < stop; {
			out = append(out, int(i))
			if step > size {
				break
			}
			i += step
		}
		return out
	}
	start, stop = clamp(start, hasStart, high), clamp(stop, hasStop, low)
	for i := start; i > stop; {
		out = append(out, int(i))
		if step < -size {
			break
		}
		i += step
	}
	return out
}

func (e *callExpr) eval(r *renderer) Value {
	r.step()
	f := e.of.eval(r)
	return r.call(f, e.args.eval(r, e.line))
}

// eval evaluates arguments.
func (l *argList) eval(r *renderer, line int) args {
	a := args{line: line, pos: evalAll(r, l.pos)}
	for i, n := range l.names {
		a.setKW(n, l.kw[i].eval(r))
	}
	if l.star != nil {
		a.pos = append(a.pos, r.iterate(l.star.eval(r), line)...)
	}
	if l.dict != nil {
		d, ok := l.dict.eval(r).(*Dict)
		if !ok {
			fail("TypeError", line, "argument after ** must be a mapping")
		}
		for _, k := range d.keys {
			name, ok := k.(string)
			if !ok {
				fail("TypeError", line, "keywords must be strings")
			}
			v, _ := d.get(k)
			a.setKW(name, v)
		}
	}
	return a
}

// call calls a value.
func (r *renderer) call(f Value, a args) Value {
	if r.depth++; r.depth > r.limits.Depth {
		fail("RecursionError", a.line, "the template nests more than %d deep", r.limits.Depth)
	}
	defer func() { r.depth-- }()
	switch f := f.(type) {
	case *function:
		return f.call(r, a)
	case *macro:
		return f.call(r, a)
	case *loopState:
		return f.call(r, a)
	case Undefined:
		fail("UndefinedError", a.line, "%s", f.hint)
	}
	fail("TypeError", a.line, "'%s' object is not callable", typeName(f))
	return nil
}

func (e *filterExpr) eval(r *renderer) Value {
	r.step()
	if !knownFilter(e.name) {
		fail("TemplateRuntimeError", e.line, "No filter named %s found.", repr(e.name))
	}
	return r.filter(e.name, e.of.eval(r), e.args.eval(r, e.line))
}

func (e *testExpr) eval(r *renderer) Value {
	r.step()
	if tests[e.name] == nil {
		fail("TemplateRuntimeError", e.line, "No test named %s found.", repr(e.name))
	}
	v := e.of.eval(r)
	if s, ok := v.(string); ok {
		r.work(len(s) / bytesPerStep)
	}
	return tests[e.name](r, v, e.args.eval(r, e.line)) != e.not
}

// defined fails for Undefined.
func defined(v Value, line int) {
	if u, ok := v.(Undefined); ok {
		fail("UndefinedError", line, "%s", u.hint)
	}
}

// iterate lists what a for loop over v visits.
func (r *renderer) iterate(v Value, line int) []Value {
	switch v := v.(type) {
	case *List:
		r.work(len(v.Items) / 16)
		return v.Items
	case Tuple:
		r.work(len(v) / 16)
		return v
	case *Dict:
		r.work(v.Len() / 16)
		return append([]Value(nil), v.keys...)
	case string:
		r.work(utf8.RuneCountInString(v))
		var out []Value
		for _, c := range v {
			out = append(out, string(c))
		}
		return out
	case Undefined:
		return nil
	}
	fail("TypeError", line, "'%s' object is not iterable", typeName(v))
	return nil
}

// bytesPerStep is how many bytes of text may be looked at for one step.
const bytesPerStep = 64

// size is the number of values in v, to charge for walking it.
func size(v Value) int { return sizeAt(v, 0) }

func sizeAt(v Value, depth int) int {
	if depth > maxValueDepth {
		fail("RecursionError", 0, "lists and dictionaries nest more than %d deep", maxValueDepth)
	}
	n := 1
	add := func(items []Value) {
		for _, e := range items {
			n += sizeAt(e, depth+1)
			if n > 1<<24 {
				fail("LimitError", 0, "a value of more than %d elements", 1<<24)
			}
		}
	}
	switch v := v.(type) {
	case *List:
		add(v.Items)
	case Tuple:
		add(v)
	case *Dict:
		for _, k := range v.keys {
			e, _ := v.get(k)
			add([]Value{k, e})
		}
	case string:
		n += len(v) / bytesPerStep
	}
	return n
}
