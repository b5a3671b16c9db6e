package kernelext

import (
	"slices"
	"strings"
	"testing"
)

func TestSplitWords(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []string
		bad  bool
	}{
		{"", nil, false},
		{" a  b\tc\r", []string{"a", "b", "c"}, false},
		{`sample "What is Go?" x`, []string{"sample", "What is Go?", "x"}, false},
		{`a "" b`, []string{"a", "", "b"}, false},
		{`"a \" b\\"`, []string{`a " b\`}, false},
		{`'a "b" \'`, []string{`a "b" \`}, false},
		{"don't stop", []string{"don't", "stop"}, false},
		{"--logdir='my runs'", []string{"--logdir=my runs"}, false},
		{`--logdir="my runs"`, []string{"--logdir=my runs"}, false},
		{`sample "open`, []string{"sample", "open"}, true},
		{"日本 \"語 x\"", []string{"日本", "語 x"}, false},
	} {
		got, err := splitWords(tt.line)
		if !slices.Equal(got, tt.want) || (err != nil) != tt.bad {
			t.Errorf("splitWords(%q) = %q, %v, want %q and an error %v", tt.line, got, err, tt.want, tt.bad)
		}
	}
}

// What is quoted for completion is read back as it was.
func FuzzQuoteWord(f *testing.F) {
	for _, s := range []string{"run1", "two words", `a"b`, `\`, "", "don't", "\t"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, '\uFFFD') || strings.ToValidUTF8(s, "") != s {
			t.Skip("names are UTF-8")
		}
		got, err := splitWords(quoteWord(s))
		if err != nil || len(got) != 1 || got[0] != s {
			t.Errorf("%q is quoted as %s and read back as %q, %v", s, quoteWord(s), got, err)
		}
	})
}

func TestNearest(t *testing.T) {
	names := []string{"status", "runs", "pause", "resume", "lr", "sample", "stop", "free", "restart-engine", "log", "version", "help"}
	for word, want := range map[string]string{"statsu": "status", "stats": "status", "Status": "status", "puase": "pause", "restart": "restart-engine", "restart-engin": "restart-engine",
		"rusn": "runs", "versoin": "version", "halp": "help", "learning-rate": "", "xyzzy": "", "l": "lr", "lo": "log"} {
		if got := nearest(word, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
