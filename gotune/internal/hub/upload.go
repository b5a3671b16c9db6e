package hub

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// An UploadMode is how the Hub keeps a file.
type UploadMode string

// The modes: Regular files are in the git commit itself, LFS files beside it.
const (
	Regular UploadMode = "regular"
	LFS     UploadMode = "lfs"
)

// UploadOptions are the choices of Upload.
type UploadOptions struct {
	Message     string         // commit title; default "Upload folder using gotune"
	Description string         // commit text below the title
	Allow       []string       // shell patterns as in SnapshotOptions; none: all files
	Ignore      []string       // patterns of files to leave out; .git and .cache/huggingface always are
	CreatePR    bool           // propose the commit as a pull request
	DryRun      bool           // only plan: no request is sent
	Progress    func(Progress) // bytes of LFS files; default: nobody is told
}

// An UploadFile is one file of an Upload.
type UploadFile struct {
	Path      string     // in the repository
	Size      int64      // bytes
	Mode      UploadMode // in a dry run what the Hub's defaults give
	Unchanged bool       // the Hub has it: not sent
	Ignored   bool       // the repository's .gitignore names it: not sent
}

// An Upload is what Upload did, or would do.
type Upload struct {
	Repo      Repo
	Files     []UploadFile
	DryRun    bool
	Empty     bool   // nothing had changed, so there is no new commit
	CommitOID string // the new commit, or the present one when Empty
	CommitURL string
	PRURL     string // with CreatePR
}

// Bytes is the size of the files that were sent, or would be.
func (u *Upload) Bytes() int64 {
	var n int64
	for _, f := range u.Files {
		if !f.Unchanged && !f.Ignored {
			n += f.Size
		}
	}
	return n
}

// lfsSuffixes are the patterns of the .gitattributes of a new repository.
var lfsPatterns = []string{
	"*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gguf", "*.gz", "*.h5", "*.joblib", "*.lfs.*", "*.mlmodel", "*.model", "*.msgpack",
	"*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt", "*.pth", "*.rar", "*.safetensors", "saved_model/*",
	"*.tar.*", "*.tar", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip", "*.zst", "*tfevents*",
}

// regularLimit is the size beyond which the Hub takes no regular file.
const regularLimit = 10 << 20

// guessMode says how a new repository with the Hub's defaults keeps a file.
func guessMode(path string, size int64) UploadMode {
	if size > regularLimit || (size > 0 && matchAny(lfsPatterns, path)) {
		return LFS
	}
	return Regular
}

// Upload sends the files of folder dir as one commit on r's revision. Files that
// the Hub has already are left out; when nothing is left no commit is made. The
// repository must exist: see CreateRepo. The commit itself is sent once and never
// repeated: after a failure there the error says so, and a second Upload sends
// only what is missing.
func (c *Client) Upload(ctx context.Context, r Repo, dir string, o UploadOptions) (*Upload, error) {
	if err := r.check("push to"); err != nil {
		return nil, err
	}
	adds, err := folder(dir, o)
	if err != nil {
		return nil, err
	}
	u := &Upload{Repo: r, DryRun: o.DryRun}
	if o.DryRun {
		for _, a := range adds {
			u.Files = append(u.Files, UploadFile{Path: a.path, Size: a.size, Mode: guessMode(a.path, a.size)})
		}
		return u, nil
	}
	if c.Token.IsZero() {
		return nil, &Error{Op: "push to", Object: r.String(), Found: "no token", Wanted: "a token with write access", Kind: ErrUnauthorized,
			Next: "set HF_TOKEN, or save the token in HF_HOME/token"}
	}
	if err := c.validateCards(ctx, r, adds); err != nil { // before the long hashing
		return nil, err
	}
	if o.Message == "" {
		o.Message = "Upload folder using gotune"
	}
	return u, c.commit(ctx, r, adds, nil, o, u)
}

// Delete removes files of the repository in one commit.
func (c *Client) Delete(ctx context.Context, r Repo, paths []string, message string) (*Upload, error) {
	if err := r.check("delete from"); err != nil {
		return nil, err
	}
	for _, p := range paths {
		if bad := checkPath(p); bad != "" {
			return nil, invalid("delete from", r.String(), "the file name "+quoted(p)+", which "+bad, "a relative path in the repository")
		}
	}
	if message == "" {
		message = "Delete " + strings.Join(paths, ", ") + " using gotune"
	}
	u := &Upload{Repo: r}
	return u, c.commit(ctx, r, nil, paths, UploadOptions{Message: message}, u)
}

// alwaysIgnored are the folders huggingface_hub never pushes.
var alwaysIgnored = []string{".git", ".git/*", "*/.git", "*/.git/*", ".cache/huggingface", ".cache/huggingface/*", "*/.cache/huggingface", "*/.cache/huggingface/*"}

// folder lists the files to push, in the order of their path's parts.
func folder(dir string, o UploadOptions) ([]*addition, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return nil, &Error{Op: "push", Object: "folder " + dir, Found: err.Error(), Wanted: "a folder", Kind: ErrInvalid, Err: err, Next: "save or merge the model first"}
	}
	if !st.IsDir() {
		return nil, invalid("push", dir, "a file", "a folder")
	}
	var adds []*addition
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := os.Stat(p) // a link counts as the file it leads to
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if !st.Mode().IsRegular() || matchAny(alwaysIgnored, rel) || matchAny(o.Ignore, rel) || (len(o.Allow) > 0 && !matchAny(o.Allow, rel)) {
			return nil
		}
		adds = append(adds, &addition{path: rel, local: p, size: st.Size()})
		return nil
	})
	if err != nil {
		return nil, &Error{Op: "push", Object: "folder " + dir, Found: err.Error(), Kind: ErrDisk, Err: err, Next: "make its files readable"}
	}
	if len(adds) == 0 {
		return nil, invalid("push", "folder "+dir, "no file", "at least one")
	}
	slices.SortFunc(adds, func(a, b *addition) int {
		return slices.Compare(strings.Split(a.path, "/"), strings.Split(b.path, "/"))
	})
	return adds, nil
}
