package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind int

const (
	tokData tokenKind = iota // text outside of tags
	tokBlockBegin
	tokBlockEnd
	tokVarBegin
	tokVarEnd
	tokName
	tokString
	tokInt
	tokFloat
	tokOp
	tokEOF
)

type tok struct {
	kind tokenKind
	text string // source of names and operators, value of strings and data
	line int
	n    int64
	f    float64
}

func (t tok) String() string {
	switch t.kind {
	case tokEOF:
		return "end of template"
	case tokBlockEnd:
		return "end of statement block"
	case tokVarEnd:
		return "end of print statement"
	case tokData:
		return "template data"
	}
	return t.text
}

// A lexer cuts a template into tokens as jinja2.lexer does with trim_blocks and
// lstrip_blocks on.
type lexer struct {
	src  string
	pos  int
	line int
	out  []tok
}

// lex returns the tokens of src. Line ends become "\n"; one at the very end of the
// template is dropped (keep_trailing_newline is off).
func lex(src string) []tok {
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	src = strings.TrimSuffix(src, "\n")
	l := &lexer{src: src, line: 1}
	lineStart := true // the text so far ends a line
	for l.pos < len(l.src) {
		begin := l.nextTag()
		data := l.src[l.pos:begin]
		if begin == len(l.src) {
			l.emitData(data, data)
			l.pos = begin
			break
		}
		kind := l.src[begin+1]
		after := begin + 2
		sign := byte(0)
		if after < len(l.src) && (l.src[after] == '-' || l.src[after] == '+') {
			sign = l.src[after]
			after++
		}
		kept := data
		if sign == '-' {
			kept = strings.TrimRightFunc(data, isSpace)
		} else if sign != '+' && kind != '{' {
			kept = stripIndent(data, lineStart)
		}
		l.emitData(data, kept)
		l.line += strings.Count(l.src[begin:after], "\n")
		l.pos = after
		switch kind {
		case '#':
			l.comment()
		case '{':
			l.expression(tokVarBegin, tokVarEnd, "}}")
		default:
			if !l.raw() {
				l.expression(tokBlockBegin, tokBlockEnd, "%}")
			}
		}
		lineStart = l.pos > 0 && l.src[l.pos-1] == '\n'
	}
	l.out = append(l.out, tok{kind: tokEOF, line: l.line})
	return l.out
}

// nextTag returns the offset of the next "{{", "{%" or "{#", or the end.
func (l *lexer) nextTag() int {
	for i := l.pos; i+1 < len(l.src); i++ {
		if l.src[i] == '{' && (l.src[i+1] == '{' || l.src[i+1] == '%' || l.src[i+1] == '#') {
			return i
		}
	}
	return len(l.src)
}

// stripIndent drops white space between the last line end and a block tag.
func stripIndent(data string, lineStart bool) string {
	i := strings.LastIndexByte(data, '\n') + 1
	if (i > 0 || lineStart) && strings.TrimFunc(data[i:], isSpace) == "" {
		return data[:i]
	}
	return data
}

// emitData adds the text kept of data.
func (l *lexer) emitData(data, kept string) {
	if kept != "" {
		l.out = append(l.out, tok{kind: tokData, text: kept, line: l.line})
	}
	l.line += strings.Count(data, "\n")
}

// end consumes the end of a tag, "%}" or "#}" or "}}" with its sign: "-" drops the
// white space that follows, trim_blocks one line end (not behind "}}").
func (l *lexer) end(mark string) bool {
	s := l.src[l.pos:]
	switch {
	case strings.HasPrefix(s, "-"+mark):
		rest := strings.TrimLeftFunc(s[1+len(mark):], isSpace)
		l.skip(len(s) - len(rest))
	case mark != "}}" && strings.HasPrefix(s, "+"+mark):
		l.skip(1 + len(mark))
	case strings.HasPrefix(s, mark):
		n := len(mark)
		if mark != "}}" && strings.HasPrefix(s[n:], "\n") {
			n++
		}
		l.skip(n)
	default:
		return false
	}
	return true
}

func (l *lexer) skip(n int) {
	l.line += strings.Count(l.src[l.pos:l.pos+n], "\n")
	l.pos += n
}

func (l *lexer) comment() {
	i := strings.Index(l.src[l.pos:], "#}")
	if i < 0 {
		fail("TemplateSyntaxError", l.line, "Missing end of comment tag")
	}
	if i > 0 && (l.src[l.pos+i-1] == '-' || l.src[l.pos+i-1] == '+') {
		i--
	}
	l.skip(i)
	l.end("#}")
}

