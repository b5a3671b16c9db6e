package token

import (
	"unicode"
	"unicode/utf8"
)

// The split patterns of Llama-3 and Qwen2 differ only in how many digits make a
// number: up to three, or one.
const (
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// fastWords are hand-written forms of the usual split patterns, ten times as fast
// as the regular expression. Each returns the length of the match at the start of
// s, which is never empty: these patterns match everywhere. The regular expression
// is their reference, in TestFastWords and FuzzFastWords.
var fastWords = map[string]func(s string) int{
	llama3Pattern: func(s string) int { return nextWord(s, 3) },
	qwen2Pattern:  func(s string) int { return nextWord(s, 1) },
	gpt2Pattern:   nextGPT2Word,
}

// charClass is what the patterns tell apart.
type charClass uint8

const (
	other charClass = iota
	letter
	digit
	space
)

var asciiClass = func() (t [128]charClass) {
	for r := range t {
		t[r] = classOf(rune(r))
	}
	return t
}()

func classOf(r rune) charClass {
	switch {
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return digit
	case isSpace(r):
		return space
	}
	return other
}

// classAt is the class and length of the character at i.
func classAt(s string, i int) (charClass, int) {
	if c := s[i]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return classOf(r), n
}

// run returns the end of the run of class c in s from i on, of at most limit
// characters.
func run(s string, i int, c charClass, limit int) int {
	for ; i < len(s) && limit > 0; limit-- {
		k, n := classAt(s, i)
		if k != c {
			break
		}
		i += n
	}
	return i
}

const noLimit = int(^uint(0) >> 1)

// contraction returns the length of 's, 't, 're, 've, 'm, 'll or 'd at the start of
// s, or 0; fold ignores case.
func contraction(s string, fold bool) int {
	if len(s) < 2 || s[0] != '\'' {
		return 0
	}
	var a, b byte
	a = s[1]
	if len(s) > 2 {
		b = s[2]
	}
	if fold {
		a, b = lowerASCII(a), lowerASCII(b)
	}
	switch {
	case a == 's' || a == 't' || a == 'm' || a == 'd':
		return 2
	case (a == 'r' || a == 'v') && b == 'e', a == 'l' && b == 'l':
		return 3
	}
	return 0
}

func lowerASCII(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// nextWord is one match of the Llama-3 pattern with numbers of at most digits
// digits.
func nextWord(s string, digits int) int {
	if n := contraction(s, true); n > 0 {
		return n
	}
	class, n := classAt(s, 0)
	switch {
	case class == letter:
		return run(s, n, letter, noLimit)
	case class == digit:
		return run(s, n, digit, digits-1)
	case s[0] != '\r' && s[0] != '\n' && n < len(s):
		if k, _ := classAt(s, n); k == letter {
			return run(s, n, letter, noLimit)
		}
	}
	if class == other || s[0] == ' ' && n < len(s) && is(s, n, other) {
		end := run(s, n, other, noLimit)
		for end < len(s) && (s[end] == '\r' || s[end] == '\n') {
			end++
		}
		return end
	}
	end := run(s, n, space, noLimit)
	for i := end; i > 0; i-- {
		if s[i-1] == '\r' || s[i-1] == '\n' {
			return i
		}
	}
	return spaces(s, end)
}

func is(s string, i int, c charClass) bool {
	k, _ := classAt(s, i)
	return k == c
}

// spaces is \s+(?!\S)|\s+ for the run of white space that ends at end: all of it,
// without its last character if a word follows and that is not all.
func spaces(s string, end int) int {
	if end == len(s) {
		return end
	}
	_, last := utf8.DecodeLastRuneInString(s[:end])
	if last < end {
		return end - last
	}
	return end
}

// nextGPT2Word is one match of the GPT-2 pattern.
func nextGPT2Word(s string) int {
	if n := contraction(s, false); n > 0 {
		return n
	}
	class, n := classAt(s, 0)
	if s[0] == ' ' && n < len(s) {
		if k, m := classAt(s, n); k != space {
			class, n = k, n+m
		}
	}
	if class != space {
		return run(s, n, class, noLimit)
	}
	return spaces(s, run(s, n, space, noLimit))
}
