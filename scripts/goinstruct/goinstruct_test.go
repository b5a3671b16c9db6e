package main

import (
	"runtime"
	"strings"
	"testing"
)

func TestCleanDoc(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"paragraphs on one line", "A b\nc d.\n\nE f.", "A b c d.\n\nE f."},
		{"links lose their brackets", "See [Reader] and [io.Reader], not s[i] or [0].", "See Reader and io.Reader, not s[i] or [0]."},
		{"code keeps its lines", "Use:\n\n\tx := [Reader]\n\ty()\n", "Use:\n\n    x := [Reader]\n    y()"},
		{"typography", "“Quoted” – it’s", `"Quoted" - it's`},
		{"notes go", "TODO(x): fix.", ""},
		{"licences go", "Copyright 2009 The Go Authors. All rights reserved.", ""},
	} {
		if got := cleanDoc(tt.in); got != tt.want {
			t.Errorf("%s: cleanDoc(%q) = %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestAnswer(t *testing.T) {
	long := "Foo " + strings.Repeat("does many things ", 30) + "."
	for _, tt := range []struct{ name, doc, want string }{
		{"up to three sentences", "Foo does a thing well. It is fast. It is safe. It is blue.", "Foo does a thing well. It is fast. It is safe."},
		{"first paragraph only", "Foo does a thing that helps everyone.\n\nMore.", "Foo does a thing that helps everyone."},
		{"cut before what points elsewhere", "Foo does a thing that helps everyone. See https://go.dev for more.", "Foo does a thing that helps everyone."},
		{"not about the name", "This does a thing that helps you.", ""},
		{"too short", "Foo does it.", ""},
		{"too long", long, ""},
		{"deprecated", "Foo does a thing that helps.\n\nDeprecated: use Bar.", ""},
		{"no end", "Foo does the things that follow:", ""},
	} {
		s := symbol{Package: "p", Name: "Foo", Kind: "function", Doc: tt.doc}
		if got := answer(s); got != tt.want {
			t.Errorf("%s: answer = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestIsProse(t *testing.T) {
	for text, want := range map[string]bool{
		"Read reads up to len(p) bytes into p and returns the number of bytes that it read.": true,
		"x := a[i] << 3 | b[j] >> 5; y := ^x; z += f(x, y) - g(z); return x & y & z & 0xff":  false,
		"Short text.": false,
	} {
		if got := isProse(text); got != want {
			t.Errorf("isProse(%q) = %v", text, got)
		}
	}
}

func TestStripHTML(t *testing.T) {
	in := "<title>x</title><h2>Types</h2>\n<p>A <b>type</b> is\na set &amp; more.</p><pre>\nvar x int\n\tx = 1\n</pre><p>End.</p>"
	want := "Types\n\nA type is a set & more.\n\n    var x int\n        x = 1\n\nEnd."
	if got := stripHTML(in); got != want {
		t.Errorf("stripHTML = %q, want %q", got, want)
	}
}

func TestQualified(t *testing.T) {
	for _, tt := range []struct{ pkg, want string }{{"net/http", "http.X"}, {"math/rand/v2", "rand.X"}, {"io", "io.X"}} {
		if got := (symbol{Package: tt.pkg, Name: "X"}).Qualified(); got != tt.want {
			t.Errorf("Qualified in %s = %q, want %q", tt.pkg, got, tt.want)
		}
	}
}

// The promises of the data set's README, on this Go's own source: no name in both
// splits, no question of the data set and nothing of its template in the corpus.
func TestRowsAndCorpusKeepApart(t *testing.T) {
	//lint:ignore SA1019 as in main
	root := runtime.GOROOT()
	pkgs, err := readPackages(root, func(path string) bool { // enough of them for a fast test
		return !strings.Contains(path, "/") && path != "runtime" && path != "syscall" || strings.HasPrefix(path, "encoding/") || strings.HasPrefix(path, "io/")
	})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := chooseRows(candidates(pkgs), 300, 60, 1)
	if err != nil {
		t.Fatal(err)
	}
	asked, trained := map[string]bool{}, map[string]bool{}
	apart := 0
	for _, r := range rows {
		if asked[r.Package+" "+r.Symbol] {
			t.Errorf("%s.%s is asked about twice", r.Package, r.Symbol)
		}
		asked[r.Package+" "+r.Symbol] = true
		if !r.heldOut {
			trained[r.Package] = true
		} else if !trained[r.Package] {
			apart++
		}
	}
	if apart < 20 {
		t.Errorf("%d held-out rows are of packages without training rows, want a third at least", apart)
	}
	docs, err := makeCorpus(root, pkgs, asked, 1)
	if err != nil {
		t.Fatal(err)
	}
	questions := map[string]bool{}
	for _, r := range rows {
		q, _, _ := strings.Cut(strings.TrimPrefix(r.Text, "<s>[INST] "), " [/INST] ")
		questions[q] = true
	}
	for _, d := range append(docs, secondStage(docs, pkgs, asked, 1)...) {
		if strings.Contains(d.Text, "INST]") {
			t.Errorf("a document of %s holds the template", d.Source)
		}
		for line := range strings.SplitSeq(d.Text, "\n") {
			if _, after, ok := strings.Cut(line, ": "); ok && questions[after] {
				t.Errorf("a document of %s asks %q, as the data set does", d.Source, after)
			}
		}
	}
}
