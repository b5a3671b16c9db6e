package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// remoteMeta is what a HEAD request tells of a file.
type remoteMeta struct {
	etag   string // digest: 64 hexadecimal digits (sha256) or 40 (git blob)
	commit string
	size   int64  // -1 when unknown
	url    string // where the bytes are
}

// etagForm is what may become a file name; everything else is refused.
var etagForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// counterHeader marks the requests that the Hub counts as downloads.
func counterHeader() http.Header { return http.Header{"X-HF-Download-Counter": {"1"}} }

// Download fetches one file of the repository into the cache, unless it is
// there, and returns its path, which is a link to the bytes. When the Hub can't
// be reached and the cache has the file, that one is returned.
func (c *Client) Download(ctx context.Context, r Repo, file string, progress func(Progress)) (string, error) {
	if err := r.check("download"); err != nil {
		return "", err
	}
	paths, err := c.download(ctx, r, []RemoteFile{{Path: file, Size: -1}}, progress)
	if err != nil {
		return "", err
	}
	return paths[0], nil
}

// fetch brings one file into the cache.
func (c *Client) fetch(ctx context.Context, r Repo, file string, m *meter) (string, error) {
	object := file + " of " + r.String()
	if bad := checkPath(file); bad != "" {
		return "", invalid("download", r.String(), "the file name "+quoted(file)+", which "+bad, "a relative path in the repository")
	}
	if commitHash.MatchString(r.rev()) || c.Offline {
		if p, ok := c.cachedFile(r, file); ok {
			m.have(file, p)
			return p, nil
		}
		if c.Offline {
			return "", &Error{Op: "download", Object: object, Found: "not in the cache " + c.cacheDir(), Wanted: "the file", Kind: ErrOffline,
				Next: "unset HF_HUB_OFFLINE and load it once with a network"}
		}
	}
	meta, err := c.head(ctx, r, file, object)
	if err != nil {
		if p, ok := c.cachedFile(r, file); ok && (errors.Is(err, ErrNetwork) || errors.Is(err, ErrServer)) {
			m.have(file, p)
			return p, nil
		}
		return "", err
	}
	p := c.pointer(r, meta.commit, file)
	if st, err := os.Stat(p); err == nil && (meta.size < 0 || st.Size() == meta.size) {
		_ = c.saveRef(r, meta.commit) // the cache may be read-only, and the file is there
		m.have(file, p)
		return p, nil
	}
	if err := c.store(ctx, r, file, object, meta, m); err != nil {
		return "", err
	}
	if err := link(c.blobPath(r, meta.etag), p); err != nil {
		return "", diskError("link", object, err)
	}
	if err := c.saveRef(r, meta.commit); err != nil {
		return "", diskError("note the revision of", r.String(), err)
	}
	return p, nil
}

