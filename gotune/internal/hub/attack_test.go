package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const someCommit = "0123456789abcdef0123456789abcdef01234567"

// evilHub serves one file with chosen headers and bytes.
type evilHub struct {
	etag, commit string
	linkedSize   string
	body         []byte
	tree         string
	location     func(*http.Request) string
	stall        bool
	status       int
	message      string
}

func (h *evilHub) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if h.status != 0 {
		w.Header().Set("X-Error-Message", h.message)
		w.WriteHeader(h.status)
		return
	}
	switch {
	case strings.Contains(q.URL.Path, "/tree/"):
		w.Write([]byte(h.tree))
	case strings.HasPrefix(q.URL.Path, "/api/"):
		fmt.Fprintf(w, `{"id": "a/b", "sha": %q}`, h.commit)
	default:
		w.Header().Set("ETag", `"`+h.etag+`"`)
		w.Header().Set("X-Repo-Commit", h.commit)
		if h.linkedSize != "" {
			w.Header().Set("X-Linked-Size", h.linkedSize)
		}
		if h.location != nil {
			if loc := h.location(q); loc != "" {
				w.Header().Set("Location", loc)
				w.WriteHeader(http.StatusFound)
				return
			}
		}
		if h.stall && q.Method == http.MethodGet {
			w.Header().Set("Content-Length", "100")
			w.Write(h.body[:1])
			w.(http.Flusher).Flush()
			<-q.Context().Done()
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(h.body)))
		if q.Method == http.MethodGet {
			w.Write(h.body)
		}
	}
}

func evilClient(t *testing.T, h http.Handler) *Client {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &Client{Endpoint: srv.URL, Token: NewSecret("hf_secret"), CacheDir: filepath.Join(t.TempDir(), "cache", "hub"), Retries: -1,
		StallTimeout: 200 * time.Millisecond, sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
}

// TestAttacks: a Hub that lies gets a clear error, nothing leaves the cache
// folder, and nothing gets a final name.
func TestAttacks(t *testing.T) {
	body := []byte("data")
	good := gitBlobID(body)
	for _, tt := range []struct {
		name string
		hub  evilHub
		file string
		kind error
	}{
		{"sound", evilHub{etag: good, commit: someCommit, body: body}, "config.json", nil},
		{"etag leads out of the cache", evilHub{etag: "../../../../evil", commit: someCommit, body: body}, "config.json", ErrProtocol},
		{"etag is a folder", evilHub{etag: "..", commit: someCommit, body: body}, "config.json", ErrProtocol},
		{"no etag", evilHub{commit: someCommit, body: body}, "config.json", ErrProtocol},
		{"commit leads out of the cache", evilHub{etag: good, commit: "../../../x", body: body}, "config.json", ErrProtocol},
		{"no commit", evilHub{etag: good, body: body}, "config.json", ErrProtocol},
		{"file name leads out", evilHub{etag: good, commit: someCommit, body: body}, "../../../x", ErrInvalid},
		{"absolute file name", evilHub{etag: good, commit: someCommit, body: body}, "/etc/x", ErrInvalid},
		{"file name with a backslash", evilHub{etag: good, commit: someCommit, body: body}, `..\x`, ErrInvalid},
		{"empty part", evilHub{etag: good, commit: someCommit, body: body}, "a//b", ErrInvalid},
		{"other bytes than the etag's", evilHub{etag: gitBlobID([]byte("date")), commit: someCommit, body: body}, "config.json", ErrCorrupt},
		{"longer than announced", evilHub{etag: good, commit: someCommit, body: body, linkedSize: "3"}, "config.json", ErrCorrupt},
		{"shorter than announced", evilHub{etag: good, commit: someCommit, body: body, linkedSize: "5"}, "config.json", ErrNetwork},
		{"endless redirects", evilHub{etag: good, commit: someCommit, body: body, location: func(q *http.Request) string { return q.URL.Path }}, "config.json", ErrProtocol},
		{"redirect to a file", evilHub{etag: good, commit: someCommit, body: body, location: func(*http.Request) string { return "file:///etc/passwd" }}, "config.json", ErrProtocol},
		{"body that stands still", evilHub{etag: good, commit: someCommit, body: body, linkedSize: "100", stall: true}, "config.json", ErrNetwork},
		{"more than the disk has", evilHub{etag: good, commit: someCommit, body: body, linkedSize: "4000000000000000000"}, "config.json", ErrDisk},
		{"forbidden", evilHub{status: 403, message: "no"}, "config.json", ErrForbidden},
		{"bad token", evilHub{status: 401, message: "bad token hf_secret"}, "config.json", ErrUnauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := evilClient(t, &tt.hub)
			p, err := c.Download(context.Background(), Model("a/b", ""), tt.file, nil)
			if !errors.Is(err, tt.kind) || (err == nil) != (tt.kind == nil) {
				t.Fatalf("%s, error %v; want the kind %v", p, err, tt.kind)
			}
			if err == nil {
				if got, rerr := os.ReadFile(p); rerr != nil || !bytes.Equal(got, body) {
					t.Errorf("%q, %v", got, rerr)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Op == "" || e.Object == "" || e.Found == "" {
				t.Errorf("an incomplete error: %#v", err)
			}
			if strings.Contains(err.Error(), "hf_secret") || strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("the error prints what it must not: %q", err)
			}
			checkNothingFinal(t, c.CacheDir)
		})
	}
}

// checkNothingFinal looks for files outside the cache and for finished ones in it.
func checkNothingFinal(t *testing.T, cache string) {
	t.Helper()
	root := filepath.Dir(filepath.Dir(cache))
	filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(cache, p)
		if strings.HasPrefix(rel, "..") || (!strings.HasSuffix(rel, ".incomplete") && !strings.HasSuffix(rel, ".lock") && rel != "CACHEDIR.TAG") {
			t.Errorf("left behind: %s", rel)
		}
		return nil
	})
}

