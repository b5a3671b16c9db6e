package hub

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"
)

// Progress is the state of a download or an upload.
type Progress struct {
	File        string // the file that just moved
	Done, Total int64  // bytes of all files; Total grows while sizes become known
	Files       int    // files of the whole transfer
}

// A meter adds up the files of a transfer and tells the callback, one call at a time.
type meter struct {
	mu    sync.Mutex
	tell  func(Progress)
	done  map[string]int64
	total map[string]int64
	files int
}

func newMeter(files []RemoteFile, tell func(Progress)) *meter {
	m := &meter{tell: tell, done: map[string]int64{}, total: map[string]int64{}, files: len(files)}
	for _, f := range files {
		m.total[f.Path] = max(0, f.Size)
	}
	return m
}

// set notes that done of total bytes of a file are there; a negative total is unknown.
func (m *meter) set(file string, done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done[file], m.total[file] = done, max(done, total)
	if m.tell == nil {
		return
	}
	p := Progress{File: file, Files: m.files}
	for f := range m.total {
		p.Done += m.done[f]
		p.Total += m.total[f]
	}
	m.tell(p)
}

// add is set relative to what the file has.
func (m *meter) add(file string, n int64) {
	m.mu.Lock()
	done, total := m.done[file]+n, m.total[file]
	m.mu.Unlock()
	m.set(file, done, total)
}

// back takes a file's bytes away, after they proved bad.
func (m *meter) back(file string) {
	m.mu.Lock()
	total := m.total[file]
	m.mu.Unlock()
	m.set(file, 0, total)
}

// have notes a file that is there already.
func (m *meter) have(file, path string) {
	if st, err := os.Stat(path); err == nil {
		m.set(file, st.Size(), st.Size())
	}
}

// each runs work on 0..n-1, at most Parallel at once, and stops at the first error.
func (c *Client) each(ctx context.Context, n int, work func(context.Context, int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var once sync.Once
	var firstErr error
	slots := make(chan struct{}, c.parallel())
	for i := range n {
		slots <- struct{}{}
		if ctx.Err() != nil {
			<-slots
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := work(ctx, i); err != nil {
				once.Do(func() { firstErr = err; cancel() })
			}
		})
	}
	wg.Wait()
	if firstErr == nil && ctx.Err() != nil {
		return c.transportError("transfer", "files", ctx.Err())
	}
	return firstErr
}

// download fetches files, several at once, and returns their paths in order.
func (c *Client) download(ctx context.Context, r Repo, files []RemoteFile, progress func(Progress)) ([]string, error) {
	m := newMeter(files, progress)
	paths := make([]string, len(files))
	err := c.each(ctx, len(files), func(ctx context.Context, i int) (err error) {
		paths[i], err = c.fetch(ctx, r, files[i].Path, m)
		return err
	})
	if err != nil {
		return nil, err
	}
	return paths, nil
}

// DownloadFiles fetches the named files, several at once, and returns their
// paths in the same order. All are of one commit: the revision is looked up first.
func (c *Client) DownloadFiles(ctx context.Context, r Repo, files []string, progress func(Progress)) ([]string, error) {
	if err := r.check("download"); err != nil {
		return nil, err
	}
	pinned, err := c.Pin(ctx, r)
	if err != nil {
		return nil, err
	}
	list := make([]RemoteFile, len(files))
	for i, f := range files {
		list[i] = RemoteFile{Path: f, Size: -1}
	}
	return c.download(ctx, pinned, list, progress)
}

// Pin replaces the revision by the commit it stands for, so that later calls see
// one state. When the Hub can't be reached, or in offline mode, it is the commit
// seen last.
func (c *Client) Pin(ctx context.Context, r Repo) (Repo, error) {
	commit, cached := c.cachedCommit(r)
	if commitHash.MatchString(r.rev()) || (c.Offline && cached) {
		return Repo{ID: r.ID, Type: r.Type, Revision: commit}, nil
	}
	if c.Offline {
		return r, &Error{Op: "download", Object: r.String(), Found: "not in the cache " + c.cacheDir(), Wanted: "the repository", Kind: ErrOffline,
			Next: "unset HF_HUB_OFFLINE and load it once with a network"}
	}
	named := r
	named.Revision = r.rev()
	info, err := c.info(ctx, named, counterHeader())
	if err != nil {
		if cached && (errors.Is(err, ErrNetwork) || errors.Is(err, ErrServer)) {
			return Repo{ID: r.ID, Type: r.Type, Revision: commit}, nil
		}
		return r, err
	}
	if err := c.saveRef(r, info.Commit); err != nil {
		return r, diskError("note the revision of", r.String(), err)
	}
	return Repo{ID: r.ID, Type: r.Type, Revision: info.Commit}, nil
}

