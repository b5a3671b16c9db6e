package token

import (
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A piece is a part of the text on its way to the model.
type piece struct {
	text  string
	id    int32 // of an added token; -1 for text
	first bool  // starts where the text starts
}

// A matcher finds added tokens in a text: the leftmost match, and of those the
// longest, as the tokenizers library's Aho-Corasick automaton does.
type matcher struct {
	tokens map[string]AddedToken // by the text looked for
	starts [256][]int            // lengths of those texts by first byte, longest first
}

// newMatcher makes a matcher; spell gives the text to look for.
func newMatcher(added []AddedToken, spell func(string) string) matcher {
	m := matcher{tokens: map[string]AddedToken{}}
	for _, a := range added {
		s := spell(a.Content)
		if s == "" {
			continue
		}
		if _, dup := m.tokens[s]; dup {
			continue
		}
		m.tokens[s] = a
		m.starts[s[0]] = append(m.starts[s[0]], len(s))
	}
	for i, ls := range m.starts {
		sort.Sort(sort.Reverse(sort.IntSlice(ls)))
		m.starts[i] = uniq(ls)
	}
	return m
}

func uniq(ls []int) []int {
	out := ls[:0]
	for _, l := range ls {
		if len(out) == 0 || out[len(out)-1] != l {
			out = append(out, l)
		}
	}
	return out
}

// find returns the next match at or after from; ok is false if there is none.
func (m *matcher) find(s string, from int) (a AddedToken, start, end int, ok bool) {
	for i := from; i < len(s); i++ {
		for _, l := range m.starts[s[i]] {
			if i+l > len(s) {
				continue
			}
			if a, ok := m.tokens[s[i:i+l]]; ok {
				return a, i, i + l, true
			}
		}
	}
	return AddedToken{}, 0, 0, false
}

// cut splits s at the added tokens in it. first says that s starts the text.
func (m *matcher) cut(s string, first bool) []piece {
	if len(m.tokens) == 0 || s == "" {
		return []piece{{text: s, id: -1, first: first}}
	}
	var out []piece
	done, from := 0, 0
	for {
		a, start, end, ok := m.find(s, from)
		if !ok {
			break
		}
		from = end
		if a.SingleWord && (endsWithWord(s[:start]) || startsWithWord(s[end:])) {
			continue
		}
		if a.LStrip {
			start = max(len(strings.TrimRightFunc(s[:start], unicode.IsSpace)), done)
		}
		if a.RStrip {
			end = len(s) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
		}
		if done < start {
			out = append(out, piece{text: s[done:start], id: -1, first: first && done == 0})
		}
		out = append(out, piece{text: s[start:end], id: a.ID, first: first && start == 0})
		done = end
	}
	if done < len(s) {
		out = append(out, piece{text: s[done:], id: -1, first: first && done == 0})
	}
	return out
}

func endsWithWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func startsWithWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

// isWord is \w of Rust's regex crate: Alphabetic, M, Nd, Pc, Join_Control.
func isWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.Is(unicode.M, r) || unicode.Is(unicode.Nd, r) ||
		unicode.Is(unicode.Pc, r) || unicode.Is(unicode.Nl, r) ||
		unicode.Is(unicode.Other_Alphabetic, r) || unicode.Is(unicode.Join_Control, r)
}
