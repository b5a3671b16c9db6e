package kernelext

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestCompleteness(t *testing.T) {
	for _, tt := range []struct{ code, want string }{
		{"", "complete"},
		{"func f() {}", "complete"},
		{"func f() {", "incomplete"},
		{"func f() }", "invalid"},
		{"import \"fmt\"\n%%\nfmt.Println(1)", "complete"},
		{"%%\nfmt.Println(", "incomplete"},
		{"%%\nx := 1 +", "incomplete"},
		{"%%\nx++", "complete"},
		{"%%\nif x {", "incomplete"},
		{"%%\nx := )", "invalid"},
		{"%%\nx := 5 5", "invalid"},
		{"%main\nx := 1", "complete"},
		{"// a comment", "complete"},
		{"/* open", "incomplete"},
		{"%%\ns := `raw", "incomplete"},
		{"%%\ns := \"not closed", "invalid"},
		{"!ls", "complete"},
		{"!ls \\", "incomplete"},
		{"%gotune status", "complete"},
		{"%%bash\nif [", "complete"},
		{"x := 1", "invalid"},
		{"var a = []int{\n1,", "incomplete"},
		{"type T struct {\n\tA int\n}", "complete"},
	} {
		if got := completeness(tt.code); got != tt.want {
			t.Errorf("completeness(%q) = %s, want %s", tt.code, got, tt.want)
		}
	}
}

func TestSplitMagics(t *testing.T) {
	for _, tt := range []struct {
		source, rest string
		magics       []string
	}{
		{"", "", nil},
		{"%gotune status", "", []string{"%gotune status"}},
		{"%gotune  stop  a b ", "", []string{"%gotune stop a b"}},
		{"% gotune free", "", []string{"%gotune free"}},
		{"a\n%gotune status\nb", "a\n\nb", []string{"%gotune status"}},
		{"//gonb:%gotune status\n%%\nx", "\n%%\nx", []string{"%gotune status"}},
		{`%gotune sample "a  b" c'd`, "", []string{"%gotune sample a  b c'd"}},
		{"%tensorboard --logdir runs\n%%\nx", "\n%%\nx", []string{"%tensorboard --logdir runs"}},
		{"%load_ext tensorboard\n%reload_ext tensorboard", "", []string{"%load_ext tensorboard", "%reload_ext tensorboard"}},
		{"%load_ext autoreload", "%load_ext autoreload", nil},
		{"%gotunes", "%gotunes", nil},
		{"%%gotune", "%%gotune", nil},
		{" %gotune status", " %gotune status", nil},
		{"%%writefile f\n%gotune status", "%%writefile f\n%gotune status", nil},
		{"!cat \\\n%gotune status", "!cat \\\n%gotune status", nil},
		{"%gotune free\n \n%gotune status\n", "", []string{"%gotune free", "%gotune status"}},
	} {
		magics, rest := splitMagics(tt.source)
		var got []string
		for _, m := range magics {
			got = append(got, m.String())
		}
		if rest != tt.rest || !reflect.DeepEqual(got, tt.magics) {
			t.Errorf("splitMagics(%q) = %q, %q, want %q, %q", tt.source, got, rest, tt.magics, tt.rest)
		}
	}
}

func FuzzSplitMagics(f *testing.F) {
	f.Add("a\n%gotune status\nb")
	f.Add("//gonb:%gotune\n%%\n")
	f.Fuzz(func(t *testing.T, source string) {
		magics, rest := splitMagics(source)
		if rest != "" && strings.Count(rest, "\n") != strings.Count(source, "\n") {
			t.Errorf("splitMagics(%q) changes the line numbers: %q", source, rest)
		}
		if len(magics) == 0 && rest != source {
			t.Errorf("splitMagics(%q) changes a cell without magics to %q", source, rest)
		}
		if m, _ := splitMagics(rest); len(m) > 0 {
			t.Errorf("splitMagics(%q) leaves %v", source, m)
		}
		completeness(source)
	})
}

func TestOffsets(t *testing.T) {
	const code = "aé😀b"
	for points, units := range []int{0, 1, 2, 4, 5} {
		if got := utf16Offset(code, points); got != units {
			t.Errorf("utf16Offset(%q, %d) = %d, want %d", code, points, got, units)
		}
		if got := codePointOffset(code, units); got != points {
			t.Errorf("codePointOffset(%q, %d) = %d, want %d", code, units, got, points)
		}
	}
}

