package jinja

// expression parses a conditional expression: a if b else c.
func (p *parser) expression() expr {
	p.enter()
	defer p.leave()
	mark := len(p.unknown)
	e := p.or()
	for n := 0; p.skipName("if"); p.link(&n) {
		c := &condExpr{then: e, cond: p.or()}
		if p.skipName("else") {
			c.els = p.expression()
		}
		p.unknown = p.unknown[:mark]
		e = c
	}
	return e
}

// tuple parses expressions joined by commas; conds allows conditional ones.
func (p *parser) tuple(conds bool) expr {
	parse := p.or
	if conds {
		parse = p.expression
	}
	first := parse()
	if !p.isOp(",") {
		return first
	}
	t := &tupleExpr{items: []expr{first}}
	for p.skipOp(",") {
		if p.endsTuple() {
			break
		}
		t.items = append(t.items, parse())
	}
	return t
}

func (p *parser) endsTuple() bool {
	c := p.cur()
	return c.kind == tokVarEnd || c.kind == tokBlockEnd || c.kind == tokEOF || p.isOp(")")
}

func (p *parser) or() expr {
	e := p.and()
	for n := 0; p.isName("or"); p.link(&n) {
		line := p.take().line
		e = &binaryExpr{"or", e, p.and(), line}
	}
	return e
}

func (p *parser) and() expr {
	e := p.not()
	for n := 0; p.isName("and"); p.link(&n) {
		line := p.take().line
		e = &binaryExpr{"and", e, p.not(), line}
	}
	return e
}

func (p *parser) not() expr {
	if !p.isName("not") {
		return p.compare()
	}
	p.enter()
	defer p.leave()
	line := p.take().line
	return &unaryExpr{"not", p.not(), line}
}

func (p *parser) compare() expr {
	first := p.sum()
	c := &compareExpr{first: first, line: p.cur().line}
	for {
		op := ""
		switch t := p.cur(); {
		case t.kind == tokOp && (t.text == "==" || t.text == "!=" || t.text == "<" || t.text == "<=" || t.text == ">" || t.text == ">="):
			op = t.text
			p.pos++
		case p.skipName("in"):
			op = "in"
		case p.isName("not") && p.toks[p.pos+1].kind == tokName && p.toks[p.pos+1].text == "in":
			op = "not in"
			p.pos += 2
		}
		if op == "" {
			break
		}
		c.ops = append(c.ops, op)
		c.rest = append(c.rest, p.sum())
	}
	if len(c.ops) == 0 {
		return first
	}
	return c
}

// binary parses operands joined by any of ops, from the left.
func (p *parser) binary(operand func() expr, ops ...string) expr {
	e := operand()
	for n := 0; ; p.link(&n) {
		t := p.cur()
		found := false
		for _, op := range ops {
			found = found || t.kind == tokOp && t.text == op
		}
		if !found {
			return e
		}
		p.pos++
		e = &binaryExpr{t.text, e, operand(), t.line}
	}
}

func (p *parser) sum() expr     { return p.binary(p.concat, "+", "-") }
func (p *parser) concat() expr  { return p.binary(p.product, "~") }
func (p *parser) product() expr { return p.binary(p.power, "*", "/", "//", "%") }
func (p *parser) power() expr   { return p.binary(func() expr { return p.unary(true) }, "**") }

func (p *parser) unary(filters bool) expr {
	p.enter()
	defer p.leave()
	var e expr
	if t := p.cur(); p.isOp("-") || p.isOp("+") {
		p.pos++
		e = &unaryExpr{t.text, p.unary(false), t.line}
	} else {
		e = p.primary()
	}
	e = p.postfix(e)
	if filters {
		e = p.filtered(e)
	}
	return e
}

func (p *parser) primary() expr {
	t := p.take()
	switch t.kind {
	case tokName:
		switch t.text {
		case "true", "True":
			return &literal{true}
		case "false", "False":
			return &literal{false}
		case "none", "None":
			return &literal{nil}
		}
		return &nameExpr{t.text}
	case tokString:
		s := t.text
		for p.cur().kind == tokString {
			s += p.take().text
		}
		return &literal{s}
	case tokInt:
		return &literal{t.n}
	case tokFloat:
		return &literal{t.f}
	case tokOp:
		switch t.text {
		case "(":
			return p.parenthesis()
		case "[":
			return &listExpr{p.items("]")}
		case "{":
			return p.dict(t.line)
		}
	}
	fail("TemplateSyntaxError", t.line, "unexpected '%s'", t)
	return nil
}

func (p *parser) parenthesis() expr {
	if p.skipOp(")") {
		return &tupleExpr{}
	}
	e := p.tuple(true)
	p.wantOp(")")
	return e
}

// items parses expressions up to the closing bracket; a last comma may follow.
func (p *parser) items(end string) []expr {
	var out []expr
	for !p.skipOp(end) {
		if len(out) > 0 {
			p.wantOp(",")
			if p.skipOp(end) {
				break
			}
		}
		out = append(out, p.expression())
	}
	return out
}

