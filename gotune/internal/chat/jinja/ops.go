package jinja

import (
	"cmp"
	"fmt"
	"math"
	"strings"
)

type numberKind int

const (
	notNumber numberKind = iota
	intNumber
	floatNumber
)

// number returns v as a number; a bool is an int, as in Python. f is set in
// either case.
func number(v Value) (i int64, f float64, kind numberKind) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, 1, intNumber
		}
		return 0, 0, intNumber
	case int64:
		return v, float64(v), intNumber
	case float64:
		return 0, v, floatNumber
	}
	return 0, 0, notNumber
}

// arithmetic is + - * / // % **.
func (r *renderer) arithmetic(op string, a, b Value, line int) Value {
	defined(a, line)
	defined(b, line)
	i, f, ka := number(a)
	j, g, kb := number(b)
	switch {
	case ka == intNumber && kb == intNumber:
		return intArithmetic(op, i, j, line)
	case ka != notNumber && kb != notNumber:
		return floatArithmetic(op, f, g, line)
	}
	switch op {
	case "+":
		return r.add(a, b, line)
	case "*":
		if kb == intNumber {
			return r.repeat(a, j, line)
		}
		if ka == intNumber {
			return r.repeat(b, i, line)
		}
	case "%":
		if s, ok := a.(string); ok {
			return r.percent(s, b, line)
		}
	}
	if op == "**" {
		op = "** or pow()"
	}
	fail("TypeError", line, "unsupported operand type(s) for %s: '%s' and '%s'", op, typeName(a), typeName(b))
	return nil
}

// add joins texts, lists and tuples.
func (r *renderer) add(a, b Value, line int) Value {
	switch x := a.(type) {
	case string:
		y, ok := b.(string)
		if !ok {
			fail("TypeError", line, `can only concatenate str (not "%s") to str`, typeName(b))
		}
		r.charge(len(x) + len(y))
		return x + y
	case *List:
		if y, ok := b.(*List); ok {
			r.work(len(x.Items) + len(y.Items))
			return &List{append(append([]Value(nil), x.Items...), y.Items...)}
		}
		fail("TypeError", line, `can only concatenate list (not "%s") to list`, typeName(b))
	case Tuple:
		if y, ok := b.(Tuple); ok {
			r.work(len(x) + len(y))
			return append(append(Tuple(nil), x...), y...)
		}
		fail("TypeError", line, `can only concatenate tuple (not "%s") to tuple`, typeName(b))
	}
	fail("TypeError", line, "unsupported operand type(s) for +: '%s' and '%s'", typeName(a), typeName(b))
	return nil
}

// repeat is text, list or tuple times n.
func (r *renderer) repeat(v Value, n int64, line int) Value {
	n = max(n, 0)
	times := func(size int) int {
		if size > 0 && n > int64(math.MaxInt32/size) {
			fail("LimitError", line, "a value of more than %d elements", math.MaxInt32)
		}
		return int(min(n, math.MaxInt32))
	}
	items := func(in []Value) (out []Value) {
		k := times(len(in))
		if len(in) == 0 {
			return nil
		}
		r.work(k * len(in))
		for ; k > 0; k-- {
			out = append(out, in...)
		}
		return out
	}
	switch v := v.(type) {
	case string:
		k := times(len(v))
		if v == "" {
			return v
		}
		r.charge(k * len(v))
		return strings.Repeat(v, k)
	case *List:
		return &List{items(v.Items)}
	case Tuple:
		return Tuple(items(v))
	}
	fail("TypeError", line, "unsupported operand type(s) for *: '%s' and 'int'", typeName(v))
	return nil
}

func tooLarge(line int) {
	fail("OverflowError", line, "an integer over 64 bits")
}

func subInt(i, j int64, line int) Value {
	d := i - j
	if (i < 0) != (j < 0) && (d < 0) != (i < 0) {
		tooLarge(line)
	}
	return d
}

func mulInt(i, j int64, line int) int64 {
	p := i * j
	if i != 0 && (p/i != j || i == -1 && j == math.MinInt64) {
		tooLarge(line)
	}
	return p
}

