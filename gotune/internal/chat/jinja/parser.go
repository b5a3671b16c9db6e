package jinja

import "fmt"

// A parser turns tokens into statements, after jinja2.parser.
type parser struct {
	toks  []tok
	pos   int
	depth int
	loops int
	// unknown are filters and tests that do not exist. They are errors when all else
	// has been parsed, except in the arms of conditions, which may never run.
	unknown []*Error
}

func (p *parser) missing(line int, format, name string) {
	p.unknown = append(p.unknown, &Error{Kind: "TemplateAssertionError", Line: line, Message: fmt.Sprintf(format, repr(name))})
}

// maxNesting bounds how deep statements and expressions nest.
const maxNesting = 200

func (p *parser) cur() tok { return p.toks[p.pos] }

func (p *parser) take() tok {
	t := p.toks[p.pos]
	if t.kind != tokEOF {
		p.pos++
	}
	return t
}

func (p *parser) isOp(op string) bool { c := p.cur(); return c.kind == tokOp && c.text == op }
func (p *parser) isName(name string) bool {
	c := p.cur()
	return c.kind == tokName && c.text == name
}

func (p *parser) skipOp(op string) bool {
	if p.isOp(op) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) skipName(name string) bool {
	if p.isName(name) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) wantOp(op string) {
	if !p.skipOp(op) {
		fail("TemplateSyntaxError", p.cur().line, "expected token '%s', got '%s'", op, p.cur())
	}
}

func (p *parser) wantName() string {
	t := p.take()
	if t.kind != tokName {
		fail("TemplateSyntaxError", t.line, "expected token 'name', got '%s'", t)
	}
	return t.text
}

func (p *parser) wantBlockEnd() {
	if t := p.take(); t.kind != tokBlockEnd {
		fail("TemplateSyntaxError", t.line, "expected token 'end of statement block', got '%s'", t)
	}
}

// maxChain bounds how many operators, attributes or filters follow one another:
// each is one level of the tree.
const maxChain = 10_000

// link counts a step of a chain.
func (p *parser) link(n *int) {
	if *n++; *n > maxChain {
		fail("TemplateSyntaxError", p.cur().line, "more than %d operators in a row", maxChain)
	}
}

// enter counts nesting; leave undoes it.
func (p *parser) enter() {
	if p.depth++; p.depth > maxNesting {
		fail("TemplateSyntaxError", p.cur().line, "nested more than %d deep", maxNesting)
	}
}

func (p *parser) leave() { p.depth-- }

// body parses statements up to a block tag named in ends, which stays current
// without its "{%"; it returns at the end of the template if ends is empty.
func (p *parser) body(ends ...string) []stmt {
	p.enter()
	defer p.leave()
	var out []stmt
	for {
		t := p.take()
		switch t.kind {
		case tokData:
			out = append(out, &dataStmt{t.text})
		case tokVarBegin:
			e := p.tuple(true)
			if end := p.take(); end.kind != tokVarEnd {
				fail("TemplateSyntaxError", end.line, "expected token 'end of print statement', got '%s'", end)
			}
			out = append(out, &outputStmt{e, t.line})
		case tokBlockBegin:
			c := p.cur()
			if c.kind != tokName {
				fail("TemplateSyntaxError", c.line, "tag name expected")
			}
			for _, end := range ends {
				if c.text == end {
					return out
				}
			}
			out = append(out, p.statement())
		case tokEOF:
			if len(ends) > 0 {
				fail("TemplateSyntaxError", t.line, "Unexpected end of template. Jinja was looking for the following tags: '%s'.", ends[len(ends)-1])
			}
			return out
		}
	}
}

// block parses the rest of an opening tag and the body up to end, and both tags.
func (p *parser) block(end string) []stmt {
	p.wantBlockEnd()
	b := p.body(end)
	p.pos++
	p.wantBlockEnd()
	return b
}

// statement parses one block tag; its name is current.
func (p *parser) statement() stmt {
	t := p.take()
	switch t.text {
	case "for":
		return p.forStatement(t.line)
	case "if":
		return p.ifStatement()
	case "set":
		return p.setStatement(t.line)
	case "macro":
		m := &macroStmt{name: p.wantName(), line: t.line}
		p.signature(m)
		m.body = p.unlooped("endmacro")
		return m
	case "call":
		return p.callStatement(t.line)
	case "filter":
		fs := p.filters(nil, true)
		return &filterStmt{filters: fs, body: p.block("endfilter"), line: t.line}
	case "with":
		return p.withStatement(t.line)
	case "generation":
		return &generationStmt{p.unlooped("endgeneration")}
	case "break", "continue":
		if p.loops == 0 {
			fail("TemplateSyntaxError", t.line, "'%s' outside loop", t.text)
		}
		p.wantBlockEnd()
		if t.text == "break" {
			return &breakStmt{}
		}
		return &continueStmt{}
	case "include", "import", "from", "extends", "block", "autoescape":
		fail("TemplateSyntaxError", t.line, "the tag '%s' is not supported in chat templates", t.text)
	}
	fail("TemplateSyntaxError", t.line, "Encountered unknown tag '%s'.", t.text)
	return nil
}

