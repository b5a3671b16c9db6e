package hub

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// lfsHeader is the media type of the git LFS batch API.
func lfsHeader() http.Header {
	return http.Header{"Accept": {"application/vnd.git-lfs+json"}, "Content-Type": {"application/vnd.git-lfs+json"}}
}

// An lfsAction is a place the batch answer names, with what it needs.
type lfsAction struct {
	Href   string            `json:"href"`
	Header map[string]string `json:"header"`
}

// An lfsObject is the batch answer for one object. No actions: the Hub has it.
type lfsObject struct {
	OID     string `json:"oid"`
	Size    int64  `json:"size"`
	Actions *struct {
		Upload *lfsAction `json:"upload"`
		Verify *lfsAction `json:"verify"`
	} `json:"actions"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// uploadLFS brings the LFS files to the Hub's storage: hash, ask, put, verify.
// See the git LFS batch API, github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md.
func (c *Client) uploadLFS(ctx context.Context, r Repo, adds []*addition, progress func(Progress)) error {
	var lfs []*addition
	for _, a := range adds {
		if a.mode == LFS && !a.ignored {
			lfs = append(lfs, a)
		}
	}
	if len(lfs) == 0 {
		return nil
	}
	if err := c.hashLFS(ctx, lfs); err != nil {
		return err
	}
	lfs = onePerObject(lfs)
	files := make([]RemoteFile, len(lfs))
	for i, a := range lfs {
		files[i] = RemoteFile{Path: a.path, Size: a.size}
	}
	m := newMeter(files, progress)
	for start := 0; start < len(lfs); start += lfsBatchFiles {
		part := lfs[start:min(start+lfsBatchFiles, len(lfs))]
		objects, err := c.lfsBatch(ctx, r, part)
		if err != nil {
			return err
		}
		if err := c.each(ctx, len(part), func(ctx context.Context, i int) error {
			o, ok := objects[part[i].sha256]
			if !ok {
				return &Error{Op: "upload", Object: part[i].path, Found: "no answer for its object", Kind: ErrProtocol, Next: "try again later"}
			}
			if o.Actions == nil || o.Actions.Upload == nil {
				m.set(part[i].path, part[i].size, part[i].size)
				return nil
			}
			return c.lfsPut(ctx, part[i], &o, m)
		}); err != nil {
			return err
		}
	}
	return nil
}

// onePerObject drops the files whose content another one brings.
func onePerObject(adds []*addition) []*addition {
	seen := map[string]bool{}
	var out []*addition
	for _, a := range adds {
		if !seen[a.sha256] {
			seen[a.sha256] = true
			out = append(out, a)
		}
	}
	return out
}

// lfsBatch asks where the objects go.
func (c *Client) lfsBatch(ctx context.Context, r Repo, adds []*addition) (map[string]lfsObject, error) {
	type object struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	}
	body := struct {
		Operation string            `json:"operation"`
		Transfers []string          `json:"transfers"`
		Objects   []object          `json:"objects"`
		HashAlgo  string            `json:"hash_algo"`
		Ref       map[string]string `json:"ref"`
	}{"upload", []string{"basic", "multipart"}, nil, "sha256", map[string]string{"name": r.rev()}}
	for _, a := range adds {
		body.Objects = append(body.Objects, object{a.sha256, a.size})
	}
	req := &request{op: "announce large files to", object: r.String(), method: http.MethodPost, header: lfsHeader(),
		url: c.endpoint() + "/" + r.urlPrefix() + r.ID + ".git/info/lfs/objects/batch"}
	if err := req.jsonBody(body); err != nil {
		return nil, err
	}
	var answer struct {
		Objects []lfsObject `json:"objects"`
	}
	if _, err := c.doJSON(ctx, req, &answer); err != nil {
		return nil, err
	}
	out := map[string]lfsObject{}
	for _, o := range answer.Objects {
		if o.Error != nil {
			return nil, &Error{Op: req.op, Object: req.object, Found: fmt.Sprintf("object %s: %d %s", quoted(o.OID), o.Error.Code, c.clean(o.Error.Message)), Kind: ErrRefused, Status: o.Error.Code,
				Next: "the message says what the Hub wants"}
		}
		out[o.OID] = o
	}
	return out, nil
}

// lfsPut sends one object, in one piece or in parts, and has the Hub verify it.
func (c *Client) lfsPut(ctx context.Context, a *addition, o *lfsObject, m *meter) error {
	up := o.Actions.Upload
	var err error
	if size := up.Header["chunk_size"]; size != "" {
		err = c.putParts(ctx, a, up, size, m)
	} else {
		err = c.putRange(ctx, a, up.Href, 0, a.size, m, nil)
	}
	if err != nil || o.Actions.Verify == nil {
		return err
	}
	req := &request{op: "verify", object: a.path, method: http.MethodPost, url: o.Actions.Verify.Href}
	if err := req.jsonBody(struct {
		OID  string `json:"oid"`
		Size int64  `json:"size"`
	}{a.sha256, a.size}); err != nil {
		return err
	}
	_, err = c.doJSON(ctx, req, nil)
	return err
}

// putRange PUTs n bytes of the file from offset at on to the storage host, with
// no token, and gives the answer's headers to answer.
func (c *Client) putRange(ctx context.Context, a *addition, href string, at, n int64, m *meter, answer *http.Header) error {
	u, err := url.Parse(href)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || (u.Scheme == "http" && strings.HasPrefix(c.endpoint(), "https:")) {
		return &Error{Op: "upload", Object: a.path, Found: "a storage address that is no address of that kind", Wanted: "https", Kind: ErrProtocol, Next: "check HF_ENDPOINT"}
	}
	f, err := os.Open(a.local)
	if err != nil {
		return fileError("read", a, err)
	}
	defer f.Close()
	var last *countReader
	req := &request{op: "upload", object: a.path, method: http.MethodPut, url: href, noAuth: true,
		body: func() (io.Reader, int64, error) {
			if last != nil {
				last.undo()
			}
			// A SectionReader, not the file: a try given up may still be read by the transport.
			last = &countReader{r: io.NewSectionReader(f, at, n), m: m, file: a.path}
			return last, n, nil
		}}
	resp, err := c.do(ctx, req)
	if err != nil {
		return err
	}
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
	if answer != nil {
		*answer = resp.Header
	}
	return nil
}

// putParts sends the parts that the batch answer lists, in order, and completes
// the object with their etags.
func (c *Client) putParts(ctx context.Context, a *addition, up *lfsAction, chunkSize string, m *meter) error {
	chunk, err := strconv.ParseInt(chunkSize, 10, 64)
	bad := func(found string) error {
		return &Error{Op: "upload", Object: a.path, Found: found, Kind: ErrProtocol, Wanted: "a multipart plan that fits " + strconv.FormatInt(a.size, 10) + " bytes", Next: "try again later"}
	}
	if err != nil || chunk <= 0 {
		return bad("the chunk size " + quoted(chunkSize))
	}
	urls := map[int]string{}
	for k, v := range up.Header {
		if n, err := strconv.Atoi(k); err == nil && n > 0 {
			urls[n] = v
		}
	}
	parts := int((a.size + chunk - 1) / chunk)
	if len(urls) != parts {
		return bad(fmt.Sprintf("%d parts of %d bytes", len(urls), chunk))
	}
	type part struct {
		Number int    `json:"partNumber"`
		ETag   string `json:"etag"`
	}
	done := struct {
		OID   string `json:"oid"`
		Parts []part `json:"parts"`
	}{OID: a.sha256}
	for i := 1; i <= parts; i++ {
		href, ok := urls[i]
		if !ok {
			return bad(fmt.Sprintf("no part %d", i))
		}
		at := int64(i-1) * chunk
		var h http.Header
		if err := c.putRange(ctx, a, href, at, min(chunk, a.size-at), m, &h); err != nil {
			return err
		}
		if h.Get("ETag") == "" {
			return &Error{Op: "upload", Object: a.path, Found: fmt.Sprintf("no etag for part %d", i), Kind: ErrProtocol, Next: "try again later"}
		}
		done.Parts = append(done.Parts, part{i, h.Get("ETag")})
	}
	req := &request{op: "complete", object: a.path, method: http.MethodPost, url: up.Href, header: lfsHeader(), noAuth: true}
	if err := req.jsonBody(done); err != nil {
		return err
	}
	_, err = c.doJSON(ctx, req, nil)
	return err
}

// A countReader tells the meter what the transport has taken.
type countReader struct {
	r    io.Reader
	m    *meter
	file string
	n    int64
}

func (r *countReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.n += int64(n)
		r.m.add(r.file, int64(n))
	}
	return n, err
}

// undo takes back what a failed try had counted.
func (r *countReader) undo() { r.m.add(r.file, -r.n) }