// raw handles {% raw %} … {% endraw %}; it returns false for any other block.
func (l *lexer) raw() bool {
	s := strings.TrimLeftFunc(l.src[l.pos:], isSpace)
	if !strings.HasPrefix(s, "raw") {
		return false
	}
	s = strings.TrimLeftFunc(s[3:], isSpace)
	strip := strings.HasPrefix(s, "-%}")
	if !strip && !strings.HasPrefix(s, "%}") {
		return false
	}
	s = s[strings.Index(s, "%}")+2:]
	if strip {
		s = strings.TrimLeftFunc(s, isSpace)
	}
	l.skip(len(l.src) - l.pos - len(s))
	for from := l.pos; ; {
		i := strings.Index(l.src[from:], "{%")
		if i < 0 && l.pos == len(l.src) {
			return true // Jinja2, too, lets a raw tag end the template
		}
		if i < 0 {
			fail("TemplateSyntaxError", l.line, "Missing end of raw directive")
		}
		begin := from + i
		from = begin + 2
		rest := l.src[from:]
		sign := byte(0)
		if rest != "" && (rest[0] == '-' || rest[0] == '+') {
			sign = rest[0]
			rest = rest[1:]
		}
		rest = strings.TrimLeftFunc(rest, isSpace)
		if !strings.HasPrefix(rest, "endraw") {
			continue
		}
		rest = strings.TrimLeftFunc(rest[6:], isSpace)
		if !strings.HasPrefix(strings.TrimLeft(rest, "-+"), "%}") {
			continue
		}
		data := l.src[l.pos:begin]
		kept := data
		if sign == '-' {
			kept = strings.TrimRightFunc(data, isSpace)
		} else if sign != '+' {
			kept = stripIndent(data, l.pos > 0 && l.src[l.pos-1] == '\n')
		}
		l.emitData(data, kept)
		l.pos = begin
		l.skip(len(l.src) - len(rest) - begin)
		if !l.end("%}") {
			fail("TemplateSyntaxError", l.line, "Missing end of raw directive")
		}
		return true
	}
}

var operators = []string{"**", "//", "==", "!=", ">=", "<=",
	"+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"}

// expression reads the tokens of a tag up to its end mark, which does not count
// inside brackets.
func (l *lexer) expression(begin, end tokenKind, mark string) {
	l.out = append(l.out, tok{kind: begin, line: l.line})
	start := l.line
	var open []byte
	for {
		for l.pos < len(l.src) {
			r, n := utf8.DecodeRuneInString(l.src[l.pos:])
			if !isSpace(r) {
				break
			}
			l.skip(n)
		}
		if l.pos >= len(l.src) {
			fail("TemplateSyntaxError", start, "unexpected end of template, expected '%s'", mark)
		}
		line := l.line
		if len(open) == 0 && l.end(mark) {
			l.out = append(l.out, tok{kind: end, line: line})
			return
		}
		c := l.src[l.pos]
		switch {
		case c >= '0' && c <= '9':
			l.number()
		case c == '"' || c == '\'':
			l.str(c)
		case l.name():
		default:
			open = l.operator(open)
		}
	}
}

func (l *lexer) name() bool {
	n := 0
	for i, r := range l.src[l.pos:] {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsNumber(r) && !unicode.Is(unicode.M, r)) || r == utf8.RuneError {
			break
		}
		n = i + utf8.RuneLen(r)
	}
	if n == 0 {
		return false
	}
	l.out = append(l.out, tok{kind: tokName, text: l.src[l.pos : l.pos+n], line: l.line})
	l.pos += n
	return true
}

// operator reads an operator and keeps track of open brackets.
func (l *lexer) operator(open []byte) []byte {
	for _, op := range operators {
		if !strings.HasPrefix(l.src[l.pos:], op) {
			continue
		}
		switch op {
		case "(", "[", "{":
			open = append(open, map[string]byte{"(": ')', "[": ']', "{": '}'}[op])
		case ")", "]", "}":
			if len(open) == 0 {
				fail("TemplateSyntaxError", l.line, "unexpected '%s'", op)
			}
			if want := open[len(open)-1]; op[0] != want {
				fail("TemplateSyntaxError", l.line, "unexpected '%s', expected '%c'", op, want)
			}
			open = open[:len(open)-1]
		}
		l.out = append(l.out, tok{kind: tokOp, text: op, line: l.line})
		l.pos += len(op)
		return open
	}
	r, _ := utf8.DecodeRuneInString(l.src[l.pos:])
	fail("TemplateSyntaxError", l.line, "unexpected char %s at %d", repr(string(r)), l.pos)
	return nil
}

