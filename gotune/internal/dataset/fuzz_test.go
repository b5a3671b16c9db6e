package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// fuzzFile fuzzes the reader of a format: an Error or rows, never a panic, and
// rows that come back from their stored form.
func fuzzFile(f *testing.F, name string, golden []string, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	for _, g := range golden {
		b, err := os.ReadFile(g)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
		d, err := Open(context.Background(), Spec{Source: p, NoText: true, MaxBytes: 1 << 26}, nil)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Found == "" || e.Op == "" {
				t.Fatalf("not a whole Error: %#v", err)
			}
			return
		}
		for i := range min(d.Len(), 100) {
			row := d.Row(i)
			v, err := decodeJSON(appendJSON(nil, row))
			if err != nil || string(appendJSON(nil, v)) != row.String() {
				t.Fatalf("row %d doesn't come back: %s, %v", i, row, err)
			}
		}
	})
}

func FuzzParquet(f *testing.F) {
	fuzzFile(f, "x.parquet", []string{oracle.Dir(f, "dataset", "nested.parquet"), oracle.Dir(f, "dataset", "first25.snappy.parquet"), "testdata/types_delta_none.parquet"}, "", "PAR1PAR1PAR1")
}

func FuzzArrow(f *testing.F) {
	fuzzFile(f, "x.arrow", []string{"testdata/types.arrow", "testdata/types_zstd.arrow"}, "", "ARROW1\x00\x00", "\xff\xff\xff\xff\x10\x00\x00\x00")
}

func FuzzCSV(f *testing.F) {
	fuzzFile(f, "x.csv", nil, "a,b\n1,2\n", "a\n\"x\"\"y\"\n", "a\r\nb", "\ufeffa\n1", `a"b,"c"d`, "a,a,a.1\n")
}

func FuzzJSONL(f *testing.F) {
	fuzzFile(f, "x.jsonl", nil, `{"a": 1}`, `[{"a": 1}, {"a": [1.5, null, "é"]}]`, "{\"a\": 1}\n\n{\"b\": {}}", `{"a": "\ud83d\ude00\ud83d"}`, `[1, "a", {}]`, "\ufeff{}")
}

func FuzzText(f *testing.F) { fuzzFile(f, "x.txt", nil, "a\nb\r\n\nc") }

// FuzzDecodeJSON holds the decoder against encoding/json on what both allow.
func FuzzDecodeJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5,-0,1e3,"x\n\u00e9\ud83d\ude00",null,true]}`, `[]`, `"`, `1`, `01`, `-`, `1.`, `{"a":1,"a":2}`, `{"":{}}`, `1e999`, `12345678901234567890`, "\"\x01\"", `tru`, `[1,]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeJSON(b)
		if bytes.Contains(b, []byte("N")) || bytes.Contains(b, []byte("I")) || !utf8.Valid(b) {
			return // NaN and Infinity are Python's; encoding/json mends bad UTF-8
		}
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.UseNumber()
		var want any
		werr := dec.Decode(&want)
		if werr == nil {
			if _, more := dec.Token(); more != io.EOF {
				werr = errors.New("text after the value")
			}
		}
		if (err == nil) != (werr == nil) {
			if err != nil && strings.Contains(err.Error(), "nested") {
				return // stricter on purpose
			}
			t.Fatalf("%q: %v; encoding/json: %v", b, err, werr)
		}
		if err == nil && !sameNumber(v, want) {
			t.Fatalf("%q: %v, want %v", b, v, want)
		}
	})
}

// sameNumber is same for values decoded with json.Number.
func sameNumber(got, want any) bool {
	switch w := want.(type) {
	case json.Number:
		f, _ := w.Float64()
		switch g := got.(type) {
		case int64:
			i, err := w.Int64()
			return err == nil && i == g
		case float64:
			return g == f || math.IsInf(g, 0)
		}
		return false
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for i := range w {
			if !sameNumber(g[i], w[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		g, ok := got.(Row)
		if !ok || len(g.Columns) != len(w) {
			return false
		}
		for i, c := range g.Columns {
			if !sameNumber(g.Values[i], w[c]) {
				return false
			}
		}
		return true
	}
	return got == want
}

// FuzzSplit: a split expression is refused, or cuts inside the rows.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"train", "train[:100]", "a[1%:]+b[:-2]", "train[::]", "train[-99999999999999999999:]", "train[:5%](pct1_dropremainder)"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, spec string, n int) {
		cuts, err := parseSplit(spec)
		if err != nil || n < 0 || n > 1<<40 {
			return
		}
		for _, c := range cuts {
			from, to, err := c.rows(n)
			if err == nil && (from < 0 || to > n || from > to) {
				t.Errorf("%q of %d: %d to %d", spec, n, from, to)
			}
		}
	})
}

// FuzzConfigs: a README never breaks the choice of files.
func FuzzConfigs(f *testing.F) {
	f.Add("---\nconfigs:\n- config_name: x\n  data_files: a/*\n---\n")
	f.Add("---\nconfigs:\n- data_files:\n  - split: train\n    path: ['**', '[', 'a?']\n---")
	f.Fuzz(func(t *testing.T, readme string) {
		splits, err := configSplits("x", []byte(readme), []string{"a/b.jsonl", "c.csv", "é.parquet"}, "")
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("%#v", err)
		}
		for _, s := range splits {
			for _, file := range s.files {
				if strings.Contains(file, "..") {
					t.Errorf("%q", file)
				}
			}
		}
	})
}
