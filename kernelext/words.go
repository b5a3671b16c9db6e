package kernelext

import (
	"errors"
	"strings"
)

var errQuote = errors.New("a quotation mark is not closed")

// splitWords splits a line at spaces. A word in single or double quotes keeps its spaces; in double quotes a
// backslash takes away the meaning of the next character, as in GoNB's own magics. A quotation mark within a
// word is a letter: don't stays one word.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune // the one that is open
	within, escaped := false, false
	end := func() {
		if within {
			words = append(words, word.String())
		}
		word.Reset()
		within = false
	}
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case quote == '"' && r == '\\':
			escaped = true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == ' ' || r == '\t' || r == '\r':
			end()
		case r == '"' || r == '\'' && opensWord(word.String(), within):
			quote, within = r, true
		default:
			word.WriteRune(r)
			within = true
		}
	}
	if end(); quote != 0 || escaped {
		return words, errQuote
	}
	return words, nil
}

// opensWord says whether a single quote here begins a quoted value: at the start of a word or after --flag=.
func opensWord(before string, within bool) bool {
	return !within || strings.HasPrefix(before, "-") && strings.HasSuffix(before, "=")
}

// nearest is the candidate that word is most likely a misspelling of, or "" when none is near: the one that it
// is the beginning of, else with at most one edit and one more for every three letters (a letter more, less,
// another one, or two exchanged).
func nearest(word string, candidates []string) string {
	for _, c := range candidates {
		if strings.HasPrefix(c, strings.ToLower(word)) {
			return c
		}
	}
	best, least := "", len([]rune(word))/3+1
	for _, c := range candidates {
		if d := distance([]rune(strings.ToLower(word)), []rune(c)); d < least || d == least && best == "" {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of edits between a and b: Damerau and Levenshtein's, optimal string alignment.
func distance(a, b []rune) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range b {
		rows[0][j+1] = j + 1
	}
	for i := range a {
		for j := range b {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			d := min(rows[i][j+1]+1, rows[i+1][j]+1, rows[i][j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, rows[i-1][j-1]+1)
			}
			rows[i+1][j+1] = d
		}
	}
	return rows[len(a)][len(b)]
}