// number reads an integer or a float; "_" may stand between digits. A dot needs a
// digit behind it, so that "1.x" is an attribute.
func (l *lexer) number() {
	s := l.src[l.pos:]
	digits := func(i int, set string) int {
		for i < len(s) && (strings.IndexByte(set, s[i]) >= 0 || s[i] == '_' && i+1 < len(s) && strings.IndexByte(set, s[i+1]) >= 0) {
			i++
		}
		return i
	}
	const dec = "0123456789"
	n, float := 0, false
	if len(s) > 2 && s[0] == '0' && strings.IndexByte("xXoObB", s[1]) >= 0 {
		set := map[byte]string{'x': dec + "abcdefABCDEF", 'o': "01234567", 'b': "01"}[s[1]|0x20]
		if k := digits(2, set); k > 2 {
			n = k
		}
	}
	if n == 0 {
		n = digits(0, dec)
		if n+1 < len(s) && s[n] == '.' && s[n+1] >= '0' && s[n+1] <= '9' {
			n, float = digits(n+1, dec), true
		}
		if n < len(s) && s[n]|0x20 == 'e' {
			k := n + 1
			if k < len(s) && (s[k] == '+' || s[k] == '-') {
				k++
			}
			if e := digits(k, dec); e > k {
				n, float = e, true
			}
		}
	}
	t := tok{kind: tokInt, text: s[:n], line: l.line}
	clean := strings.ReplaceAll(s[:n], "_", "")
	var err error
	if float {
		t.kind = tokFloat
		t.f, err = strconv.ParseFloat(clean, 64)
	} else if t.n, err = strconv.ParseInt(clean, 0, 64); err != nil {
		t.n, err = strconv.ParseInt(strings.TrimLeft(clean, "0"), 10, 64)
		if strings.Trim(clean, "0") == "" {
			err = nil
		}
	}
	if err != nil && !float {
		fail("TemplateSyntaxError", l.line, "number %s is too large", s[:n])
	}
	l.out = append(l.out, t)
	l.pos += n
}

// str reads a string literal with Python's escapes.
func (l *lexer) str(quote byte) {
	s := l.src[l.pos+1:]
	n := 0
	for n < len(s) && s[n] != quote {
		if s[n] == '\\' {
			n++
		}
		n++
	}
	if n >= len(s) {
		fail("TemplateSyntaxError", l.line, "unexpected char %s at %d", repr(string(quote)), l.pos)
	}
	t := tok{kind: tokString, line: l.line}
	t.text = unescape(s[:n], l.line)
	l.out = append(l.out, t)
	l.skip(n + 2)
}

var simpleEscapes = map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '\\': "\\", '\'': "'", '"': "\"",
	'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\n': ""}

// unescape resolves the escapes of a Python string literal; unknown ones stay.
func unescape(s string, line int) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if e, ok := simpleEscapes[s[i]]; ok {
			b.WriteString(e)
			continue
		}
		width := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i]]
		switch {
		case width > 0:
			if i+width >= len(s) {
				fail("TemplateSyntaxError", line, "truncated \\%c escape", s[i])
			}
			v, err := strconv.ParseUint(s[i+1:i+1+width], 16, 32)
			if err != nil || v > unicode.MaxRune {
				fail("TemplateSyntaxError", line, "truncated \\%c escape", s[i])
			}
			b.WriteRune(rune(v))
			i += width
		case s[i] >= '0' && s[i] <= '7':
			k := i + 1
			for k < len(s) && k < i+3 && s[k] >= '0' && s[k] <= '7' {
				k++
			}
			v, _ := strconv.ParseUint(s[i:k], 8, 32)
			b.WriteRune(rune(v))
			i = k - 1
		case s[i] == 'N':
			fail("TemplateSyntaxError", line, "\\N{…} escapes are not supported")
		default:
			b.WriteByte('\\')
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// fail ends parsing or rendering with an *Error; Parse and Render return it.
func fail(kind string, line int, format string, args ...any) {
	panic(&Error{Kind: kind, Line: line, Message: fmt.Sprintf(format, args...)})
}
