package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// An exchange is one request of huggingface_hub and its answer, in oracle/hub.
type exchange struct {
	Label   string
	Request struct {
		Method, Path, Query, Host string
		Headers                   map[string]string
		Body                      *recordedBody
	}
	Response struct {
		Status  any // a number, or "dropped"
		Headers map[string]string
		Body    *recordedBody
	}
	Injected []string
}

type recordedBody struct {
	JSON   json.RawMessage
	NDJSON []json.RawMessage
	Bytes  int64
	SHA256 string
	Text   string
}

type transcript struct {
	Results map[string]struct {
		OK    bool
		Error string
	}
	Exchange []exchange
}

func (e *exchange) header(name string) string {
	for k, v := range e.Request.Headers {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

func (e *exchange) String() string {
	return fmt.Sprintf("%s: %s %s?%s", e.Label, e.Request.Method, e.Request.Path, e.Request.Query)
}

// A replay answers each request with the recorded answer and fails the test when
// the request differs from the recorded one.
type replay struct {
	t     *testing.T
	mu    sync.Mutex
	queue []exchange
	blobs map[string][]byte // by sha256: the files of the transcript
	srv   *httptest.Server
}

// local puts this server's addresses in place of the recorded ones.
func (r *replay) local(s string) string {
	host := strings.TrimPrefix(r.srv.URL, "http://")
	_, port, _ := strings.Cut(host, ":")
	return strings.NewReplacer("{ENDPOINT}", r.srv.URL, "{HOST}", host, "{STORAGE_HOST}", "localhost:"+port).Replace(s)
}

// take finds the exchange that a request belongs to: the first one, except in a
// snapshot, whose files come in any order.
func (r *replay) take(q *http.Request) (e exchange, next *exchange, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.queue {
		c := r.queue[i]
		if i > 0 && c.Label != "snapshot_download" {
			break
		}
		if c.Request.Method == q.Method && c.Request.Path == q.URL.EscapedPath() {
			r.queue = append(r.queue[:i:i], r.queue[i+1:]...)
			if len(r.queue) > i {
				n := r.queue[i]
				next = &n
			}
			return c, next, true
		}
	}
	return exchange{}, nil, false
}

func (r *replay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	e, next, ok := r.take(q)
	if !ok {
		r.t.Errorf("unexpected request %s %s", q.Method, q.URL)
		http.Error(w, "unexpected", http.StatusTeapot)
		return
	}
	r.compare(&e, q, body)
	status, isNumber := e.Response.Status.(float64)
	if !isNumber {
		panic(http.ErrAbortHandler) // dropped without an answer
	}
	data := r.answer(&e)
	for k, v := range e.Response.Headers {
		w.Header().Set(k, r.local(v))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if n, err := strconv.ParseInt(e.Response.Headers["Content-Length"], 10, 64); err == nil && q.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	}
	w.WriteHeader(int(status))
	if len(e.Injected) > 0 && e.Injected[0] == "truncate" {
		cut := len(data) / 2
		if next != nil {
			fmt.Sscanf(next.header("Range"), "bytes=%d-", &cut)
		}
		w.Write(data[:cut])
		w.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond) // let the bytes out before the reset
		panic(http.ErrAbortHandler)
	}
	w.Write(data)
}

// answer makes the recorded body's bytes again.
func (r *replay) answer(e *exchange) []byte {
	b := e.Response.Body
	switch {
	case b == nil:
		return nil
	case b.JSON != nil:
		if e.Request.Method == http.MethodGet && strings.Contains(e.Request.Path, "/resolve/") {
			return r.byLength(e) // a JSON file, whose bytes count
		}
		return []byte(r.local(string(b.JSON)))
	case b.Text != "":
		return []byte(b.Text)
	}
	if d := r.blobs[b.SHA256]; d != nil {
		return d
	}
	for _, d := range r.blobs { // the tail of a file, for a range
		if n := int64(len(d)); n > b.Bytes {
			if sum := sha256.Sum256(d[n-b.Bytes:]); hex.EncodeToString(sum[:]) == b.SHA256 {
				return d[n-b.Bytes:]
			}
		}
	}
	r.t.Errorf("%s: the transcript has no bytes for this answer", e)
	return nil
}

// byLength finds the small file whose git blob id is the answer's ETag.
func (r *replay) byLength(e *exchange) []byte {
	want := normalizeETag(e.Response.Headers["ETag"])
	for _, d := range r.blobs {
		if gitBlobID(d) == want {
			return d
		}
	}
	r.t.Errorf("%s: the transcript has no bytes for blob %s", e, want)
	return nil
}

// compare holds a request against the recorded one.
func (r *replay) compare(e *exchange, q *http.Request, body []byte) {
	r.t.Helper()
	if q.URL.RawQuery != e.Request.Query {
		r.t.Errorf("%s: query %q", e, q.URL.RawQuery)
	}
	if want := r.local(e.Request.Host); q.Host != want {
		r.t.Errorf("%s: host %q, want %q", e, q.Host, want)
	}
	if (q.Header.Get("Authorization") != "") != (e.header("Authorization") != "") {
		r.t.Errorf("%s: Authorization sent: %v, want the opposite", e, q.Header.Get("Authorization") != "")
	}
	for _, h := range []string{"Accept", "Content-Type", "Range", "X-HF-Download-Counter"} {
		if got, want := q.Header.Get(h), e.header(h); got != want {
			r.t.Errorf("%s: %s %q, want %q", e, h, got, want)
		}
	}
	want := e.Request.Body
	switch {
	case want == nil:
		if len(body) > 0 {
			r.t.Errorf("%s: a body of %d bytes, want none", e, len(body))
		}
	case want.NDJSON != nil:
		lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
		if len(lines) != len(want.NDJSON) {
			r.t.Errorf("%s: %d lines, want %d", e, len(lines), len(want.NDJSON))
			return
		}
		for i := range lines {
			r.sameJSON(e, lines[i], want.NDJSON[i])
		}
	case want.JSON != nil:
		r.sameJSON(e, body, want.JSON)
	default:
		if sum := sha256.Sum256(body); int64(len(body)) != want.Bytes || hex.EncodeToString(sum[:]) != want.SHA256 {
			r.t.Errorf("%s: a body of %d bytes with another content, want %d", e, len(body), want.Bytes)
		}
	}
}

func (r *replay) sameJSON(e *exchange, got, want []byte) {
	r.t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		r.t.Errorf("%s: body: %v", e, err)
		return
	}
	if err := json.Unmarshal([]byte(r.local(string(want))), &w); err != nil {
		r.t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		r.t.Errorf("%s: body\ngot  %.600s\nwant %.600s", e, got, want)
	}
}

