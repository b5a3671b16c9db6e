package hub

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
)

const (
	sampleBytes    = 512 // of each file, for the Hub to tell text from binary
	preuploadFiles = 256 // a request
	lfsBatchFiles  = 256 // a request
)

// An addition is a file on its way to the Hub.
type addition struct {
	path  string // in the repository
	local string
	size  int64

	mode    UploadMode
	ignored bool
	remote  string // digest the Hub has at this path, or ""
	sha256  string // of an LFS file
}

// readSample returns the first bytes of the file.
func (a *addition) readSample() ([]byte, error) {
	f, err := os.Open(a.local)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, min(sampleBytes, a.size)))
}

// digest reads the whole file; git's blob id with prefix, sha256 without.
func (a *addition) digest(h hash.Hash, prefix string) (string, error) {
	f, err := os.Open(a.local)
	if err != nil {
		return "", err
	}
	defer f.Close()
	io.WriteString(h, prefix)
	n, err := io.CopyBuffer(h, f, make([]byte, 1<<20))
	if err != nil {
		return "", err
	}
	if n != a.size {
		return "", fmt.Errorf("it has %d bytes now and had %d before: let its writer finish first", n, a.size)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// unchanged reports whether the Hub has the file with this content.
func (a *addition) unchanged() (bool, error) {
	if a.remote == "" {
		return false, nil
	}
	if a.mode == LFS {
		return a.remote == a.sha256, nil
	}
	id, err := a.digest(sha1.New(), fmt.Sprintf("blob %d\x00", a.size))
	return a.remote == id, err
}

func fileError(op string, a *addition, err error) error {
	return &Error{Op: op, Object: a.local, Found: err.Error(), Kind: ErrDisk, Err: err, Next: "make sure that nobody changes the folder while it is pushed"}
}

// validateCards has the Hub check the front matter of a README.md.
func (c *Client) validateCards(ctx context.Context, r Repo, adds []*addition) error {
	for _, a := range adds {
		if a.path != "README.md" {
			continue
		}
		b, err := os.ReadFile(a.local)
		if err != nil {
			return fileError("read", a, err)
		}
		req := &request{op: "check", object: "README.md for " + r.String(), method: http.MethodPost, url: c.endpoint() + "/api/validate-yaml"}
		body := struct {
			Content  string   `json:"content"`
			RepoType RepoType `json:"repoType"`
		}{string(b), r.typ()}
		if err := req.jsonBody(body); err != nil {
			return err
		}
		if _, err := c.doJSON(ctx, req, nil); err != nil {
			var e *Error
			if errors.As(err, &e) && e.Status == http.StatusBadRequest {
				e.Next = "correct the YAML at the top of README.md"
			}
			return err
		}
	}
	return nil
}

// commit runs the steps of one commit: preupload, LFS objects, then the commit itself.
func (c *Client) commit(ctx context.Context, r Repo, adds []*addition, deletes []string, o UploadOptions, u *Upload) error {
	if err := c.validateCards(ctx, r, adds); err != nil {
		return err
	}
	if err := c.preupload(ctx, r, adds, o.CreatePR); err != nil {
		return err
	}
	if err := c.uploadLFS(ctx, r, adds, o.Progress); err != nil {
		return err
	}
	var send []*addition
	for _, a := range adds {
		same, err := a.unchanged()
		if err != nil {
			return fileError("read", a, err)
		}
		u.Files = append(u.Files, UploadFile{Path: a.path, Size: a.size, Mode: a.mode, Unchanged: same, Ignored: a.ignored})
		if !same && !a.ignored {
			send = append(send, a)
		}
	}
	if len(send) == 0 && len(deletes) == 0 {
		named := r
		named.Revision = r.rev()
		info, err := c.Info(ctx, named)
		if err != nil {
			return err
		}
		u.Empty, u.CommitOID = true, info.Commit
		u.CommitURL = c.endpoint() + "/" + r.urlPrefix() + r.ID + "/commit/" + info.Commit
		return nil
	}
	return c.sendCommit(ctx, r, send, deletes, o, u)
}

// preupload asks how the Hub wants each file and what it has of it.
func (c *Client) preupload(ctx context.Context, r Repo, adds []*addition, pr bool) error {
	type file struct {
		Path   string `json:"path"`
		Sample []byte `json:"sample"` // base64
		Size   int64  `json:"size"`
	}
	for start := 0; start < len(adds); start += preuploadFiles {
		part := adds[start:min(start+preuploadFiles, len(adds))]
		var body struct {
			Files []file `json:"files"`
		}
		byPath := map[string]*addition{}
		for _, a := range part {
			sample, err := a.readSample()
			if err != nil {
				return fileError("read", a, err)
			}
			body.Files = append(body.Files, file{a.path, sample, a.size})
			byPath[a.path] = a
		}
		req := &request{op: "announce files to", object: r.String(), method: http.MethodPost, url: c.api(r, "/preupload/"+quote(r.rev(), "")) + prQuery(pr)}
		if err := req.jsonBody(body); err != nil {
			return err
		}
		var answer struct {
			Files []struct {
				Path         string     `json:"path"`
				UploadMode   UploadMode `json:"uploadMode"`
				ShouldIgnore bool       `json:"shouldIgnore"`
				OID          string     `json:"oid"`
			} `json:"files"`
		}
		if _, err := c.doJSON(ctx, req, &answer); err != nil {
			return err
		}
		for _, f := range answer.Files {
			a := byPath[f.Path]
			if a == nil || (f.UploadMode != Regular && f.UploadMode != LFS) {
				continue
			}
			a.mode, a.ignored, a.remote = f.UploadMode, f.ShouldIgnore, f.OID
			if a.size == 0 {
				a.mode = Regular // storage takes no empty object
			}
		}
		for _, a := range part {
			if a.mode == "" {
				return &Error{Op: req.op, Object: req.object, Found: "no upload mode for " + quoted(a.path), Wanted: `"regular" or "lfs"`, Kind: ErrProtocol}
			}
		}
	}
	return nil
}

func prQuery(pr bool) string {
	if pr {
		return "?create_pr=1"
	}
	return ""
}

// commitBody is the commit as one JSON value a line: a header, then the operations.
func commitBody(adds []*addition, deletes []string, o UploadOptions) ([]byte, error) {
	type line struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	lines := []line{{"header", struct {
		Summary     string `json:"summary"`
		Description string `json:"description"`
	}{o.Message, o.Description}}}
	for _, a := range adds {
		if a.mode == LFS {
			lines = append(lines, line{"lfsFile", struct {
				Path string `json:"path"`
				Algo string `json:"algo"`
				OID  string `json:"oid"`
				Size int64  `json:"size"`
			}{a.path, "sha256", a.sha256, a.size}})
			continue
		}
		data, err := os.ReadFile(a.local)
		if err != nil {
			return nil, fileError("read", a, err)
		}
		if int64(len(data)) != a.size {
			return nil, fileError("read", a, fmt.Errorf("it has %d bytes now and had %d before", len(data), a.size))
		}
		lines = append(lines, line{"file", struct {
			Content  string `json:"content"`
			Path     string `json:"path"`
			Encoding string `json:"encoding"`
		}{base64.StdEncoding.EncodeToString(data), a.path, "base64"}})
	}
	for _, p := range deletes {
		lines = append(lines, line{"deletedFile", struct {
			Path string `json:"path"`
		}{p}})
	}
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			return nil, invalid("commit", l.Key, err.Error(), "")
		}
	}
	return b.Bytes(), nil
}