// TestNamesInTree: file names of a listing that would lead out of the folder.
func TestNamesInTree(t *testing.T) {
	for _, name := range []string{"../x", "/x", "a/../../x", `a\\b`, "", "a//b", "."} {
		h := &evilHub{etag: gitBlobID(nil), commit: someCommit, tree: fmt.Sprintf(`[{"type": "file", "path": "%s", "size": 0, "oid": "x"}]`, name)}
		c := evilClient(t, h)
		if _, err := c.Snapshot(context.Background(), Model("a/b", ""), SnapshotOptions{}); !errors.Is(err, ErrProtocol) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestRepoNames: what must not become part of an address or a path.
func TestRepoNames(t *testing.T) {
	for _, id := range []string{"", "a/b/c", "../x", "a/..", "a b/c", "a/b?x", "a/b#x", "a--b/c", "-a/b", "a/b.git", "a/.b", "a/b.", strings.Repeat("a", 200)} {
		if ValidID(id) {
			t.Errorf("%q is taken for a repository", id)
		}
	}
	for _, id := range []string{"gpt2", "NousResearch/Llama-2-7b-chat-hf", "a/b_c.d-1"} {
		if !ValidID(id) {
			t.Errorf("%q is refused", id)
		}
	}
	c := &Client{HTTP: refuse{t}}
	for _, rev := range []string{"../x", "a/../b", "/x", "a\nb", `a\b`} {
		if _, err := c.Download(context.Background(), Model("a/b", rev), "config.json", nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("revision %q: %v", rev, err)
		}
	}
}

// TestTokenStaysHome: redirects to another origin, by HEAD, GET, upload and
// verify addresses, never carry the token.
func TestTokenStaysHome(t *testing.T) {
	body := []byte("data")
	var leaked, asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		if q.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		w.Write(body)
	}))
	defer other.Close()
	t.Run("storage of a file", func(t *testing.T) {
		c := evilClient(t, &evilHub{etag: gitBlobID(body), commit: someCommit, body: body, linkedSize: "4", location: func(*http.Request) string { return other.URL + "/x?Signature=s3cr3t" }})
		if _, err := c.Download(context.Background(), Model("a/b", ""), "f", nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("API answer", func(t *testing.T) {
		c := evilClient(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, other.URL+"/x", http.StatusFound) }))
		if _, err := c.Info(context.Background(), Model("a/b", "")); !errors.Is(err, ErrProtocol) {
			t.Error(err)
		}
	})
	t.Run("API answer to a POST", func(t *testing.T) {
		before := asked.Load()
		c := evilClient(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, other.URL+"/x", http.StatusTemporaryRedirect)
		}))
		if _, err := c.CreateRepo(context.Background(), Model("a/b", ""), CreateOptions{}); err == nil {
			t.Error("no error")
		}
		if asked.Load() != before {
			t.Error("the body went to another host")
		}
	})
	t.Run("next page", func(t *testing.T) {
		c := evilClient(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Link", "<"+other.URL+`/x>; rel="next"`)
			w.Write([]byte("[]"))
		}))
		if _, err := c.Files(context.Background(), Model("a/b", "")); !errors.Is(err, ErrProtocol) {
			t.Error(err)
		}
	})
	if asked.Load() == 0 {
		t.Error("the other host was never asked: the test shows nothing")
	}
	if leaked.Load() != 0 {
		t.Errorf("the token went to another host %d times", leaked.Load())
	}
}

