package events

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

type step struct {
	Step int
	Loss float64
}

func TestJournalRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "journal.jsonl")
	for part := range 2 { // the second writer goes on where the first ended
		j, err := OpenJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Append(KindConfig, map[string]int{"part": part}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := j.Append(KindStep, step{i, float64(i)}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := errors.Join(j.Sync(), j.Close(), j.Close()); err != nil {
			t.Fatal(err)
		}
	}
	lines, damaged, err := ReadJournal(path)
	if err != nil || len(damaged) > 0 || len(lines) != 42 {
		t.Fatalf("%d lines, damaged %v, %v", len(lines), damaged, err)
	}
	if lines[0].Kind != KindConfig || string(lines[21].Data) != `{"part":1}` || lines[0].Time.IsZero() {
		t.Errorf("lines %v, %v", lines[0], lines[21])
	}
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := j.Append(KindStep, math.NaN()); err == nil {
		t.Error("NaN was written as JSON")
	}
	if _, _, err := ReadJournal(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// TestJournalTorn cuts a journal at every byte: a reader gets the whole lines,
// and a writer that opens it goes on cleanly.
func TestJournalTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.jsonl")
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := j.Append(KindStep, step{i + 1, 0.5}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if err := os.WriteFile(path, whole[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		n := bytes.Count(whole[:cut], []byte("\n"))
		lines, damaged, err := ReadJournal(path)
		if err != nil || len(lines) != n || len(damaged) > 0 {
			t.Fatalf("cut at %d: %d lines of %d, damaged %v, %v", cut, len(lines), n, damaged, err)
		}
		j, err := OpenJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(j.Append(KindState, "resumed"), j.Close()); err != nil {
			t.Fatal(err)
		}
		lines, damaged, err = ReadJournal(path)
		if err != nil || len(lines) != n+1 || len(damaged) > 0 || lines[n].Kind != KindState {
			t.Fatalf("cut at %d, then written: %d lines, damaged %v, %v", cut, len(lines), damaged, err)
		}
	}
}

func TestParseJournalDamage(t *testing.T) {
	const ok = `{"kind":"step","time":"2026-01-02T03:04:05Z","data":{"Step":1}}` + "\n"
	for _, tt := range []struct {
		name    string
		text    string
		lines   int
		damaged []int
	}{
		{"empty", "", 0, nil},
		{"one", ok, 1, nil},
		{"torn", ok + ok[:20], 1, nil},
		{"zeros after a power cut", ok + "\x00\x00\x00\n" + ok, 2, []int{2}},
		{"no kind", ok + "{}\n" + ok, 2, []int{2}},
		{"not an object", "[1,2]\n" + ok, 1, []int{1}},
		{"blank line", ok + "\n" + ok, 2, []int{2}},
		{"two in one", ok[:len(ok)-1] + ok, 0, []int{1}},
		{"bad time", `{"kind":"step","time":"yesterday"}` + "\n" + ok, 1, []int{1}},
		{"long line", strings.Repeat("x", maxLine+1) + "\n" + ok, 1, []int{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lines, damaged, err := ParseJournal(strings.NewReader(tt.text))
			if err != nil || len(lines) != tt.lines || !slices.Equal(damaged, tt.damaged) {
				t.Errorf("%d lines, damaged %v, %v; want %d, %v", len(lines), damaged, err, tt.lines, tt.damaged)
			}
		})
	}
	broken := io.MultiReader(strings.NewReader(ok+"{"), iotest.ErrReader(errors.New("disk failure")))
	if lines, _, err := ParseJournal(broken); err == nil || len(lines) != 1 {
		t.Errorf("failing disk: %d lines, %v", len(lines), err)
	}
}

func TestReplay(t *testing.T) {
	var lines []Line
	for _, s := range []string{`{"Step":1}`, `{"Step":2}`, `{"Step":3,"Loss":9}`, `[]`, `{"Step":3,"Loss":1}`, `{"Step":4}`, `{"Step":2,"Loss":7}`, `{"Step":3,"Loss":8}`} {
		lines = append(lines, Line{Kind: KindStep, Data: []byte(s)}, Line{Kind: KindState, Data: []byte(`{"Step":1}`)})
	}
	got := Replay(lines, KindStep, func(s step) int { return s.Step })
	if want := []step{{1, 0}, {2, 7}, {3, 8}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// FuzzParseJournal: no input makes it panic or return lines without a kind, and
// what it returns can be written and read again.
func FuzzParseJournal(f *testing.F) {
	f.Add([]byte(`{"kind":"step","time":"2026-01-02T03:04:05Z","data":{"Step":1}}` + "\n{\"kind\":"))
	f.Add([]byte("\x00\n{}\n[[[[\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, damaged, err := ParseJournal(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); len(lines)+len(damaged) != n {
			t.Fatalf("%d lines and %d damaged of %d", len(lines), len(damaged), n)
		}
		for _, l := range lines {
			if l.Kind == "" {
				t.Fatal("a line without a kind")
			}
		}
		Replay(lines, KindStep, func(s step) int { return s.Step })
	})
}

func ExampleJournal() {
	path := filepath.Join(os.TempDir(), fmt.Sprint("gotune-example-", os.Getpid()), "journal.jsonl")
	defer os.RemoveAll(filepath.Dir(path))
	j, err := OpenJournal(path)
	if err != nil {
		panic(err)
	}
	for _, s := range []step{{1, 2.5}, {2, 2.1}, {2, 2.0}} { // step 2 came twice: the run was resumed after step 1
		if err := j.Append(KindStep, s); err != nil {
			panic(err)
		}
	}
	if err := j.Close(); err != nil {
		panic(err)
	}
	lines, _, err := ReadJournal(path)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(lines), Replay(lines, KindStep, func(s step) int { return s.Step }))
	// Output: 3 [{1 2.5} {2 2}]
}