// head asks for a file's digest, size, commit and place. The first try falls
// back to the cache at once; only without a cached file is it repeated.
func (c *Client) head(ctx context.Context, r Repo, file, object string) (*remoteMeta, error) {
	_, cached := c.cachedFile(r, file)
	h := counterHeader()
	h.Set("Accept-Encoding", "identity")
	req := &request{op: "download", object: object, method: http.MethodHead, header: h, stayOnOrigin: true, noRetry: cached,
		url: c.endpoint() + "/" + r.urlPrefix() + r.ID + "/resolve/" + quote(r.rev(), "") + "/" + quote(file, "/")}
	resp, err := c.do(ctx, req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	meta := &remoteMeta{
		etag:   normalizeETag(first(resp.Header.Get("X-Linked-Etag"), resp.Header.Get("ETag"))),
		commit: resp.Header.Get("X-Repo-Commit"), size: -1, url: resp.Request.URL.String(),
	}
	if loc := resp.Header.Get("Location"); loc != "" {
		u, err := resp.Request.URL.Parse(loc)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || (u.Scheme == "http" && resp.Request.URL.Scheme == "https") {
			return nil, &Error{Op: "download", Object: object, Found: "a storage address that is no " + resp.Request.URL.Scheme + " address", Kind: ErrProtocol}
		}
		meta.url = u.String()
	}
	size := resp.Header.Get("X-Linked-Size")
	if size == "" && resp.StatusCode == http.StatusOK && resp.Header.Get("Content-Encoding") == "" {
		size = resp.Header.Get("Content-Length")
	}
	if n, err := strconv.ParseInt(size, 10, 64); err == nil && n >= 0 {
		meta.size = n
	}
	if !etagForm.MatchString(meta.etag) || !commitHash.MatchString(meta.commit) {
		return nil, &Error{Op: "download", Object: object, Kind: ErrProtocol,
			Found: fmt.Sprintf("an answer with ETag %s and commit %s", quoted(meta.etag), quoted(meta.commit)), Wanted: "the digest and the commit of the file",
			Next: "check HF_ENDPOINT: a proxy or login page may answer instead of the Hub"}
	}
	return meta, nil
}

func normalizeETag(s string) string { return strings.Trim(strings.TrimPrefix(s, "W/"), `"`) }

// store makes sure that the blob of meta is in the cache, whole and verified.
func (c *Client) store(ctx context.Context, r Repo, file, object string, meta *remoteMeta, m *meter) error {
	blob := c.blobPath(r, meta.etag)
	if err := os.MkdirAll(filepath.Dir(blob), 0o755); err != nil {
		return diskError("download", object, err)
	}
	c.tagCacheDir()
	unlock, err := lockFile(ctx, c.lockPath(r, meta.etag))
	if err != nil {
		if ctx.Err() != nil {
			return c.transportError("download", object, ctx.Err())
		}
		return diskError("lock", object, err)
	}
	defer unlock()
	if st, err := os.Stat(blob); err == nil && (meta.size < 0 || st.Size() == meta.size) {
		m.have(file, blob)
		return nil
	}
	part := blob + ".incomplete"
	if err := c.fetchTo(ctx, part, file, object, meta, m); err != nil {
		return err
	}
	if err := os.Rename(part, blob); err != nil {
		return diskError("download", object, err)
	}
	return nil
}

// fetchTo fills part with the bytes of meta and verifies them. What is there
// already is continued; if the whole then fails its digest it starts over once.
func (c *Client) fetchTo(ctx context.Context, part, file, object string, meta *remoteMeta, m *meter) error {
	f, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return diskError("download", object, err)
	}
	defer f.Close()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return diskError("download", object, err)
	}
	if free := freeBytes(filepath.Dir(part)); meta.size >= 0 && free >= 0 && meta.size-have > free {
		return &Error{Op: "download", Object: object, Found: fmt.Sprintf("%d MB free in %s", free/1e6, filepath.Dir(part)), Wanted: fmt.Sprintf("%d MB", (meta.size-have)/1e6),
			Kind: ErrDisk, Next: "make room or choose another cache folder with HF_HOME"}
	}
	resumed := have > 0
	for {
		if err := c.receive(ctx, f, file, object, meta, m); err != nil {
			return err
		}
		err := verify(f, object, meta)
		if err == nil {
			break
		}
		if terr := f.Truncate(0); terr != nil {
			return diskError("download", object, terr)
		}
		m.back(file)
		if !resumed || ctx.Err() != nil {
			os.Remove(part)
			return err
		}
		resumed = false // the part left by an earlier run was bad: once more from the start
	}
	if err := f.Sync(); err != nil {
		return diskError("download", object, err)
	}
	return nil
}

// receive appends to f until it has all bytes, trying again after a break as
// long as tries are left; every byte that arrives gives the tries back.
func (c *Client) receive(ctx context.Context, f *os.File, file, object string, meta *remoteMeta, m *meter) error {
	b := c.backoff("download", object)
	for {
		at, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return diskError("download", object, err)
		}
		if meta.size >= 0 && at == meta.size {
			m.set(file, at, meta.size)
			return nil
		}
		if meta.size >= 0 && at > meta.size {
			if err := f.Truncate(0); err != nil {
				return diskError("download", object, err)
			}
			continue
		}
		m.set(file, at, meta.size)
		n, after, err := c.receiveOnce(ctx, f, at, file, object, meta, m)
		if err == nil {
			return nil
		}
		var e *Error
		if !errors.As(err, &e) {
			e = c.transportError("download", object, err)
		}
		if n > 0 {
			b.try, b.wait = 0, firstWait
		}
		if e.Kind != ErrNetwork && !retryStatus(e.Status) {
			return e
		}
		if !b.again(ctx, e.Found, after) {
			if ctx.Err() != nil {
				return c.transportError("download", object, ctx.Err())
			}
			return e
		}
	}
}

// receiveOnce makes one request from offset at on and appends what comes.
func (c *Client) receiveOnce(ctx context.Context, f *os.File, at int64, file, object string, meta *remoteMeta, m *meter) (n int64, after time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h := counterHeader()
	h.Set("Accept-Encoding", "identity") // lengths and ranges of the bytes themselves
	if at > 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-", at))
	}
	u, err := url.Parse(meta.url)
	if err != nil {
		return 0, -1, invalid("download", object, "an address that does not parse", "")
	}
	resp, err := c.follow(ctx, &request{op: "download", object: object, method: http.MethodGet, url: meta.url, header: h, noAuth: !c.mayAuthorize(u)})
	if err != nil {
		return 0, -1, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent && at > 0:
		if start, total, ok := contentRange(resp.Header.Get("Content-Range")); !ok || start != at || (meta.size >= 0 && total >= 0 && total != meta.size) {
			return 0, -1, &Error{Op: "download", Object: object, Found: "the range " + quoted(resp.Header.Get("Content-Range")), Wanted: fmt.Sprintf("bytes from %d on", at), Kind: ErrProtocol}
		}
	case resp.StatusCode == http.StatusOK: // the whole file, even if a range was asked for
		if err := f.Truncate(0); err != nil {
			return 0, -1, diskError("download", object, err)
		}
		at = 0
		m.set(file, 0, meta.size)
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && at > 0: // the part is longer than the file
		if err := f.Truncate(0); err != nil {
			return 0, -1, diskError("download", object, err)
		}
		return 0, -1, &Error{Op: "download", Object: object, Found: resp.Status, Kind: ErrNetwork, Status: resp.StatusCode}
	default:
		return 0, retryAfter(resp.Header), c.statusError("download", object, resp)
	}
	body := &stallReader{r: resp.Body, limit: c.stallTimeout(), cancel: cancel}
	defer body.stop()
	n, err = c.copyTo(f, at, body, file, object, meta, m)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errStalled) {
		err = cause
	}
	return n, -1, err
}

