package dataset

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// same compares a value with what encoding/json makes of the golden one; numbers
// are compared as numbers, as Python does.
func same(got, want any) bool {
	switch g := got.(type) {
	case nil:
		return want == nil
	case bool, string:
		return got == want
	case int64:
		w, ok := want.(float64)
		return ok && float64(g) == w
	case float64:
		w, ok := want.(float64)
		return ok && (g == w || math.IsNaN(g) && math.IsNaN(w))
	case []any:
		w, ok := want.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for i := range g {
			if !same(g[i], w[i]) {
				return false
			}
		}
		return true
	case Row:
		w, ok := want.(map[string]any)
		if !ok || len(g.Columns) != len(w) {
			return false
		}
		for i, c := range g.Columns {
			v, ok := w[c]
			if !ok || !same(g.Values[i], v) {
				return false
			}
		}
		return true
	}
	return false
}

// expectation returns the golden rows for a path of the oracle's dataset folder.
func expectation(t testing.TB, name string) []any {
	t.Helper()
	var want []any
	if strings.HasPrefix(name, "nested") {
		oracle.JSON(t, &want, "dataset", "nested_expected.json")
		return want
	}
	oracle.JSON(t, &want, "dataset", "expected.json")
	if strings.HasPrefix(name, "first25") {
		want = want[:25]
	}
	if strings.HasSuffix(name, ".csv") { // datasets reads an empty CSV field as null
		for _, r := range want {
			if row := r.(map[string]any); row["text"] == "" {
				row["text"] = nil
			}
		}
	}
	return want
}

// sources lists everything in the oracle's dataset folder that holds rows.
func sources(t testing.TB) []string {
	t.Helper()
	dir := oracle.Dir(t, "dataset")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		switch e.Name() {
		case "expected.json", "nested_expected.json", "index.json", "packing.json":
			continue
		}
		if e.IsDir() || formatOf(e.Name()) != "" {
			out = append(out, e.Name())
		} else {
			t.Errorf("no rule for the golden file %s", e.Name())
		}
	}
	if len(out) < 10 {
		t.Fatalf("only %d golden data sets: %v", len(out), out)
	}
	return out
}

func TestOracle(t *testing.T) {
	for _, name := range sources(t) {
		t.Run(name, func(t *testing.T) {
			d, err := Open(context.Background(), Spec{Source: filepath.Join(oracle.Dir(t, "dataset"), name)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := expectation(t, name)
			if d.Len() != len(want) {
				t.Fatalf("%d rows, want %d", d.Len(), len(want))
			}
			var nulls int
			for i := range want {
				w := want[i].(map[string]any)
				if got := d.Row(i); !same(got, w) {
					wb, _ := json.Marshal(w)
					t.Fatalf("row %d:\ngot  %s\nwant %s", i, got, wb)
				}
				text, _ := w["text"].(string)
				if d.Text(i) != text {
					t.Fatalf("Text(%d) = %q, want %q", i, d.Text(i), text)
				}
				if w["text"] == nil {
					nulls++
				}
			}
			if len(d.NullTexts()) != nulls || (d.CheckText() == nil) != (nulls == 0) {
				t.Errorf("%d rows without text (%v), want %d", len(d.NullTexts()), d.CheckText(), nulls)
			}
		})
	}
}