// recordedFile makes a file of the transcript from its preupload entry: a large
// one is its sample and zeros.
type recordedFile struct {
	Path   string
	Sample []byte
	Size   int
}

func (f recordedFile) data() []byte {
	return append(bytes.Clone(f.Sample), make([]byte, f.Size-len(f.Sample))...)
}

// preupload is the request that lists the step's files.
func preuploadOf(t *testing.T, steps []exchange) []recordedFile {
	t.Helper()
	for _, e := range steps {
		if strings.Contains(e.Request.Path, "/preupload/") {
			var v struct{ Files []recordedFile }
			if err := json.Unmarshal(e.Request.Body.JSON, &v); err != nil {
				t.Fatal(err)
			}
			return v.Files
		}
	}
	t.Fatal("no preupload in this step")
	return nil
}

// commitOf is the header and the deleted paths of the step's commit.
func commitOf(t *testing.T, steps []exchange) (summary, description string, deleted []string) {
	t.Helper()
	for _, e := range steps {
		if !strings.Contains(e.Request.Path, "/commit/") {
			continue
		}
		for _, l := range e.Request.Body.NDJSON {
			var v struct {
				Key   string
				Value struct{ Summary, Description, Path string }
			}
			if err := json.Unmarshal(l, &v); err != nil {
				t.Fatal(err)
			}
			switch v.Key {
			case "header":
				summary, description = v.Value.Summary, v.Value.Description
			case "deletedFile":
				deleted = append(deleted, v.Value.Path)
			}
		}
	}
	return summary, description, deleted
}

