package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// golden reads a file made by testdata/golden.py.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

// Split expressions mean what datasets.ReadInstruction makes of them.
func TestSplits(t *testing.T) {
	var cases [][3]any
	golden(t, "splits.json", &cases)
	for _, c := range cases {
		spec, n := c[0].(string), int(c[1].(float64))
		want, _ := c[2].([]any)
		cuts, err := parseSplit(spec)
		var got [][3]any
		for _, cut := range cuts {
			rows := n
			if cut.split == "test" {
				rows = 13
			}
			var from, to int
			if from, to, err = cut.rows(rows); err != nil {
				break
			}
			got = append(got, [3]any{cut.split, float64(from), float64(to)})
			if l := cut.limit(); l >= 0 && from < to && l < to {
				t.Errorf("%q: only %d rows are read, and %d used", spec, l, to)
			}
		}
		if (err != nil) != (want == nil) {
			t.Errorf("%q of %d: error %v, want %v", spec, n, err, want)
			continue
		}
		if err == nil {
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(want)
			if string(g) != string(w) {
				t.Errorf("%q of %d: %s, want %s", spec, n, g, w)
			}
		}
	}
}

// The files of a folder are grouped as datasets groups them.
func TestLayouts(t *testing.T) {
	var cases [][3]json.RawMessage
	golden(t, "layouts.json", &cases)
	for _, c := range cases {
		var files []string
		var module string
		var want [][2]any
		for i, v := range []any{&files, &module, &want} {
			if err := json.Unmarshal(c[i], v); err != nil {
				t.Fatal(err)
			}
		}
		s := &source{object: "x"}
		if err := s.choose(files, nil, Spec{}); err != nil {
			t.Errorf("%v: %v", files, err)
			continue
		}
		var got [][2]any
		for _, sp := range s.splits {
			got = append(got, [2]any{sp.name, sp.files})
		}
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if string(g) != string(w) || s.format != module {
			t.Errorf("%v: %s %s, want %s %s", files, s.format, g, module, w)
		}
	}
}

// CSV is what pandas.read_csv makes of it.
func TestCSV(t *testing.T) {
	var cases [][2]any
	golden(t, "csv.json", &cases)
	for _, c := range cases {
		text := c[0].(string)
		want, _ := c[1].([]any)
		d, err := openText1(t, "x.csv", text)
		if (err != nil) != (want == nil) {
			t.Errorf("%q: error %v, want %v", text, err, want)
			continue
		}
		if err != nil {
			continue
		}
		if d.Len() != len(want) {
			t.Errorf("%q: %d rows, want %d", text, d.Len(), len(want))
			continue
		}
		for i := range want {
			w := want[i].(map[string]any)
			for k, v := range w {
				if v == "inf" {
					w[k] = math.Inf(1)
				}
			}
			if got := d.Row(i); !same(got, w) {
				t.Errorf("%q row %d: %s, want %v", text, i, got, w)
			}
		}
	}
}

// openText1 writes a file and opens it without a text column.
func openText1(t testing.TB, name, text string) (*Dataset, error) {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Open(context.Background(), Spec{Source: p, NoText: true}, nil)
}

// Every column type of Parquet and Arrow, plain and compressed.
func TestTypes(t *testing.T) {
	var want []map[string]any
	golden(t, "types.json", &want)
	files, err := filepath.Glob("testdata/types*.*")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, ".json") {
			continue
		}
		t.Run(filepath.Base(f), func(t *testing.T) {
			d, err := Open(context.Background(), Spec{Source: f}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if d.Len() != len(want) {
				t.Fatalf("%d rows, want %d", d.Len(), len(want))
			}
			columns := 0
			for i, w := range want {
				row := d.Row(i)
				for j, c := range row.Columns {
					if !same(row.Values[j], w[c]) {
						t.Errorf("row %d, %s: %v (%T), want %v", i, c, row.Values[j], row.Values[j], w[c])
					}
				}
				columns = len(row.Columns)
			}
			if min := 23; columns < min || (strings.HasSuffix(f, ".arrow") && columns != len(want[0])) {
				t.Errorf("%d columns", columns)
			}
		})
	}
}

// Files of many pages, whose values follow a rule. A decoder that was tried first
// read such lz4 pages and such booleans wrong.
func TestPages(t *testing.T) {
	files, err := filepath.Glob("testdata/pages*.parquet")
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		d, err := Open(context.Background(), Spec{Source: f}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d.Len() != 8000 {
			t.Fatalf("%s: %d rows", f, d.Len())
		}
		for i := range int64(d.Len()) {
			var n any
			if i%3 != 0 {
				n = i % 50
			}
			want := Row{[]string{"text", "b", "n"}, []any{strconv.FormatInt(i*2654435761%(1<<32), 10), i*i%7 < 3, n}}
			if got := d.Row(int(i)); got.String() != want.String() {
				t.Fatalf("%s row %d: %s, want %s", f, i, got, want)
			}
		}
	}
	// The second has checksums: a flipped byte in its data is noticed.
	b, err := os.ReadFile("testdata/pages_v2.parquet")
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 1
	p := filepath.Join(t.TempDir(), "x.parquet")
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), Spec{Source: p}, nil); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "checksum") {
		t.Error(err)
	}
}