// TestSignedAddress: the query of a storage address is a secret too.
func TestSignedAddress(t *testing.T) {
	c := evilClient(t, &evilHub{etag: gitBlobID(nil), commit: someCommit, linkedSize: "4", location: func(*http.Request) string { return "http://127.0.0.1:1/x?Signature=s3cr3t" }})
	_, err := c.Download(context.Background(), Model("a/b", ""), "f", nil)
	if !errors.Is(err, ErrNetwork) || strings.Contains(fmt.Sprintf("%v %+v", err, err), "s3cr3t") {
		t.Errorf("%v", err)
	}
}

// TestNotAHub: a login page instead of the API.
func TestNotAHub(t *testing.T) {
	c := evilClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>Sign in</html>")) }))
	if _, err := c.Snapshot(context.Background(), Model("a/b", ""), SnapshotOptions{}); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "HF_ENDPOINT") {
		t.Errorf("%v", err)
	}
}

// TestCancel: an interrupted download ends at once and says so.
func TestCancel(t *testing.T) {
	c := evilClient(t, &evilHub{etag: gitBlobID(nil), commit: someCommit, body: []byte("data"), linkedSize: "100", stall: true})
	c.StallTimeout = time.Minute
	c.Retries = 5
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := c.Download(ctx, Model("a/b", ""), "f", nil)
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// TestClean: texts from outside, made fit for a message.
func TestClean(t *testing.T) {
	c := &Client{Token: NewSecret("hf_secret")}
	for in, want := range map[string]string{"a\x1b[31m\nb": "a [31m b", "x hf_secret y": "x [secret] y", "\xff": "?"} {
		if got := c.clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := c.clean(strings.Repeat("é", 1000)); len([]rune(got)) != 301 {
		t.Errorf("%d characters", len([]rune(got)))
	}
}

// FuzzNames: whatever the name, a path made from it stays in the snapshot.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a", "a/b", "../x", "/", "a/..", `a\..\b`, "\x00"} {
		f.Add(s, "main")
	}
	f.Fuzz(func(t *testing.T, file, rev string) {
		c := &Client{CacheDir: "/cache"}
		r := Model("a/b", rev)
		if checkPath(file) != "" || r.check("x") != nil {
			return
		}
		for _, p := range []string{c.pointer(r, someCommit, file), filepath.Join(c.repoDir(r), "refs", filepath.FromSlash(r.rev()))} {
			if !strings.HasPrefix(p, "/cache/models--a--b/") {
				t.Errorf("%q at %q leads to %s", file, rev, p)
			}
		}
	})
}