func TestHistory(t *testing.T) {
	var h history
	for i, s := range []string{"a", "fmt/x", "a", "b"} {
		h.add(i+1, s)
	}
	three := 3
	for _, tt := range []struct {
		q    historyQuery
		want string
	}{
		{historyQuery{Access: "tail"}, "1 2 3 4"},
		{historyQuery{Access: "tail", N: 2}, "3 4"},
		{historyQuery{Access: "range", Start: 2, Stop: &three}, "2"},
		{historyQuery{Access: "range", Start: 2}, "2 3 4"},
		{historyQuery{Access: "range", Session: 7}, ""},
		{historyQuery{Access: "search", Pattern: "a"}, "1 3"},
		{historyQuery{Access: "search", Pattern: "a", Unique: true}, "3"},
		{historyQuery{Access: "search", Pattern: "f*x"}, "2"},
		{historyQuery{Access: "search", Pattern: "?", N: 1}, "4"},
	} {
		var got []string
		for _, e := range h.find(tt.q) {
			got = append(got, fmt.Sprint(e.line))
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("find(%+v) = %q, want %q", tt.q, s, tt.want)
		}
	}
}

// Messages of one frame are heard, wherever the stream is cut; commands and longer messages are not.
func TestFrameMeterHears(t *testing.T) {
	stream := make([]byte, 64)
	stream = append(stream, 4, 3, 1, 'n', 'o') // a command
	stream = append(stream, zmtpMessage([][]byte{{1}})...)
	stream = append(stream, zmtpMessage([][]byte{{1, 'n', 'o'}, {1}})...)
	stream = append(stream, zmtpMessage([][]byte{[]byte("\x01topic")})...)
	for cut := range stream {
		var heard []string
		m := frameMeter{greeting: 64, heard: func(b []byte) { heard = append(heard, string(b)) }}
		if err := errors.Join(m.feed(stream[:cut]), m.feed(stream[cut:])); err != nil || !slices.Equal(heard, []string{"\x01", "\x01topic"}) {
			t.Errorf("cut at %d: heard %q, %v", cut, heard, err)
		}
	}
}

// Frames split at any byte add up, and only what passes the limit is refused.
func TestFrameMeter(t *testing.T) {
	stream := make([]byte, 64)
	stream = append(stream, 0, 3, 'a', 'b', 'c', 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 'd', 'e')
	for cut := range stream {
		m := frameMeter{greeting: 64}
		if err := errors.Join(m.feed(stream[:cut]), m.feed(stream[cut:])); err != nil || m.left != 0 || m.sum != 0 {
			t.Errorf("cut at %d: %v, %+v", cut, err, m)
		}
	}
	for _, tt := range []struct {
		header []byte
		ok     bool
	}{
		{[]byte{2, 0, 0, 0, 0, 0x10, 0, 0, 0}, true},
		{[]byte{2, 0, 0, 0, 0, 0x10, 0, 0, 1}, false},
		{[]byte{2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false},
	} {
		m := frameMeter{}
		if err := m.feed(tt.header); (err == nil) != tt.ok {
			t.Errorf("frame header % x: %v, want ok %v", tt.header, err, tt.ok)
		}
	}
}

func TestPlaceLines(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gonb_0123abcd")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	main := filepath.Join(dir, "main.go")
	if err := os.WriteFile(main, []byte("package main\n\nfunc main() {\n\tpanic(1)\n\tf()\n}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const source = "%%\nf()\npanic(1)\nf()"
	for _, tt := range []struct{ line, want string }{
		{"\t" + main + ":4 +0x1d", "\t \x1b[7m[[ Cell [7] Line 3 ]]\x1b[0m " + main + ":4 +0x1d"},
		{"\t" + main + ":5 +0x1d", "\t" + main + ":5 +0x1d"},                         // twice in the cell
		{"\t" + main + ":3", "\t" + main + ":3"},                                     // not of the cell
		{"\t" + main + ":99", "\t" + main + ":99"},                                   // beyond the file
		{"\t/nix/gonb_00/main.go:4", "\t/nix/gonb_00/main.go:4"},                     // no such file
		{"\t [[ Cell ]] " + main + ":4", "\t [[ Cell ]] " + main + ":4"},             // GoNB said it
		{"\t/usr/local/go/src/fmt/print.go:4", "\t/usr/local/go/src/fmt/print.go:4"}, // not the program
	} {
		if got := placeLines(tt.line, source, 7); got != tt.want {
			t.Errorf("placeLines(%q) = %q, want %q", tt.line, got, tt.want)
		}
	}
}