func (p *parser) dict(line int) expr {
	d := &dictExpr{line: line}
	for !p.skipOp("}") {
		if len(d.keys) > 0 {
			p.wantOp(",")
			if p.skipOp("}") {
				break
			}
		}
		d.keys = append(d.keys, p.expression())
		p.wantOp(":")
		d.values = append(d.values, p.expression())
	}
	return d
}

// postfix parses attributes, subscripts and calls behind e.
func (p *parser) postfix(e expr) expr {
	for n := 0; ; p.link(&n) {
		switch t := p.cur(); {
		case p.skipOp("."):
			a := p.take()
			switch a.kind {
			case tokName:
				e = &attrExpr{e, a.text, t.line}
			case tokInt:
				e = &itemExpr{e, &literal{a.n}, t.line}
			default:
				fail("TemplateSyntaxError", a.line, "expected name or number")
			}
		case p.skipOp("["):
			e = &itemExpr{e, p.subscript(), t.line}
		case p.isOp("("):
			e = &callExpr{e, p.arguments(), t.line}
		default:
			return e
		}
	}
}

// subscript parses what stands in brackets behind a value.
func (p *parser) subscript() expr {
	var parts []expr
	for !p.skipOp("]") {
		if len(parts) > 0 {
			p.wantOp(",")
		}
		parts = append(parts, p.slice())
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return &tupleExpr{parts}
}

func (p *parser) slice() expr {
	part := func() expr {
		if p.isOp(":") || p.isOp("]") || p.isOp(",") {
			return nil
		}
		return p.expression()
	}
	start := part()
	if !p.skipOp(":") {
		if start == nil {
			fail("TemplateSyntaxError", p.cur().line, "expected subscript expression")
		}
		return start
	}
	s := &sliceExpr{start: start, stop: part()}
	if p.skipOp(":") {
		s.step = part()
	}
	return s
}

func (p *parser) arguments() argList {
	p.wantOp("(")
	var a argList
	for n := 0; !p.skipOp(")"); n++ {
		if n > 0 {
			p.wantOp(",")
			if p.skipOp(")") {
				break
			}
		}
		c := p.cur()
		switch {
		case p.skipOp("*"):
			a.star = p.expression()
		case p.skipOp("**"):
			a.dict = p.expression()
		case c.kind == tokName && p.toks[p.pos+1].kind == tokOp && p.toks[p.pos+1].text == "=":
			p.pos += 2
			a.names = append(a.names, c.text)
			a.kw = append(a.kw, p.expression())
		case len(a.names) > 0:
			fail("TemplateSyntaxError", c.line, "invalid syntax for function call expression")
		default:
			a.pos = append(a.pos, p.expression())
		}
	}
	return a
}

// filtered parses filters, tests and calls behind e.
func (p *parser) filtered(e expr) expr {
	for n := 0; ; p.link(&n) {
		switch t := p.cur(); {
		case p.isOp("|"):
			for _, f := range p.filters(e, false) {
				e = f
			}
		case p.isName("is"):
			e = p.test(e)
		case p.isOp("("):
			e = &callExpr{e, p.arguments(), t.line}
		default:
			return e
		}
	}
}

// filters parses "| a | b(1)"; each filter is applied to the one before it, the
// first to e. bare leaves out the first bar.
func (p *parser) filters(e expr, bare bool) []*filterExpr {
	var out []*filterExpr
	for n := 0; bare || p.skipOp("|"); p.link(&n) {
		bare = false
		f := &filterExpr{of: e, line: p.cur().line}
		f.name = p.dotted()
		if p.isOp("(") {
			f.args = p.arguments()
		}
		if !knownFilter(f.name) {
			p.missing(f.line, "No filter named %s.", f.name)
		}
		out = append(out, f)
		e = f
	}
	return out
}

func (p *parser) dotted() string {
	name := p.wantName()
	for p.skipOp(".") {
		name += "." + p.wantName()
	}
	return name
}

func (p *parser) test(e expr) expr {
	line := p.take().line // "is"
	t := &testExpr{of: e, not: p.skipName("not"), line: line}
	t.name = p.dotted()
	switch c := p.cur(); {
	case p.isOp("("):
		t.args = p.arguments()
	case c.kind == tokString || c.kind == tokInt || c.kind == tokFloat || p.isOp("[") || p.isOp("{"),
		c.kind == tokName && c.text != "else" && c.text != "or" && c.text != "and":
		if c.text == "is" && c.kind == tokName {
			fail("TemplateSyntaxError", c.line, "You cannot chain multiple tests with is")
		}
		t.args.pos = []expr{p.postfix(p.primary())}
	}
	if tests[t.name] == nil {
		p.missing(line, "No test named %s.", t.name)
	}
	return t
}
