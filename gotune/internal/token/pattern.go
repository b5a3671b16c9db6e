package token

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/dlclark/regexp2/v2"
)

// A pattern is a text or a regular expression to look for.
type pattern struct {
	text string
	re   *regexp2.Regexp
	fast func(s string) int // length of the match that starts s, where the pattern is a known one
}

// regexTimeout bounds one search. A pattern of a downloaded file can take
// exponential time; such a text is then taken as if nothing matched.
const regexTimeout = 5 * time.Second

// maxPattern bounds the length of a regular expression; Llama-3's has 130 bytes.
const maxPattern = 10_000

func compilePattern(expr string) (pattern, error) {
	if len(expr) > maxPattern {
		return pattern{}, fmt.Errorf("regular expression of %d bytes, at most %d are read", len(expr), maxPattern)
	}
	re, err := regexp2.Compile(expr)
	if err != nil {
		return pattern{}, fmt.Errorf("regular expression %q: %w", expr, err)
	}
	re.MatchTimeout = regexTimeout
	return pattern{text: expr, re: re, fast: fastWords[expr]}, nil
}

// find returns the byte offsets of the matches in s.
func (p *pattern) find(s string) [][2]int {
	var out [][2]int
	if p.re == nil {
		if p.text == "" {
			return nil
		}
		for from := 0; ; {
			i := strings.Index(s[from:], p.text)
			if i < 0 {
				return out
			}
			out = append(out, [2]int{from + i, from + i + len(p.text)})
			from += i + len(p.text)
		}
	}
	found, _ := p.re.FindAllStringIndex(s, -1) // the only error is the timeout
	for _, f := range found {
		out = append(out, [2]int{f[0], f[1]})
	}
	return out
}

// isSpace is White_Space of Unicode, as Rust's char::is_whitespace.
func isSpace(r rune) bool { return unicode.Is(unicode.White_Space, r) }