// unlooped parses a body whose break and continue can't reach a loop outside.
func (p *parser) unlooped(end string) []stmt {
	loops := p.loops
	p.loops = 0
	b := p.block(end)
	p.loops = loops
	return b
}

func (p *parser) forStatement(line int) stmt {
	f := &forStmt{line: line}
	f.targets = p.targets(false)
	if !p.skipName("in") {
		fail("TemplateSyntaxError", p.cur().line, "expected token 'in', got '%s'", p.cur())
	}
	f.in = p.tuple(false)
	if p.skipName("if") {
		f.filter = p.expression()
	}
	f.recursive = p.skipName("recursive")
	p.wantBlockEnd()
	p.loops++
	f.body = p.body("endfor", "else")
	p.loops--
	if p.take().text == "else" {
		p.wantBlockEnd()
		f.els = p.body("endfor")
		p.pos++
	}
	p.wantBlockEnd()
	return f
}

func (p *parser) ifStatement() stmt {
	s := &ifStmt{}
	mark := len(p.unknown)
	defer func() { p.unknown = p.unknown[:mark] }()
	for {
		s.conds = append(s.conds, p.tuple(false))
		p.wantBlockEnd()
		s.bodies = append(s.bodies, p.body("elif", "else", "endif"))
		t := p.take()
		if t.text == "elif" {
			continue
		}
		if t.text == "else" {
			p.wantBlockEnd()
			s.els = p.body("endif")
			p.pos++
		}
		p.wantBlockEnd()
		return s
	}
}

func (p *parser) setStatement(line int) stmt {
	to := p.targets(true)
	if p.skipOp("=") {
		s := &setStmt{to, p.tuple(true), line}
		p.wantBlockEnd()
		return s
	}
	s := &setBlockStmt{to: to, filters: p.filters(nil, false), line: line}
	s.body = p.block("endset")
	return s
}

func (p *parser) callStatement(line int) stmt {
	s := &callStmt{block: &macroStmt{name: "caller", line: line}, line: line}
	if p.isOp("(") {
		p.signature(s.block)
	}
	c, ok := p.expression().(*callExpr)
	if !ok {
		fail("TemplateSyntaxError", line, "expected call")
	}
	s.call = c
	s.block.body = p.unlooped("endcall")
	return s
}

func (p *parser) withStatement(line int) stmt {
	s := &withStmt{line: line}
	for p.cur().kind != tokBlockEnd {
		if len(s.targets) > 0 {
			p.wantOp(",")
		}
		s.targets = append(s.targets, p.targets(false))
		p.wantOp("=")
		s.values = append(s.values, p.expression())
	}
	s.body = p.block("endwith")
	return s
}

// signature parses the parameters of a macro.
func (p *parser) signature(m *macroStmt) {
	p.wantOp("(")
	for !p.skipOp(")") {
		if len(m.params) > 0 {
			p.wantOp(",")
		}
		m.params = append(m.params, p.wantName())
		if p.skipOp("=") {
			m.defaults = append(m.defaults, p.expression())
		} else if len(m.defaults) > 0 {
			fail("TemplateSyntaxError", p.cur().line, "non-default argument follows default argument")
		}
	}
}

// targets parses the left side of an assignment; attr allows "ns.x".
func (p *parser) targets(attr bool) target {
	p.enter()
	defer p.leave()
	one := func() target {
		if p.skipOp("(") {
			t := p.targets(false)
			p.wantOp(")")
			return t
		}
		t := target{name: p.wantName()}
		switch t.name {
		case "true", "false", "none", "True", "False", "None":
			fail("TemplateSyntaxError", p.cur().line, "can't assign to '%s'", t.name)
		}
		if attr && p.skipOp(".") {
			t.attr = p.wantName()
		}
		return t
	}
	first := one()
	if !p.isOp(",") {
		return first
	}
	all := target{tuple: []target{first}}
	for p.skipOp(",") {
		if p.cur().kind != tokName && !p.isOp("(") || p.isName("in") {
			break
		}
		all.tuple = append(all.tuple, one())
	}
	return all
}
