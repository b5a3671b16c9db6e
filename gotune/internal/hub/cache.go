package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// folder is the repository's place in the cache, e.g. models--owner--name.
func (r Repo) folder() string {
	return string(r.typ()) + "s--" + strings.ReplaceAll(r.ID, "/", "--")
}

func (c *Client) repoDir(r Repo) string { return filepath.Join(c.cacheDir(), r.folder()) }

func (c *Client) blobPath(r Repo, etag string) string {
	return filepath.Join(c.repoDir(r), "blobs", etag)
}

func (c *Client) lockPath(r Repo, etag string) string {
	return filepath.Join(c.cacheDir(), ".locks", r.folder(), etag+".lock")
}

func (c *Client) snapshotDir(r Repo, commit string) string {
	return filepath.Join(c.repoDir(r), "snapshots", commit)
}

func (c *Client) pointer(r Repo, commit, file string) string {
	return filepath.Join(c.snapshotDir(r, commit), filepath.FromSlash(file))
}

// cachedCommit is the commit that the revision stood for when it was last seen.
func (c *Client) cachedCommit(r Repo) (string, bool) {
	rev := r.rev()
	if commitHash.MatchString(rev) {
		return rev, true
	}
	b, err := os.ReadFile(filepath.Join(c.repoDir(r), "refs", filepath.FromSlash(rev)))
	commit := strings.TrimSpace(string(b))
	return commit, err == nil && commitHash.MatchString(commit)
}

// cachedFile is the path of a file in the cache, if it is there whole.
func (c *Client) cachedFile(r Repo, file string) (string, bool) {
	commit, ok := c.cachedCommit(r)
	if !ok {
		return "", false
	}
	p := c.pointer(r, commit, file)
	st, err := os.Stat(p) // follows the link: a dangling one is not there
	return p, err == nil && st.Mode().IsRegular()
}

// saveRef notes which commit the revision stands for.
func (c *Client) saveRef(r Repo, commit string) error {
	if r.rev() == commit {
		return nil
	}
	p := filepath.Join(c.repoDir(r), "refs", filepath.FromSlash(r.rev()))
	if b, err := os.ReadFile(p); err == nil && string(b) == commit {
		return nil
	}
	return writeAtomic(p, []byte(commit))
}

// writeAtomic replaces a file by way of a synced temporary one beside it.
func writeAtomic(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// link makes pointer a relative link to blob; where links don't work it copies.
func link(blob, pointer string) error {
	if err := os.MkdirAll(filepath.Dir(pointer), 0o755); err != nil {
		return err
	}
	rel, err := filepath.Rel(filepath.Dir(pointer), blob)
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%x.tmp", pointer, rand.Uint64())
	if err := os.Symlink(rel, tmp); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return err
		}
		b, rerr := os.ReadFile(blob)
		if rerr != nil {
			return rerr
		}
		return writeAtomic(pointer, b)
	}
	if err := os.Rename(tmp, pointer); err != nil {
		os.Remove(tmp)
		return err
	}
	return nil
}

// tagCacheDir marks the cache for backup programs, as huggingface_hub does.
func (c *Client) tagCacheDir() {
	p := filepath.Join(c.cacheDir(), "CACHEDIR.TAG")
	if _, err := os.Stat(p); err == nil {
		return
	}
	// A cache without the mark works as well, so a failure here is none.
	_ = writeAtomic(p, []byte("Signature: 8a477f597d28d172789f06886806bc55\n# This file is a cache directory tag of the Hugging Face cache.\n# For information about cache directory tags, see: https://bford.info/cachedir/\n"))
}
