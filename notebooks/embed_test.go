package notebooks

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/parquet-go/parquet-go"
)

func TestUnpackWritesEveryFileOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache", "embedded")
	var roots [4]string
	var wg sync.WaitGroup
	for i := range roots { // several processes may start at once
		wg.Add(1)
		go func() {
			defer wg.Done()
			root, err := Unpack(dir)
			if err != nil {
				t.Error(err)
			}
			roots[i] = root
		}()
	}
	wg.Wait()
	checkUnpacked(t, roots[3])
	for _, r := range roots {
		if r != roots[0] || !strings.Contains(r, Hash()[:16]) {
			t.Errorf("Unpack returned %q and %q, want one folder named by the hash %s", r, roots[0], Hash())
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%d entries in the cache folder (%v), want the unpacked folder alone", len(left), err)
	}
}

// A copy that lost a file or part of one is replaced.
func TestUnpackReplacesDamagedCopy(t *testing.T) {
	dir := t.TempDir()
	root, err := Unpack(dir)
	if err != nil {
		t.Fatal(err)
	}
	weights := filepath.Join(root, ModelDir, "model.safetensors")
	for name, damage := range map[string]func() error{
		"missing":   func() error { return os.Remove(weights) },
		"truncated": func() error { return os.Truncate(weights, 1000) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		again, err := Unpack(dir)
		if err != nil || again != root {
			t.Fatalf("%s: Unpack = %q, %v, want %q", name, again, err, root)
		}
		checkUnpacked(t, root)
	}
}

func TestUnpackReportsUnusableFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Unpack(file); err == nil || !strings.Contains(err.Error(), "unpack") {
		t.Errorf("Unpack below a file: error %v, want one that says what failed", err)
	}
}

func checkUnpacked(t *testing.T, root string) {
	t.Helper()
	n := 0
	err := fs.WalkDir(files, embeddedRoot, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		want, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(target(root, path))
		if err == nil && !bytes.Equal(got, want) {
			t.Errorf("%s differs from what is embedded", path)
		}
		return err
	})
	if err != nil || n == 0 {
		t.Fatalf("%d files compared: %v", n, err)
	}
}

// What the walkthrough relies on: the sizes of the splits, the template, and
// that no name is in both splits. All files together stay under 12 MB.
func TestEmbeddedData(t *testing.T) {
	root, err := Unpack(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Text    string `parquet:"text"`
		Package string `parquet:"package"`
		Symbol  string `parquet:"symbol"`
	}
	names := map[string]string{}
	for file, want := range map[string]int{"train.parquet": 1000, "heldout.parquet": 100} {
		rows, err := parquet.ReadFile[row](filepath.Join(root, DatasetDir, file))
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) != want {
			t.Errorf("%s has %d rows, want %d", file, len(rows), want)
		}
		for _, r := range rows {
			if !strings.HasPrefix(r.Text, "<s>[INST] ") || !strings.HasSuffix(r.Text, ". </s>") && !strings.HasSuffix(r.Text, ".) </s>") || strings.Count(r.Text, " [/INST] ") != 1 {
				t.Errorf("%s: %q is not in the Llama-2 template", file, r.Text)
			}
			name := r.Package + " " + r.Symbol
			if other, ok := names[name]; ok {
				t.Errorf("%q is in %s and in %s", name, other, file)
			}
			names[name] = file
		}
	}
	var size int64
	err = fs.WalkDir(files, embeddedRoot, func(_ string, d fs.DirEntry, err error) error {
		if info, e := d.Info(); err == nil && e == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil || size > 12e6 {
		t.Errorf("the embedded files have %d bytes (%v), want at most 12 MB", size, err)
	}
}