func intArithmetic(op string, i, j int64, line int) Value {
	switch op {
	case "+":
		s := i + j
		if (i < 0) == (j < 0) && (s < 0) != (i < 0) {
			tooLarge(line)
		}
		return s
	case "-":
		return subInt(i, j, line)
	case "*":
		return mulInt(i, j, line)
	case "**":
		return intPower(i, j, line)
	}
	if j == 0 {
		zeroDivision(op, line, "integer ")
	}
	switch op {
	case "/":
		return float64(i) / float64(j)
	case "//":
		if i == math.MinInt64 && j == -1 {
			tooLarge(line)
		}
		q := i / j
		if i%j != 0 && (i < 0) != (j < 0) {
			q--
		}
		return q
	}
	if j == -1 {
		return int64(0)
	}
	m := i % j
	if m != 0 && (m < 0) != (j < 0) {
		m += j
	}
	return m
}

func zeroDivision(op string, line int, kind string) {
	switch op {
	case "/":
		fail("ZeroDivisionError", line, "division by zero")
	case "%":
		fail("ZeroDivisionError", line, "%smodulo by zero", kind)
	}
	fail("ZeroDivisionError", line, "%sdivision or modulo by zero", kind)
}

func intPower(i, j int64, line int) Value {
	if j < 0 {
		if i == 0 {
			fail("ZeroDivisionError", line, "0.0 cannot be raised to a negative power")
		}
		return math.Pow(float64(i), float64(j))
	}
	p := int64(1)
	for ; j > 0; j >>= 1 {
		if j&1 == 1 {
			p = mulInt(p, i, line)
		}
		if j > 1 {
			i = mulInt(i, i, line)
		}
	}
	return p
}

func floatArithmetic(op string, f, g float64, line int) Value {
	switch op {
	case "+":
		return f + g
	case "-":
		return f - g
	case "*":
		return f * g
	case "**":
		return math.Pow(f, g)
	}
	if g == 0 {
		zeroDivision(op, line, "float ")
	}
	if op == "/" {
		return f / g
	}
	m := math.Mod(f, g)
	if m != 0 && (m < 0) != (g < 0) {
		m += g
	}
	if op == "//" {
		return math.Round((f - m) / g)
	}
	return m
}

// compare is one comparison operator.
func (r *renderer) compare(op string, a, b Value, line int) bool {
	switch op {
	case "==":
		return r.equal(a, b)
	case "!=":
		return !r.equal(a, b)
	case "in":
		return r.contains(b, a, line)
	case "not in":
		return !r.contains(b, a, line)
	}
	c, ordered := r.order(a, b, op, line)
	if !ordered {
		return false
	}
	switch op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

// equal is Python's ==.
func (r *renderer) equal(a, b Value) bool { return r.equalAt(a, b, 0) }

func (r *renderer) equalAt(a, b Value, depth int) bool {
	r.step()
	if depth > maxValueDepth {
		fail("RecursionError", 0, "maximum recursion depth exceeded in comparison")
	}
	_, f, ka := number(a)
	_, g, kb := number(b)
	if ka != notNumber && kb != notNumber {
		if ka == intNumber && kb == intNumber {
			i, _, _ := number(a)
			j, _, _ := number(b)
			return i == j
		}
		return f == g
	}
	all := func(x, y []Value) bool {
		for i := range x {
			if !r.equalAt(x[i], y[i], depth+1) {
				return false
			}
		}
		return true
	}
	switch x := a.(type) {
	case *List:
		y, ok := b.(*List)
		return ok && len(x.Items) == len(y.Items) && all(x.Items, y.Items)
	case Tuple:
		y, ok := b.(Tuple)
		return ok && len(x) == len(y) && all(x, y)
	case *Dict:
		y, ok := b.(*Dict)
		if !ok || x.Len() != y.Len() {
			return false
		}
		for _, k := range x.keys {
			v, _ := x.get(k)
			w, ok := y.get(k)
			if !ok || !r.equalAt(v, w, depth+1) {
				return false
			}
		}
		return true
	case Undefined:
		_, ok := b.(Undefined)
		return ok
	case string:
		r.work(len(x) / bytesPerStep)
	}
	switch b.(type) {
	case Tuple:
		return false
	}
	return a == b
}

// contains is "v in in".
func (r *renderer) contains(in, v Value, line int) bool {
	switch in := in.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			defined(v, line)
			fail("TypeError", line, "'in <string>' requires string as left operand, not %s", typeName(v))
		}
		r.work(len(in) / bytesPerStep)
		return strings.Contains(in, s)
	case *Dict:
		_, ok := in.get(v)
		return ok
	case Undefined:
		return false
	}
	if typeName(in) != "list" && typeName(in) != "tuple" {
		fail("TypeError", line, "argument of type '%s' is not iterable", typeName(in))
	}
	for _, e := range r.iterate(in, line) {
		if r.equal(e, v) {
			return true
		}
	}
	return false
}