// copyTo writes the body to f from offset at on, and never more than the file's size.
func (c *Client) copyTo(f *os.File, at int64, body io.Reader, file, object string, meta *remoteMeta, m *meter) (int64, error) {
	buf := make([]byte, 1<<20)
	var n int64
	for {
		k, rerr := body.Read(buf)
		if k > 0 {
			if meta.size >= 0 && at+n+int64(k) > meta.size {
				return n, &Error{Op: "download", Object: object, Found: fmt.Sprintf("more than %d bytes", meta.size), Wanted: fmt.Sprintf("%d bytes", meta.size), Kind: ErrCorrupt,
					Next: "try again; if it stays so, the Hub's copy or a proxy is broken"}
			}
			if _, err := f.WriteAt(buf[:k], at+n); err != nil {
				return n, diskError("download", object, err)
			}
			n += int64(k)
			m.set(file, at+n, meta.size)
		}
		if rerr == io.EOF {
			if meta.size >= 0 && at+n < meta.size {
				return n, io.ErrUnexpectedEOF
			}
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

var contentRangeForm = regexp.MustCompile(`^bytes (\d+)-\d+/(\d+|\*)$`)

// contentRange reads "bytes 5-9/10"; total is -1 when it is not told.
func contentRange(s string) (start, total int64, ok bool) {
	g := contentRangeForm.FindStringSubmatch(s)
	if g == nil {
		return 0, 0, false
	}
	start, err := strconv.ParseInt(g[1], 10, 64)
	total, terr := strconv.ParseInt(g[2], 10, 64)
	if terr != nil {
		total = -1
	}
	return start, total, err == nil
}

// verify compares length and digest of f with what the Hub announced: a sha256
// for large files, git's blob id for regular ones.
func verify(f *os.File, object string, meta *remoteMeta) error {
	st, err := f.Stat()
	if err != nil {
		return diskError("check", object, err)
	}
	next := "try again; if it stays so, a proxy changes the data or the disk is faulty"
	if meta.size >= 0 && st.Size() != meta.size {
		return &Error{Op: "check", Object: object, Found: fmt.Sprintf("%d bytes", st.Size()), Wanted: fmt.Sprintf("%d", meta.size), Kind: ErrCorrupt, Next: next}
	}
	var h hash.Hash
	switch {
	case isHex(meta.etag, 64):
		h = sha256.New()
	case isHex(meta.etag, 40):
		h = sha1.New()
		fmt.Fprintf(h, "blob %d\x00", st.Size())
	default:
		return nil // no digest: the length is all there is to compare
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return diskError("check", object, err)
	}
	if _, err := io.CopyBuffer(h, io.LimitReader(f, st.Size()), make([]byte, 1<<20)); err != nil {
		return diskError("check", object, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != meta.etag {
		return &Error{Op: "check", Object: object, Found: "the digest " + got, Wanted: meta.etag, Kind: ErrCorrupt, Next: next}
	}
	return nil
}

func isHex(s string, n int) bool {
	_, err := hex.DecodeString(s)
	return len(s) == n && err == nil
}

func (c *Client) stallTimeout() time.Duration {
	if c.StallTimeout <= 0 {
		return 30 * time.Second
	}
	return c.StallTimeout
}

var errStalled = errors.New("the transfer stood still")

// A stallReader cancels a transfer that brings nothing for limit.
type stallReader struct {
	r      io.Reader
	limit  time.Duration
	cancel context.CancelCauseFunc
	once   sync.Once
	timer  *time.Timer
}

func (s *stallReader) Read(p []byte) (int, error) {
	s.once.Do(func() { s.timer = time.AfterFunc(s.limit, func() { s.cancel(errStalled) }) })
	s.timer.Reset(s.limit)
	return s.r.Read(p)
}

func (s *stallReader) stop() {
	if s.timer != nil {
		s.timer.Stop()
	}
}
