package jinja

// execAll runs statements until one breaks or continues a loop.
func (r *renderer) execAll(body []stmt) signal {
	for _, s := range body {
		r.step()
		if sig := s.exec(r); sig != next {
			return sig
		}
	}
	return next
}

func (s *dataStmt) exec(r *renderer) signal {
	r.write(s.text)
	return next
}

func (s *outputStmt) exec(r *renderer) signal {
	v := s.of.eval(r)
	if t, ok := v.(string); ok {
		r.write(t)
		return next
	}
	r.work(size(v))
	r.write(str(v))
	return next
}

func (s *ifStmt) exec(r *renderer) signal {
	for i, c := range s.conds {
		if truth(c.eval(r)) {
			return r.execAll(s.bodies[i])
		}
	}
	return r.execAll(s.els)
}

func (s *setStmt) exec(r *renderer) signal {
	r.assign(s.to, s.from.eval(r), s.line)
	return next
}

func (s *setBlockStmt) exec(r *renderer) signal {
	var v Value = r.capture(func() { r.nested(r.scope, func() { r.execAll(s.body) }) })
	v = r.applyFilters(s.filters, v)
	r.assign(s.to, v, s.line)
	return next
}

// applyFilters applies a chain of filters to v.
func (r *renderer) applyFilters(fs []*filterExpr, v Value) Value {
	for _, f := range fs {
		v = r.filter(f.name, v, f.args.eval(r, f.line))
	}
	return v
}

func (s *filterStmt) exec(r *renderer) signal {
	var v Value = r.capture(func() { r.nested(r.scope, func() { r.execAll(s.body) }) })
	r.write(str(r.applyFilters(s.filters, v)))
	return next
}

func (s *withStmt) exec(r *renderer) signal {
	values := make([]Value, len(s.values))
	for i, e := range s.values {
		values[i] = e.eval(r)
	}
	var sig signal
	r.nested(r.scope, func() {
		for i, t := range s.targets {
			r.assign(t, values[i], s.line)
		}
		sig = r.execAll(s.body)
	})
	return sig
}

func (s *generationStmt) exec(r *renderer) signal {
	start := r.out.Len()
	r.nested(r.scope, func() { r.execAll(s.body) })
	if r.captures == 0 {
		r.spans = append(r.spans, Span{start, r.out.Len()})
	}
	return next
}

func (*breakStmt) exec(*renderer) signal    { return breakLoop }
func (*continueStmt) exec(*renderer) signal { return continueLoop }

// A macro is a part of a template that is called like a function and returns
// what it writes.
type macro struct {
	name string
	def  *macroStmt
	up   *scope
}

func (s *macroStmt) exec(r *renderer) signal {
	r.scope.vars[s.name] = &macro{s.name, s, r.scope}
	return next
}

func (s *callStmt) exec(r *renderer) signal {
	f := s.call.of.eval(r)
	a := s.call.args.eval(r, s.line)
	a.setKW("caller", &macro{"caller", s.block, r.scope})
	v := r.call(f, a)
	r.write(str(v))
	return next
}

func (a *args) setKW(name string, v Value) {
	if a.kw == nil {
		a.kw = map[string]Value{}
	}
	a.names = append(a.names, name)
	a.kw[name] = v
}

// call runs the macro: missing arguments take their defaults or are undefined;
// surplus ones are varargs and kwargs.
func (m *macro) call(r *renderer, a args) Value {
	return r.capture(func() {
		r.nested(m.up, func() {
			vars := r.scope.vars
			params := m.def.params
			for i, p := range params {
				if i < len(a.pos) {
					vars[p] = a.pos[i]
				} else if v, ok := a.kw[p]; ok {
					vars[p] = v
				} else if k := i - (len(params) - len(m.def.defaults)); k >= 0 {
					vars[p] = m.def.defaults[k].eval(r)
				} else {
					vars[p] = Undefined{"parameter " + repr(p) + " was not provided"}
				}
			}
			rest, kwargs := Tuple{}, NewDict()
			if len(a.pos) > len(params) {
				rest = a.pos[len(params):]
			}
			for _, n := range a.names {
				if n == "caller" {
					vars[n] = a.kw[n]
				} else if _, isParam := vars[n]; !isParam {
					kwargs.Set(n, a.kw[n])
				}
			}
			vars["varargs"], vars["kwargs"] = rest, kwargs
			r.execAll(m.def.body)
		})
	})
}

// loopState is the name "loop" inside a for.
type loopState struct {
	stmt   *forStmt
	items  []Value
	index  int
	depth  int
	scope  *scope // of the for statement
	last   []Value
	called bool // changed() has been called
}

func (s *forStmt) exec(r *renderer) signal {
	r.runLoop(s, s.in.eval(r), 0, r.scope)
	return next
}

// runLoop runs the body for each item, each time in a new scope.
func (r *renderer) runLoop(s *forStmt, in Value, depth int, up *scope) {
	items := r.iterate(in, s.line)
	if s.filter != nil {
		items = r.filterItems(s, items, up)
	}
	l := &loopState{stmt: s, items: items, depth: depth, scope: up}
	for i := range items {
		l.index = i
		sig := next
		r.nested(up, func() {
			r.step()
			r.scope.vars["loop"] = l
			r.assign(s.targets, items[i], s.line)
			sig = r.execAll(s.body)
		})
		if sig == breakLoop {
			break
		}
	}
	if len(items) == 0 {
		r.nested(up, func() { r.execAll(s.els) })
	}
}

// filterItems keeps the items that the loop's "if" accepts.
func (r *renderer) filterItems(s *forStmt, items []Value, up *scope) []Value {
	var out []Value
	for _, it := range items {
		r.nested(up, func() {
			r.step()
			r.assign(s.targets, it, s.line)
			if truth(s.filter.eval(r)) {
				out = append(out, it)
			}
		})
	}
	return out
}

// attr returns an attribute of loop.
func (l *loopState) attr(name string) (Value, bool) {
	n := int64(len(l.items))
	i := int64(l.index)
	switch name {
	case "index":
		return i + 1, true
	case "index0":
		return i, true
	case "revindex":
		return n - i, true
	case "revindex0":
		return n - i - 1, true
	case "first":
		return i == 0, true
	case "last":
		return i == n-1, true
	case "length":
		return n, true
	case "depth":
		return int64(l.depth + 1), true
	case "depth0":
		return int64(l.depth), true
	case "previtem":
		if i == 0 {
			return Undefined{"there is no previous item"}, true
		}
		return l.items[i-1], true
	case "nextitem":
		if i == n-1 {
			return Undefined{"there is no next item"}, true
		}
		return l.items[i+1], true
	case "cycle":
		return &function{"cycle", func(r *renderer, a args) Value {
			if len(a.pos) == 0 {
				fail("TypeError", a.line, "no items for cycling given")
			}
			return a.pos[l.index%len(a.pos)]
		}}, true
	case "changed":
		return &function{"changed", func(r *renderer, a args) Value {
			if l.called && r.equal(Tuple(l.last), Tuple(a.pos)) {
				return false
			}
			l.called, l.last = true, a.pos
			return true
		}}, true
	}
	return nil, false
}

// call is loop(items) in a recursive loop.
func (l *loopState) call(r *renderer, a args) Value {
	if !l.stmt.recursive {
		fail("TypeError", a.line, "The loop must have the 'recursive' marker to be called recursively.")
	}
	if len(a.pos) != 1 {
		fail("TypeError", a.line, "loop() takes one argument")
	}
	return r.capture(func() { r.runLoop(l.stmt, a.pos[0], l.depth+1, l.scope) })
}