// SnapshotOptions chooses the files of Snapshot.
type SnapshotOptions struct {
	Allow    []string       // shell patterns ('*' also matches '/'); none: all files
	Ignore   []string       // patterns of files to leave out
	Progress func(Progress) // default: nobody is told
}

// Snapshot fetches the repository's files, several at once, and returns the
// folder of links to them. When the Hub can't be reached, or in offline mode, it
// returns the folder of the last commit seen, if no link in it dangles.
func (c *Client) Snapshot(ctx context.Context, r Repo, o SnapshotOptions) (string, error) {
	if err := r.check("download"); err != nil {
		return "", err
	}
	pinned, err := c.Pin(ctx, r)
	if err != nil {
		return "", err
	}
	dir := c.snapshotDir(pinned, pinned.Revision)
	if c.Offline {
		return dir, c.checkSnapshot(r, dir)
	}
	files, err := c.files(ctx, pinned, counterHeader())
	if err != nil {
		if errors.Is(err, ErrNetwork) || errors.Is(err, ErrServer) {
			if c.checkSnapshot(r, dir) == nil {
				return dir, nil
			}
		}
		return "", err
	}
	var want []RemoteFile
	for _, f := range files {
		if (len(o.Allow) == 0 || matchAny(o.Allow, f.Path)) && !matchAny(o.Ignore, f.Path) {
			want = append(want, f)
		}
	}
	if len(want) == 0 {
		return "", &Error{Op: "download", Object: r.String(), Found: "no file of that kind", Wanted: "one that matches " + strings.Join(o.Allow, " "), Kind: ErrEntryNotFound,
			Next: "look at the repository's file list"}
	}
	if _, err := c.download(ctx, pinned, want, o.Progress); err != nil {
		return "", err
	}
	return dir, nil
}

// CachedFiles lists the files of the pinned repository r that the cache holds
// whole: what offline mode can use.
func (c *Client) CachedFiles(r Repo) []RemoteFile {
	commit, ok := c.cachedCommit(r)
	if !ok {
		return nil
	}
	dir := c.snapshotDir(r, commit)
	var out []RemoteFile
	// An unreadable folder has no usable files, which is what the empty list says.
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		st, err := os.Stat(p)
		rel, rerr := filepath.Rel(dir, p)
		if err == nil && rerr == nil && st.Mode().IsRegular() {
			out = append(out, RemoteFile{Path: filepath.ToSlash(rel), Size: st.Size()})
		}
		return nil
	})
	return out
}

// checkSnapshot reports a cached snapshot that is not there or has lost bytes.
func (c *Client) checkSnapshot(r Repo, dir string) error {
	n := 0
	bad := ""
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if _, err := os.Stat(p); err != nil {
			bad = p
		}
		n++
		return nil
	})
	if err != nil || n == 0 {
		bad = dir
	}
	if bad != "" {
		return &Error{Op: "download", Object: r.String(), Found: bad + " is missing in the cache", Wanted: "the whole snapshot", Kind: ErrOffline,
			Next: "unset HF_HUB_OFFLINE and load it once with a network"}
	}
	return nil
}

// matchAny reports whether a shell pattern matches the path, as Python's fnmatch
// does: '*' and '?' match '/' too, and "folder/" means all below it.
func matchAny(patterns []string, path string) bool {
	for _, p := range patterns {
		if strings.HasSuffix(p, "/") {
			p += "*"
		}
		if re, err := regexp.Compile(globRegexp(p)); err == nil && re.MatchString(path) {
			return true
		}
	}
	return false
}

// globRegexp translates a shell pattern to a regular expression.
func globRegexp(p string) string {
	var b strings.Builder
	b.WriteString(`(?s)^`)
	for i := 0; i < len(p); i++ {
		switch ch := p[i]; ch {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		case '[':
			end := strings.IndexByte(p[i+1:], ']')
			if end < 1 {
				b.WriteString(`\[`)
				continue
			}
			set := strings.ReplaceAll(p[i+1:i+1+end], `\`, `\\`)
			if set[0] == '!' {
				set = "^" + set[1:]
			}
			b.WriteString("[" + set + "]")
			i += end + 1
		default:
			if ch < utf8.RuneSelf {
				b.WriteString(regexp.QuoteMeta(p[i : i+1]))
			} else {
				b.WriteByte(ch) // a part of a longer character
			}
		}
	}
	b.WriteString("$")
	return b.String()
}