// repoOf reads the repository and the rest of an address of the API or of a file.
func repoOf(path string) (Repo, string) {
	r := Repo{Type: ModelRepo}
	p := strings.TrimPrefix(path, "/")
	if rest, ok := strings.CutPrefix(p, "api/"); ok {
		p = strings.TrimPrefix(rest, "models/")
	}
	if rest, ok := strings.CutPrefix(p, "datasets/"); ok {
		r.Type, p = DatasetRepo, rest
	}
	parts := strings.SplitN(p, "/", 3)
	if len(parts) < 2 {
		return r, "" // names no repository
	}
	r.ID = parts[0] + "/" + parts[1]
	if len(parts) < 3 {
		return r, ""
	}
	return r, parts[2]
}

// TestTranscript repeats every step of huggingface_hub's recorded session and
// holds each request against the official client's.
func TestTranscript(t *testing.T) {
	var tr transcript
	oracle.JSON(t, &tr, "hub", "transcript.json")
	r := &replay{t: t, blobs: map[string][]byte{}}
	r.srv = httptest.NewUnstartedServer(r)
	r.srv.Start()
	defer r.srv.Close()
	var labels []string
	steps := map[string][]exchange{}
	for _, e := range tr.Exchange {
		if steps[e.Label] == nil {
			labels = append(labels, e.Label)
		}
		steps[e.Label] = append(steps[e.Label], e)
		if strings.Contains(e.Request.Path, "/preupload/") {
			for _, f := range preuploadOf(t, []exchange{e}) {
				d := f.data()
				sum := sha256.Sum256(d)
				r.blobs[hex.EncodeToString(sum[:])] = d
			}
		}
	}
	cache := t.TempDir()
	for _, label := range labels {
		t.Run(label, func(t *testing.T) {
			r.t, r.queue = t, append([]exchange(nil), steps[label]...)
			c := &Client{Endpoint: r.srv.URL, Token: NewSecret("hf_secret"), CacheDir: cache, sleep: func(context.Context, time.Duration) error { return nil }}
			err := runStep(t, c, label, steps[label])
			if want := tr.Results[label]; (err == nil) != want.OK {
				t.Errorf("error %v; the official client: %s", err, want.Error)
			}
			if err != nil {
				checkKind(t, label, err)
			}
			for _, e := range r.queue {
				if label == "snapshot_download" && inCache(c, e.Request.Path) {
					continue // the official client wrote to a folder of its own, and asked again for it
				}
				t.Errorf("not sent: %s", &e)
			}
		})
	}
}

// inCache reports whether the file of a resolve address is in the cache at its commit.
func inCache(c *Client, path string) bool {
	repo, rest := repoOf(path)
	repo.Revision, rest, _ = strings.Cut(strings.TrimPrefix(rest, "resolve/"), "/")
	_, ok := c.cachedFile(repo, rest)
	return ok
}

