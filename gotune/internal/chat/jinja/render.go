package jinja

import (
	"fmt"
	"strings"
	"time"
)

// Limits bound what rendering a template may cost.
type Limits struct {
	// Steps is the number of expressions and statements evaluated. Default 5,000,000.
	Steps int
	// Bytes is the sum of the lengths of all texts made, the output included.
	// Default 256 MiB.
	Bytes int
	// Depth is how deep macros, loops and expressions nest. Default 500.
	Depth int
}

// maxValueDepth bounds how deep lists and dictionaries nest.
const maxValueDepth = 200

// maxRange is the longest range(), as in Jinja2's sandbox.
const maxRange = 100_000

// maxTemplate bounds a template's source; the longest published one has 30 kB.
const maxTemplate = 1 << 20

// An Error is a failure to parse or render a template. Kind is the name of the
// Python exception that Jinja2 would raise: TemplateSyntaxError, TemplateError
// (what raise_exception raises), UndefinedError, TypeError, …; LimitError is
// raised here only.
type Error struct {
	Kind    string
	Message string
	Line    int // 0 if not known
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.Kind, e.Message)
	}
	return fmt.Sprintf("%s: %s (line %d of the template)", e.Kind, e.Message, e.Line)
}

// A Template is a parsed template, safe for concurrent use.
type Template struct {
	body []stmt
	// Limits apply to each rendering; zero fields stand for the defaults.
	Limits Limits
	// Now is the clock of strftime_now; nil means time.Now.
	Now func() time.Time
}

// Parse reads a template. The error is an *[Error].
func Parse(src string) (t *Template, err error) {
	defer catch(&err)
	if len(src) > maxTemplate {
		fail("LimitError", 0, "the template has %d bytes, at most %d are read", len(src), maxTemplate)
	}
	p := &parser{toks: lex(src)}
	body := p.body()
	if len(p.unknown) > 0 {
		return nil, p.unknown[0]
	}
	return &Template{body: body}, nil
}

// catch turns a failure into an error.
func catch(err *error) {
	switch e := recover().(type) {
	case nil:
	case *Error:
		*err = e
	default:
		panic(e)
	}
}

// A Span is a part of the output, in bytes.
type Span struct{ Start, End int }

// Render renders the template with the given names. The spans are the parts that
// the template marks by {% generation %}, in order. The error is an *[Error].
func (t *Template) Render(vars *Dict) (text string, spans []Span, err error) {
	defer catch(&err)
	l := t.Limits
	if l.Steps == 0 {
		l.Steps = 5_000_000
	}
	if l.Bytes == 0 {
		l.Bytes = 256 << 20
	}
	if l.Depth == 0 {
		l.Depth = 500
	}
	r := &renderer{limits: l, now: t.Now, out: &strings.Builder{}}
	if r.now == nil {
		r.now = time.Now
	}
	r.scope = &scope{vars: map[string]Value{}}
	for _, k := range vars.keys {
		if s, ok := k.(string); ok {
			r.scope.vars[s], _ = vars.get(k)
		}
	}
	r.scope = &scope{vars: map[string]Value{}, up: r.scope}
	r.execAll(t.body)
	return r.out.String(), r.spans, nil
}

// A scope holds the names that a part of the template has set.
type scope struct {
	vars map[string]Value
	up   *scope
}

// renderer is the state of one rendering.
type renderer struct {
	limits   Limits
	now      func() time.Time
	scope    *scope
	out      *strings.Builder
	captures int // output goes into a text of its own: spans don't count
	spans    []Span
	steps    int
	bytes    int
	depth    int
}

// step counts work.
func (r *renderer) step() {
	if r.steps++; r.steps > r.limits.Steps {
		fail("LimitError", 0, "the template takes more than %d steps", r.limits.Steps)
	}
}

// charge counts n bytes of text, before they are made.
func (r *renderer) charge(n int) {
	if n < 0 || n > r.limits.Bytes-r.bytes {
		fail("LimitError", 0, "the template makes more than %d bytes of text", r.limits.Bytes)
	}
	r.bytes += n
}

// work counts n small steps at once.
func (r *renderer) work(n int) {
	if n < 0 || n > r.limits.Steps-r.steps {
		fail("LimitError", 0, "the template takes more than %d steps", r.limits.Steps)
	}
	r.steps += n
}

func (r *renderer) write(s string) {
	r.charge(len(s))
	r.out.WriteString(s)
}

// nested runs f one level deeper, in a new scope over up.
func (r *renderer) nested(up *scope, f func()) {
	if r.depth++; r.depth > r.limits.Depth {
		fail("RecursionError", 0, "the template nests more than %d deep", r.limits.Depth)
	}
	old := r.scope
	r.scope = &scope{vars: map[string]Value{}, up: up}
	f()
	r.scope = old
	r.depth--
}

// capture returns what f writes.
func (r *renderer) capture(f func()) string {
	old := r.out
	r.out = &strings.Builder{}
	r.captures++
	f()
	s := r.out.String()
	r.out = old
	r.captures--
	return s
}

// lookup finds a name in the scopes, then among the globals.
func (r *renderer) lookup(name string) Value {
	for s := r.scope; s != nil; s = s.up {
		if v, ok := s.vars[name]; ok {
			return v
		}
	}
	if v, ok := globals[name]; ok {
		return v
	}
	return Undefined{repr(name) + " is undefined"}
}

// assign sets a target in the current scope.
func (r *renderer) assign(t target, v Value, line int) {
	switch {
	case t.tuple != nil:
		items := r.iterate(v, line)
		if len(items) > len(t.tuple) {
			fail("ValueError", line, "too many values to unpack (expected %d)", len(t.tuple))
		}
		if len(items) < len(t.tuple) {
			fail("ValueError", line, "not enough values to unpack (expected %d, got %d)", len(t.tuple), len(items))
		}
		for i, e := range t.tuple {
			r.assign(e, items[i], line)
		}
	case t.attr != "":
		ns, ok := r.lookup(t.name).(*namespace)
		if !ok {
			fail("TemplateRuntimeError", line, "cannot assign attribute on non-namespace object")
		}
		checkAttr(t.attr, line)
		ns.attrs.Set(t.attr, v)
	default:
		r.scope.vars[t.name] = v
	}
}

func checkAttr(name string, line int) {
	if strings.HasPrefix(name, "_") {
		fail("SecurityError", line, "Chat templates cannot store underscore-prefixed attributes on a namespace, but got %s. Please rename the attribute.", repr(name))
	}
}
