package cuda

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func programKeyOf(name string) [32]byte { return sha256.Sum256([]byte(name)) }

// The least recently used programs go when the limit is passed; reading counts as use.
func TestProgramCacheLimit(t *testing.T) {
	c, err := NewProgramCache(filepath.Join(t.TempDir(), "programs"), 3500, func(s string) { t.Error(s) })
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{7}, 1000)
	past := time.Now().Add(-time.Hour)
	for i, name := range []string{"a", "b", "c"} {
		if err := c.put(programKeyOf(name), data); err != nil {
			t.Fatal(err)
		}
		at := past.Add(time.Duration(i) * time.Minute)
		if err := os.Chtimes(c.path(programKeyOf(name)), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := c.get(programKeyOf("a")); !ok || !bytes.Equal(got, data) {
		t.Fatal("a is not there")
	}
	stale := filepath.Join(c.Dir(), "new-123")
	if err := os.WriteFile(stale, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(stale, past.Add(-time.Hour), past.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := c.put(programKeyOf("d"), data); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"a": true, "b": false, "c": true, "d": true} {
		if _, ok := c.get(programKeyOf(name)); ok != want {
			t.Errorf("%s is there: %v, want %v", name, ok, want)
		}
	}
	if _, err := os.Stat(stale); !os.IsNotExist(err) {
		t.Errorf("a file that was never finished is still there: %v", err)
	}
	if n, size, err := c.Size(); err != nil || n != 3 || size <= 3000 || size > 3500 {
		t.Errorf("%d programs of %d bytes, %v; want 3 of 1,000 and their headers", n, size, err)
	}
	if err := c.put(programKeyOf("large"), make([]byte, 4000)); err == nil || !strings.Contains(err.Error(), "4000") {
		t.Errorf("a program larger than the cache: %v", err)
	}
	if st, err := os.Stat(c.Dir()); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder is %v, want 0700 (%v)", st.Mode().Perm(), err)
	}
}

// A program under another's name is not run.
func TestProgramCacheSwapped(t *testing.T) {
	var lines []string
	c, err := NewProgramCache(t.TempDir(), 1<<20, func(s string) { lines = append(lines, s) })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.put(programKeyOf("a"), []byte("code of a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.path(programKeyOf("a")), c.path(programKeyOf("b"))); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.get(programKeyOf("b")); ok || len(lines) != 1 {
		t.Errorf("taken: %v, log %q", ok, lines)
	}
	if found, missed := c.Counts(); found != 0 || missed != 1 {
		t.Errorf("%d found and %d missed, want 0 and 1", found, missed)
	}
}

// Writers of one key at a time leave one whole program.
func TestProgramCacheWriters(t *testing.T) {
	c, err := NewProgramCache(t.TempDir(), 1<<20, func(s string) { t.Error(s) })
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("program "), 999)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := c.put(programKeyOf("a"), data); err != nil {
				t.Error(err)
			}
			if got, ok := c.get(programKeyOf("a")); !ok || !bytes.Equal(got, data) {
				t.Error("what was read is not what was written")
			}
		})
	}
	wg.Wait()
	if entries, err := os.ReadDir(c.Dir()); err != nil || len(entries) != 1 {
		t.Errorf("%d files, want 1 (%v)", len(entries), err)
	}
}

// The switch, and folders that a cache must not use.
func TestOpenProgramCache(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv(EnvPrograms, "")
	c, err := OpenProgramCache(nil)
	if err != nil || c == nil || !strings.HasSuffix(c.Dir(), "/gotune/programs") {
		t.Fatalf("%v, %v", c, err)
	}
	t.Setenv(EnvPrograms, "off")
	if c, err := OpenProgramCache(nil); c != nil || err != nil {
		t.Errorf("off: %v, %v", c, err)
	}
	t.Setenv(EnvPrograms, "here")
	if _, err := OpenProgramCache(nil); err == nil || !strings.Contains(err.Error(), EnvPrograms) {
		t.Errorf("a relative folder: %v", err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvPrograms, open)
	if _, err := OpenProgramCache(nil); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a folder that others may write: %v", err)
	}
}