// runStep does with Client what the label says the official client did.
func runStep(t *testing.T, c *Client, label string, steps []exchange) error {
	ctx := context.Background()
	first := steps[0]
	repo, rest := repoOf(first.Request.Path)
	switch {
	case strings.HasPrefix(label, "whoami"):
		_, err := c.Whoami(ctx)
		return err
	case strings.HasPrefix(label, "create_repo"):
		return createStep(t, c, first, strings.Contains(label, "exist_ok"))
	case label == "repo_info":
		_, err := c.Info(ctx, repo)
		return err
	case label == "list_repo_files":
		files, err := c.Files(ctx, repo)
		if len(files) == 0 {
			t.Error("no files")
		}
		return err
	case label == "snapshot_download":
		_, err := c.Snapshot(ctx, repo, SnapshotOptions{Ignore: []string{".gitattributes", "README.md"}})
		return err
	case strings.HasPrefix(label, "download"):
		if strings.Contains(label, "resume") {
			c.CacheDir = t.TempDir()
		}
		rest = strings.TrimPrefix(rest, "resolve/")
		repo.Revision, rest, _ = strings.Cut(rest, "/")
		p, err := c.Download(ctx, repo, rest, nil)
		if err == nil {
			if _, serr := os.Stat(p); serr != nil {
				t.Error(serr)
			}
		}
		return err
	case strings.HasPrefix(label, "delete"):
		summary, _, deleted := commitOf(t, steps)
		_, err := c.Delete(ctx, repo, deleted, summary)
		return err
	case label == "dataset_repo":
		if err := createStep(t, c, first, false); err != nil {
			return err
		}
		repo, _ = repoOf(steps[1].Request.Path)
	}
	return uploadStep(t, c, repo, label, steps)
}

func createStep(t *testing.T, c *Client, e exchange, existOK bool) error {
	var v struct{ Name, Organization, Visibility, Type string }
	if err := json.Unmarshal(e.Request.Body.JSON, &v); err != nil {
		t.Fatal(err)
	}
	_, err := c.CreateRepo(context.Background(), Repo{ID: v.Organization + "/" + v.Name, Type: RepoType(v.Type)}, CreateOptions{Private: v.Visibility == "private", ExistOK: existOK})
	return err
}

func uploadStep(t *testing.T, c *Client, repo Repo, label string, steps []exchange) error {
	for _, e := range steps { // a step starts with the README's check, which names no repository
		if strings.Contains(e.Request.Path, "/preupload/") {
			repo, _ = repoOf(e.Request.Path)
		}
	}
	dir := t.TempDir()
	for _, f := range preuploadOf(t, steps) {
		p := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, f.data(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	summary, description, _ := commitOf(t, steps)
	u, err := c.Upload(context.Background(), repo, dir, UploadOptions{Message: summary, Description: description, CreatePR: label == "create_pr"})
	if err == nil && (u.CommitOID == "" || u.CommitURL == "" || u.Empty != (label == "upload_folder_unchanged")) {
		t.Errorf("upload: %+v", u)
	}
	return err
}

// checkKind says which kind of error each failing step has.
func checkKind(t *testing.T, label string, err error) {
	kinds := map[string]error{
		"whoami_bad_token": ErrUnauthorized, "create_repo_conflict": ErrConflict, "delete_missing_file": ErrEntryNotFound, "download_missing": ErrEntryNotFound,
		"download_missing_repo": ErrRepoNotFound, "download_bad_revision": ErrRevisionNotFound, "commit_500_not_retried": ErrServer, "commit_429_retry_after": ErrRateLimited,
		"whoami_429": ErrRateLimited, "read_only_token": ErrForbidden,
	}
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, kinds[label]) {
		t.Errorf("error %v, want the kind %v", err, kinds[label])
	}
	if strings.Contains(err.Error(), "hf_secret") {
		t.Errorf("the token is in the error: %v", err)
	}
}

// TestSample: the preupload sample of the transcript is the first 512 bytes.
func TestSample(t *testing.T) {
	p := filepath.Join(t.TempDir(), "f")
	data := bytes.Repeat([]byte("0123456789abcdef"), 100)
	if err := os.WriteFile(p, data, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := (&addition{local: p, size: int64(len(data))}).readSample()
	if err != nil || base64.StdEncoding.EncodeToString(got) != base64.StdEncoding.EncodeToString(data[:512]) {
		t.Errorf("sample of %d bytes, %v", len(got), err)
	}
}