// order compares a and b; ordered is false for NaN.
func (r *renderer) order(a, b Value, op string, line int) (c int, ordered bool) {
	r.step()
	defined(a, line)
	defined(b, line)
	i, f, ka := number(a)
	j, g, kb := number(b)
	if ka == intNumber && kb == intNumber {
		return cmp.Compare(i, j), true
	}
	if ka != notNumber && kb != notNumber {
		return cmp.Compare(f, g), f == f && g == g
	}
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			r.work(min(len(x), len(y)) / bytesPerStep)
			return strings.Compare(x, y), true
		}
	}
	xs, okX := sequence(a)
	ys, okY := sequence(b)
	if okX && okY && typeName(a) == typeName(b) {
		for k := 0; k < len(xs) && k < len(ys); k++ {
			if !r.equal(xs[k], ys[k]) {
				return r.order(xs[k], ys[k], op, line)
			}
		}
		return cmp.Compare(len(xs), len(ys)), true
	}
	fail("TypeError", line, "'%s' not supported between instances of '%s' and '%s'", op, typeName(a), typeName(b))
	return 0, false
}

func sequence(v Value) ([]Value, bool) {
	switch v := v.(type) {
	case *List:
		return v.Items, true
	case Tuple:
		return v, true
	}
	return nil, false
}

// percent is Python's text % values for %s, %r, %d, %i, %f, %x and %%.
func (r *renderer) percent(format string, v Value, line int) Value {
	values, isTuple := v.(Tuple)
	if !isTuple {
		values = Tuple{v}
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		start := i
		for i++; i < len(format) && strings.IndexByte("0123456789.-+ #", format[i]) >= 0; i++ {
		}
		if i == len(format) || i-start > 8 {
			fail("ValueError", line, "incomplete format")
		}
		if format[i] == '%' {
			b.WriteByte('%')
			continue
		}
		if len(values) == 0 {
			fail("TypeError", line, "not enough arguments for format string")
		}
		arg := values[0]
		values = values[1:]
		spec := format[start:i]
		n, f, kind := number(arg)
		r.work(size(arg))
		switch c := format[i]; {
		case c == 's':
			fmt.Fprintf(&b, spec+"s", str(arg))
		case c == 'r':
			fmt.Fprintf(&b, spec+"s", repr(arg))
		case strings.IndexByte("dixX", c) >= 0 && kind != notNumber:
			if kind == floatNumber {
				n = int64(f)
			}
			if c == 'i' {
				c = 'd'
			}
			fmt.Fprintf(&b, spec+string(c), n)
		case strings.IndexByte("feg", c) >= 0 && kind != notNumber:
			fmt.Fprintf(&b, spec+string(c), f)
		case kind == notNumber:
			fail("TypeError", line, "%%%c format: a number is required, not %s", c, typeName(arg))
		default:
			fail("ValueError", line, "unsupported format character '%c'", c)
		}
		if b.Len() > r.limits.Bytes {
			r.charge(b.Len())
		}
	}
	if isTuple && len(values) > 0 {
		fail("TypeError", line, "not all arguments converted during string formatting")
	}
	r.charge(b.Len())
	return b.String()
}
