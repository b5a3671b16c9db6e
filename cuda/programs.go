package cuda

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// EnvPrograms names an environment variable: "off" compiles every program anew,
// another value is the folder of the cache of compiled programs. Unset, it is the
// folder programs in [CacheDir].
const EnvPrograms = "GOTUNE_PROGRAM_CACHE"

// ProgramCacheBytes is the size that the cache of compiled programs is held to: the
// least recently used go first.
const ProgramCacheBytes = 2 << 30

// ProgramCache keeps compiled programs on disk, one file each, named by the sha256
// of all that the program depends on. Whatever is wrong with a file or the folder
// costs a compilation and a line in the log, never an error. Several processes may
// use one folder.
type ProgramCache struct {
	dir   string
	limit int64
	print func(string)

	mu           sync.Mutex
	hits, misses int
}

// OpenProgramCache returns the cache that the environment asks for, nil if it is to
// be off. log gets one line for each thing out of order; it may be nil.
func OpenProgramCache(log func(string)) (*ProgramCache, error) {
	dir := os.Getenv(EnvPrograms)
	switch {
	case dir == "off":
		return nil, nil
	case dir == "":
		base, err := CacheDir()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(base, "programs")
	case !filepath.IsAbs(dir):
		return nil, fmt.Errorf("%s=%q: want off, or the absolute path of a folder", EnvPrograms, dir)
	}
	return NewProgramCache(dir, ProgramCacheBytes, log)
}

// NewProgramCache returns a cache in a folder, which is made with access for the
// user alone. limit is in bytes.
func NewProgramCache(dir string, limit int64, log func(string)) (*ProgramCache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache of compiled programs: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("cache of compiled programs: %w", err)
	}
	// A program is code that will run: nobody else may put one there.
	if st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("cache of compiled programs: %s can be written by others (%v); run: chmod 700 %s", dir, st.Mode().Perm(), dir)
	}
	if log == nil {
		log = func(string) {}
	}
	return &ProgramCache{dir: dir, limit: limit, print: log}, nil
}

// Dir is the cache's folder.
func (c *ProgramCache) Dir() string { return c.dir }

// Counts are the programs that were found and those that were not, since the cache
// was opened.
func (c *ProgramCache) Counts() (found, missed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hits, c.misses
}

// Size is the number of programs in the folder and their bytes.
func (c *ProgramCache) Size() (programs int, bytes int64, err error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return 0, 0, fmt.Errorf("cache of compiled programs: %w", err)
	}
	for _, e := range entries {
		if st, err := e.Info(); err == nil && filepath.Ext(e.Name()) == programExt { // one that goes meanwhile is not there
			programs, bytes = programs+1, bytes+st.Size()
		}
	}
	return programs, bytes, nil
}

func (c *ProgramCache) log(format string, a ...any) { c.print(fmt.Sprintf(format, a...)) }

const programExt = ".program"

func (c *ProgramCache) path(key [32]byte) string {
	return filepath.Join(c.dir, hex.EncodeToString(key[:])+programExt)
}

// header is a file's begin: the format, the key and the sha256 of the rest.
func header(key [32]byte, data []byte) []byte {
	sum := sha256.Sum256(data)
	return slices.Concat([]byte(programFormat+"\n"), key[:], sum[:])
}

// get returns the program of a key and marks it as used.
func (c *ProgramCache) get(key [32]byte) (data []byte, ok bool) {
	data, err := c.read(key)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.misses++
		if !errors.Is(err, fs.ErrNotExist) {
			c.log("compiled program %s is ignored and compiled again: %v", c.path(key), err)
			_ = os.Remove(c.path(key))
		}
		return nil, false
	}
	c.hits++
	now := time.Now()
	_ = os.Chtimes(c.path(key), now, now) // only the order of going depends on it
	return data, true
}

func (c *ProgramCache) read(key [32]byte) ([]byte, error) {
	all, err := os.ReadFile(c.path(key))
	if err != nil {
		return nil, err
	}
	n := len(programFormat) + 1 + 2*sha256.Size
	if len(all) <= n {
		return nil, fmt.Errorf("it is cut off after %d bytes", len(all))
	}
	data := all[n:]
	if !bytes.Equal(all[:n], header(key, data)) {
		return nil, errors.New("it is damaged, or not a program of this cache")
	}
	return data, nil
}

// remove forgets a key's program.
func (c *ProgramCache) remove(key [32]byte) { _ = os.Remove(c.path(key)) }

// put keeps a program: written beside, brought to disk, renamed.
func (c *ProgramCache) put(key [32]byte, data []byte) (err error) {
	if int64(len(data)) > c.limit {
		return fmt.Errorf("not kept: its %d bytes are more than the cache's %d", len(data), c.limit)
	}
	f, err := os.CreateTemp(c.dir, "new-*")
	if err != nil {
		return fmt.Errorf("not kept: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	for _, part := range [][]byte{header(key, data), data} {
		if _, err = f.Write(part); err != nil {
			return fmt.Errorf("not kept: %w", err)
		}
	}
	if err = firstOf(f.Sync(), f.Close(), os.Rename(f.Name(), c.path(key))); err != nil {
		return fmt.Errorf("not kept: %w", err)
	}
	c.trim(c.path(key))
	return nil
}

func firstOf(errs ...error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// staleAfter is the age at which a file that was never finished is removed.
const staleAfter = time.Hour

// trim removes what was used longest ago until the limit holds, but never keep.
func (c *ProgramCache) trim(keep string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		c.log("cache of compiled programs: %v", err)
		return
	}
	var files []fs.FileInfo
	total := int64(0)
	for _, e := range entries {
		st, err := e.Info()
		switch {
		case err != nil || !st.Mode().IsRegular():
		case filepath.Ext(e.Name()) == programExt:
			files, total = append(files, st), total+st.Size()
		case time.Since(st.ModTime()) > staleAfter:
			_ = os.Remove(filepath.Join(c.dir, e.Name()))
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, st := range files {
		path := filepath.Join(c.dir, st.Name())
		if total <= c.limit {
			return
		}
		if path == keep {
			continue
		}
		if err := os.Remove(path); err == nil || errors.Is(err, fs.ErrNotExist) {
			total -= st.Size()
		}
	}
}
