package token

import (
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// sameWords compares a hand-written splitter with its regular expression.
func sameWords(t *testing.T, expr, text string) {
	t.Helper()
	if text == "" {
		return
	}
	p, err := compilePattern(expr)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	p.fast = nil
	for _, w := range (splitter{pattern: p, behavior: "Isolated"}).split([]piece{{text: text, id: -1}}) {
		want = append(want, w.text)
	}
	for _, w := range appendFast(nil, piece{text: text, id: -1}, fastWords[expr]) {
		got = append(got, w.text)
	}
	if !slices.Equal(got, want) {
		t.Errorf("words of %q by %s:\n got %q\nwant %q", text, expr, got, want)
	}
}

func TestFastWords(t *testing.T) {
	ran := 0
	for _, dir := range oracleDirs(t) {
		if !has(t, dir, "cases_hf.json") {
			continue
		}
		var cases []hfCase
		oracle.JSON(t, &cases, "tokenizer", dir, "cases_hf.json")
		for expr := range fastWords {
			for i, c := range cases {
				sameWords(t, expr, c.Text)
				sameWords(t, expr, c.Text+cases[(7*i+3)%len(cases)].Text)
				ran++
			}
		}
	}
	if ran == 0 {
		t.Fatal("the golden data has no texts")
	}
}

func FuzzFastWords(f *testing.F) {
	for _, s := range []string{"I'm we'LL 's 'ſx", "a  b\n\n c \r\n", " 1234 ½\u00a0x", "\t\t!!\n x", "'", "é e\u0301 \u2028\u3000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 {
			return
		}
		for expr := range fastWords {
			sameWords(t, expr, replaceInvalid(text))
		}
	})
}