// sendCommit makes the commit, once.
func (c *Client) sendCommit(ctx context.Context, r Repo, adds []*addition, deletes []string, o UploadOptions, u *Upload) error {
	body, err := commitBody(adds, deletes, o)
	if err != nil {
		return err
	}
	req := &request{op: "commit to", object: r.String(), method: http.MethodPost, url: c.api(r, "/commit/"+quote(r.rev(), "")) + prQuery(o.CreatePR),
		header: http.Header{"Content-Type": {"application/x-ndjson"}}, body: bytesBody(body), noRetry: true}
	var v struct {
		CommitOID      string `json:"commitOid"`
		CommitURL      string `json:"commitUrl"`
		PullRequestURL string `json:"pullRequestUrl"`
	}
	if _, err := c.doJSON(ctx, req, &v); err != nil {
		var e *Error
		if errors.As(err, &e) && (e.Status == 0 || e.Status >= 500) {
			e.Next = "it is not known whether the commit was made, so it is not repeated: look at the repository, then push again; only what is missing is sent"
		}
		return err
	}
	u.CommitOID, u.CommitURL, u.PRURL = v.CommitOID, v.CommitURL, v.PullRequestURL
	return nil
}

// hashLFS fills in the sha256 of every LFS file, several at once.
func (c *Client) hashLFS(ctx context.Context, adds []*addition) error {
	return c.each(ctx, len(adds), func(_ context.Context, i int) (err error) {
		if adds[i].sha256, err = adds[i].digest(sha256.New(), ""); err != nil {
			return fileError("read", adds[i], err)
		}
		return nil
	})
}
