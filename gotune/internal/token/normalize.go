package token

import (
	"strings"

	"golang.org/x/text/unicode/norm"
)

// A normalizer changes the text before it is split.
type normalizer interface{ apply(string) string }

// A mover is a normalizer that may take characters off the front of a text.
type mover interface{ moves(string) bool }

// prepend puts a text in front of a text that is not empty.
type prepend string

func (p prepend) apply(s string) string {
	if s == "" {
		return s
	}
	return string(p) + s
}

// replace puts content in place of each match.
type replace struct {
	pattern pattern
	content string
}

func (r replace) apply(s string) string {
	if r.pattern.re == nil {
		return strings.ReplaceAll(s, r.pattern.text, r.content)
	}
	var b strings.Builder
	done := 0
	for _, m := range r.pattern.find(s) {
		b.WriteString(s[done:m[0]])
		b.WriteString(r.content)
		done = m[1]
	}
	b.WriteString(s[done:])
	return b.String()
}

func (r replace) moves(s string) bool {
	if r.content != "" {
		return false
	}
	found := r.pattern.find(s)
	return len(found) > 0 && found[0][0] == 0 && found[0][1] > 0
}

// unicodeForm is one of the four normal forms of Unicode (UAX #15).
type unicodeForm norm.Form

func (f unicodeForm) apply(s string) string { return norm.Form(f).String(s) }

// stripSpace removes white space at the ends.
type stripSpace struct{ left, right bool }

func (n stripSpace) apply(s string) string {
	if n.left {
		s = strings.TrimLeftFunc(s, isSpace)
	}
	if n.right {
		s = strings.TrimRightFunc(s, isSpace)
	}
	return s
}

func (n stripSpace) moves(s string) bool {
	return n.left && strings.TrimLeftFunc(s, isSpace) != s
}
