package kernelext

import (
	"go/parser"
	"go/scanner"
	"go/token"
	"strings"
	"unicode/utf16"
)

// completeness says whether code is "complete", "incomplete" (a console then asks for another line) or
// "invalid", by Go's grammar and GoNB's: declarations first, statements after a line %% or %main.
func completeness(code string) string {
	lines := strings.Split(code, "\n")
	if isSpecialCell(lines[0]) || askedName(code) != "" {
		return "complete"
	}
	var declarations, statements strings.Builder
	part, continued := &declarations, false
	for _, line := range lines {
		trimmed := strings.TrimPrefix(line, commentPrefix)
		command := continued || strings.HasPrefix(trimmed, "%") || strings.HasPrefix(trimmed, "!") && trimmed != "!"
		continued = command && strings.HasSuffix(trimmed, `\`)
		if !command {
			part.WriteString(line + "\n")
			continue
		}
		switch word, _, _ := strings.Cut(strings.TrimLeft(strings.TrimPrefix(trimmed, "%"), " \t"), " "); word {
		case "%", "main":
			part = &statements
		}
	}
	if continued {
		return "incomplete"
	}
	source := declarations.String()
	if part == &statements {
		source += "\nfunc _() {\n" + statements.String() + "\n}"
	}
	_, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+source, 0)
	switch {
	case err == nil:
		return "complete"
	case openEnded(declarations.String() + statements.String()):
		return "incomplete"
	}
	return "invalid"
}

// openEnded says whether more text could make code valid: a bracket, comment or raw string is open, or
// the last token wants another.
func openEnded(code string) bool {
	var s scanner.Scanner
	unterminated := false
	b := []byte(code)
	s.Init(token.NewFileSet().AddFile("", -1, len(b)), b, func(_ token.Position, msg string) {
		unterminated = unterminated || msg == "comment not terminated" || msg == "raw string literal not terminated"
	}, 0)
	depth, last := 0, token.EOF
	for {
		_, t, literal := s.Scan()
		switch t {
		case token.EOF:
			return unterminated || depth > 0 || last.IsOperator() && last != token.RBRACE && last != token.RPAREN &&
				last != token.RBRACK && last != token.INC && last != token.DEC
		case token.LBRACE, token.LPAREN, token.LBRACK:
			depth++
		case token.RBRACE, token.RPAREN, token.RBRACK:
			if depth--; depth < 0 {
				return false
			}
		case token.SEMICOLON:
			if literal == "\n" { // put in by the scanner
				continue
			}
		}
		last = t
	}
}

// utf16Offset turns an offset in code points into one in UTF-16 units, which GoNB counts.
func utf16Offset(code string, codePoints int) int {
	n := 0
	for _, r := range code {
		if codePoints == 0 {
			break
		}
		codePoints--
		n += utf16.RuneLen(r)
	}
	return n
}

// codePointOffset turns an offset in UTF-16 units into one in code points.
func codePointOffset(code string, units int) int {
	n := 0
	for _, r := range code {
		if units <= 0 {
			break
		}
		units -= utf16.RuneLen(r)
		n++
	}
	return n
}
