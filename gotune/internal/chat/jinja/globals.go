package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// globals are the names that every template knows.
var globals map[string]Value

func init() {
	globals = map[string]Value{}
	for name, f := range map[string]func(r *renderer, a args) Value{
		"range":     rangeList,
		"dict":      makeDict,
		"namespace": func(r *renderer, a args) Value { return makeNamespace(r, a) },
		"raise_exception": func(r *renderer, a args) Value {
			if len(a.pos)+len(a.kw) == 0 {
				fail("TypeError", a.line, "raise_exception() missing 1 required positional argument: 'message'")
			}
			fail("TemplateError", 0, "%s", str(a.get(0, "message", nil)))
			return nil
		},
		"strftime_now": func(r *renderer, a args) Value {
			s := strftime(r.now(), a.text(0, "format"))
			r.charge(len(s))
			return s
		},
		"joiner": func(r *renderer, a args) Value {
			used := false
			return &function{"joiner", func(r *renderer, b args) Value {
				if !used {
					used = true
					return ""
				}
				return a.get(0, "sep", ", ")
			}}
		},
	} {
		globals[name] = &function{name, f}
	}
}

// rangeList is range(stop) or range(start, stop, step), at most maxRange long.
func rangeList(r *renderer, a args) Value {
	if len(a.pos) == 0 || len(a.pos) > 3 {
		fail("TypeError", a.line, "range expected 1 to 3 arguments, got %d", len(a.pos))
	}
	start, stop, step := int64(0), a.integer(0, "", 0), a.integer(2, "", 1)
	if len(a.pos) > 1 {
		start, stop = stop, a.integer(1, "", 0)
	}
	if step == 0 {
		fail("ValueError", a.line, "range() arg 3 must not be zero")
	}
	l := &List{}
	for i := start; step > 0 && i < stop || step < 0 && i > stop; {
		if len(l.Items) >= maxRange {
			fail("OverflowError", a.line, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
		}
		l.Items = append(l.Items, i)
		after := i + step
		if (after > i) != (step > 0) {
			break
		}
		i = after
	}
	r.work(len(l.Items))
	return l
}

// makeDict is dict(mapping or pairs, name=value, …).
func makeDict(r *renderer, a args) Value {
	d := NewDict()
	if len(a.pos) > 0 {
		if from, ok := a.pos[0].(*Dict); ok {
			r.work(from.Len())
			for _, k := range from.keys {
				v, _ := from.get(k)
				d.set(k, v)
			}
		} else {
			for _, e := range r.iterate(a.pos[0], a.line) {
				pair := r.iterate(e, a.line)
				if len(pair) != 2 {
					fail("ValueError", a.line, "dictionary update sequence element has length %d; 2 is required", len(pair))
				}
				d.set(pair[0], pair[1])
			}
		}
	}
	for _, n := range a.names {
		d.Set(n, a.kw[n])
	}
	return d
}

func makeNamespace(r *renderer, a args) *namespace {
	d := makeDict(r, a).(*Dict)
	for _, k := range d.keys {
		if s, ok := k.(string); ok {
			checkAttr(s, a.line)
		}
	}
	return &namespace{d}
}

// strftime formats a time by Python's directives in the C locale.
func strftime(t time.Time, format string) string {
	layouts := map[byte]string{
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'h': "Jan", 'B': "January", 'd': "02", 'e': "_2", 'm': "01", 'y': "06",
		'Y': "2006", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'Z': "MST", 'z': "-0700",
		'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04", 'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06",
		'X': "15:04:05",
	}
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		pad := true
		if format[i] == '-' && i+1 < len(format) {
			pad = false
			i++
		}
		s := "%" + string(format[i])
		if l, ok := layouts[format[i]]; ok {
			s = t.Format(l)
		}
		switch format[i] {
		case '%':
			s = "%"
		case 'n':
			s = "\n"
		case 't':
			s = "\t"
		case 'j':
			s = fmt.Sprintf("%03d", t.YearDay())
		case 'f':
			s = fmt.Sprintf("%06d", t.Nanosecond()/1000)
		case 'w':
			s = strconv.Itoa(int(t.Weekday()))
		case 's':
			s = strconv.FormatInt(t.Unix(), 10)
		}
		if !pad {
			if trimmed := strings.TrimLeft(s, "0 "); trimmed != "" {
				s = trimmed
			} else {
				s = "0"
			}
		}
		b.WriteString(s)
	}
	return b.String()
}

// goType names a Go type for the placeholder of a value that templates can't use.
func goType(v any) string { return fmt.Sprintf("%T", v) }
