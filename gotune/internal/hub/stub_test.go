package hub

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// A stub is oracle/tools/hub_stub.py, a server that imitates the Hub and checks
// what its clients send.
type stub struct {
	t   *testing.T
	url string
}

func startStub(t *testing.T, args ...string) *stub {
	t.Helper()
	cmd := exec.Command("python3", append([]string{oracle.Dir(t, "tools", "hub_stub.py"), "--dir", t.TempDir()}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; the Hub's stand-in needs Python 3", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "READY ")
	if err != nil || !ok {
		t.Fatalf("hub_stub.py said %q, %v", line, err)
	}
	return &stub{t, url}
}

// control asks one of the stub's own addresses.
func (s *stub) control(path, body string, v any) {
	s.t.Helper()
	var resp *http.Response
	var err error
	if body == "" {
		resp, err = http.Get(s.url + path)
	} else {
		resp, err = http.Post(s.url+path, "application/json", strings.NewReader(body))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && v != nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// checkClean fails the test for everything the stub had to object to.
func (s *stub) checkClean() {
	s.t.Helper()
	var v []string
	s.control("/_stub/violations", "", &v)
	for _, x := range v {
		s.t.Errorf("the Hub objects: %s", x)
	}
}

// client is a client of the stub whose waits take no time; they are counted.
func (s *stub) client(waits *[]time.Duration) *Client {
	var mu sync.Mutex
	return &Client{Endpoint: s.url, Token: NewSecret("hf_test"), CacheDir: filepath.Join(s.t.TempDir(), "hub"), StallTimeout: 5 * time.Second,
		sleep: func(ctx context.Context, d time.Duration) error {
			if waits != nil {
				mu.Lock()
				defer mu.Unlock()
				*waits = append(*waits, d)
			}
			return ctx.Err()
		}}
}

// modelFolder writes a folder of a small model: regular and LFS files, a
// subfolder, an empty file and what must not be pushed.
func modelFolder(t *testing.T, size int) (dir string, files map[string][]byte) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	blob := make([]byte, size)
	for i := range blob {
		blob[i] = byte(rng.Uint32())
	}
	files = map[string][]byte{
		"README.md": []byte("---\nlicense: mit\n---\n# x\n"), "config.json": []byte("{}\n"), "empty.txt": {},
		"model.safetensors": blob, "sub/notes é + ä.txt": []byte("hello\n"), "sub/copy.safetensors": blob,
	}
	dir = t.TempDir()
	for name, data := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, skip := range []string{".git/config", ".cache/huggingface/x"} {
		p := filepath.Join(dir, filepath.FromSlash(skip))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("no"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, files
}

// checkFiles compares a downloaded folder with the files.
func checkFiles(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
}

// TestRoundTrip pushes a folder and fetches it again, in one piece and in parts,
// through ordinary and cached resolve addresses.
func TestRoundTrip(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
	}{{"basic", nil}, {"multipart", []string{"--multipart", "100000"}}, {"resolve cache", []string{"--resolve-cache"}}} {
		t.Run(tt.name, func(t *testing.T) {
			s := startStub(t, tt.args...)
			c := s.client(nil)
			ctx := context.Background()
			dir, files := modelFolder(t, 350_001)
			repo := Model("tester/model", "")
			if _, err := c.CreateRepo(ctx, repo, CreateOptions{Private: true}); err != nil {
				t.Fatal(err)
			}
			var last Progress
			u, err := c.Upload(ctx, repo, dir, UploadOptions{Message: "first", Progress: func(p Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			if last.Done != last.Total || last.Total != 350_001 || len(u.Files) != len(files) || u.Empty {
				t.Errorf("progress %+v, upload %+v", last, u)
			}
			again, err := c.Upload(ctx, repo, dir, UploadOptions{Message: "second"})
			if err != nil || !again.Empty || again.CommitOID != u.CommitOID || again.Bytes() != 0 {
				t.Errorf("unchanged folder: %+v, %v", again, err)
			}
			snap, err := c.Snapshot(ctx, repo, SnapshotOptions{Progress: func(p Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			checkFiles(t, snap, files)
			if last.Done != last.Total || last.Done < 2*350_001 {
				t.Errorf("download progress %+v", last)
			}
			checkLayout(t, c, repo, u.CommitOID)
			s.checkClean()

			c.Offline = true // the cache alone gives the same
			if off, err := c.Snapshot(ctx, repo, SnapshotOptions{}); err != nil || off != snap {
				t.Errorf("offline: %s, %v", off, err)
			}
			if _, err := c.Download(ctx, repo, "other.json", nil); !errors.Is(err, ErrOffline) {
				t.Errorf("offline, not in the cache: %v", err)
			}
		})
	}
}

// checkLayout checks refs, relative links and digests of the cache.
func checkLayout(t *testing.T, c *Client, r Repo, commit string) {
	t.Helper()
	base := filepath.Join(c.CacheDir, "models--tester--model")
	ref, err := os.ReadFile(filepath.Join(base, "refs", "main"))
	if err != nil || string(ref) != commit {
		t.Errorf("refs/main = %q, %v; want %s", ref, err, commit)
	}
	target, err := os.Readlink(filepath.Join(base, "snapshots", commit, "sub", "copy.safetensors"))
	if err != nil || !strings.HasPrefix(target, "../../../blobs/") || len(filepath.Base(target)) != 64 {
		t.Errorf("link %q, %v", target, err)
	}
	target, err = os.Readlink(filepath.Join(base, "snapshots", commit, "config.json"))
	if err != nil || target != "../../blobs/"+gitBlobID([]byte("{}\n")) {
		t.Errorf("link %q, %v", target, err)
	}
	left, err := filepath.Glob(filepath.Join(base, "blobs", "*.incomplete"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestFailures injects the stub's failures into a download and an upload.
func TestFailures(t *testing.T) {
	seeded, files := modelFolder(t, 350_001)
	s := startStub(t, "--seed", "tester/model="+seeded)
	for i, tt := range []struct {
		name, rules string
		upload      bool
		kind        error // of the final error; nil: it must work
		waits       []time.Duration
	}{
		{name: "body cut, resumed", rules: `[{"match": "GET /cdn/", "nth": 1, "action": "truncate", "bytes": 200000}]`, waits: []time.Duration{time.Second}},
		{name: "body cut, range ignored", rules: `[{"match": "GET /cdn/", "nth": 1, "action": "truncate", "bytes": 200000}, {"match": "GET /cdn/", "nth": 2, "action": "ignore_range"}]`, waits: []time.Duration{time.Second}},
		{name: "dropped", rules: `[{"match": "GET /cdn/", "nth": [1, 2], "action": "drop"}]`, waits: []time.Duration{time.Second, 2 * time.Second}},
		{name: "flipped byte", rules: `[{"match": "GET /cdn/", "nth": null, "action": "corrupt"}]`, kind: ErrCorrupt},
		{name: "flipped byte in a regular file", rules: `[{"match": "GET .*config.json", "nth": null, "action": "corrupt"}]`, kind: ErrCorrupt},
		{name: "503 for ever", rules: `[{"match": "GET /cdn/", "nth": null, "action": "503"}]`, kind: ErrServer,
			waits: []time.Duration{1e9, 2e9, 4e9, 8e9, 8e9}},
		{name: "429 with Retry-After", rules: `[{"match": "GET /cdn/", "nth": 1, "action": "429", "retry_after": 3}]`, waits: []time.Duration{4 * time.Second}},
		{name: "HEAD 500 twice", rules: `[{"match": "HEAD .*model.safetensors", "nth": [1, 2], "action": "500"}]`, waits: []time.Duration{1e9, 2e9}},
		{name: "PUT 500", upload: true, rules: `[{"match": "PUT /lfs-upload", "nth": [1, 2], "action": "500"}]`, waits: []time.Duration{1e9, 2e9}},
		{name: "PUT dropped", upload: true, rules: `[{"match": "PUT /lfs-upload", "nth": 1, "action": "drop"}]`, waits: []time.Duration{1e9}},
		{name: "batch, verify and preupload 503", upload: true, rules: `[{"match": "(batch|verify|preupload)", "nth": [1, 3, 5], "action": "503"}]`, waits: []time.Duration{1e9, 1e9, 1e9}},
		{name: "commit 500", upload: true, rules: `[{"match": "/commit/", "nth": null, "action": "500"}]`, kind: ErrServer},
		{name: "commit dropped after it was made", upload: true, rules: `[{"match": "/commit/", "nth": 1, "action": "drop_after_body"}]`, kind: ErrNetwork},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var waits []time.Duration
			c := s.client(&waits)
			c.CacheDir = t.TempDir()
			c.Parallel = 1
			var told int
			c.OnRetry = func(Retry) { told++ }
			ctx := context.Background()
			repo, dir := Model("tester/model", ""), seeded
			if tt.upload {
				repo = Model(fmt.Sprintf("tester/model%d", i), "")
				dir, _ = modelFolder(t, 350_002+i) // another content, which the Hub doesn't have yet
				os.Remove(filepath.Join(dir, "sub", "copy.safetensors"))
				if _, err := c.CreateRepo(ctx, repo, CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			s.control("/_stub/fail", tt.rules, nil)
			var err error
			if tt.upload {
				_, err = c.Upload(ctx, repo, dir, UploadOptions{Message: "m"})
			} else {
				var paths []string
				paths, err = c.DownloadFiles(ctx, repo, []string{"config.json", "model.safetensors"}, nil)
				if err == nil {
					got, rerr := os.ReadFile(paths[1])
					if rerr != nil || !bytes.Equal(got, files["model.safetensors"]) {
						t.Errorf("%d bytes, %v", len(got), rerr)
					}
				}
			}
			if !errors.Is(err, tt.kind) || (err == nil) != (tt.kind == nil) {
				t.Fatalf("error %v, want the kind %v", err, tt.kind)
			}
			if !slices.Equal(waits, tt.waits) || told != len(waits) {
				t.Errorf("waits %v, told %d; want %v", waits, told, tt.waits)
			}
			if err != nil && !tt.upload {
				for _, pattern := range []string{"blobs/*", "snapshots/*/model.safetensors"} {
					if left, _ := filepath.Glob(filepath.Join(c.CacheDir, "models--tester--model", pattern)); slices.ContainsFunc(left, func(p string) bool {
						st, serr := os.Stat(p)
						return !strings.HasSuffix(p, ".incomplete") && (serr != nil || st.Size() == int64(len(files["model.safetensors"])))
					}) {
						t.Errorf("a bad file got its final name: %v", left)
					}
				}
			}
			s.checkClean()
		})
	}
}

// TestResumeAcrossRuns: a process that dies leaves a part; the next one goes on,
// and starts over when the part is damaged.
func TestResumeAcrossRuns(t *testing.T) {
	dir, files := modelFolder(t, 350_001)
	s := startStub(t, "--seed", "tester/model="+dir)
	want := files["model.safetensors"]
	for _, tt := range []struct {
		name   string
		change func(part []byte) []byte
		gets   int
	}{
		{"sound part", func(p []byte) []byte { return p }, 1},
		{"flipped byte", func(p []byte) []byte { p[7] ^= 1; return p }, 2},
		{"part too long", func(p []byte) []byte { return append(p, make([]byte, 400_000)...) }, 1},
		{"complete part", func(p []byte) []byte { return want }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := s.client(nil)
			c.Retries = -1
			s.control("/_stub/fail", `[{"match": "GET /cdn/", "nth": 1, "action": "truncate", "bytes": 200000}]`, nil)
			if _, err := c.Download(context.Background(), Model("tester/model", ""), "model.safetensors", nil); !errors.Is(err, ErrNetwork) {
				t.Fatalf("first run: %v", err)
			}
			parts, _ := filepath.Glob(filepath.Join(c.CacheDir, "models--tester--model", "blobs", "*.incomplete"))
			if len(parts) != 1 {
				t.Fatalf("parts %v", parts)
			}
			part, err := os.ReadFile(parts[0])
			if err != nil || !bytes.Equal(part, want[:len(part)]) || len(part) == 0 {
				t.Fatalf("part of %d bytes, %v", len(part), err)
			}
			if err := os.WriteFile(parts[0], tt.change(part), 0o644); err != nil {
				t.Fatal(err)
			}
			s.control("/_stub/fail", `[]`, nil)
			before := s.gets()
			p, err := c.Download(context.Background(), Model("tester/model", ""), "model.safetensors", nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if n := s.gets() - before; n != tt.gets {
				t.Errorf("%d requests for the bytes, want %d", n, tt.gets)
			}
		})
	}
}

// gets counts the requests for an object's bytes.
func (s *stub) gets() int {
	var log []struct {
		Request struct{ Method, Path string }
	}
	s.control("/_stub/log", "", &log)
	n := 0
	for _, e := range log {
		if e.Request.Method == http.MethodGet && strings.HasPrefix(e.Request.Path, "/cdn/") {
			n++
		}
	}
	return n
}

// TestConcurrentClients: many clients of one cache fetch a file once.
func TestConcurrentClients(t *testing.T) {
	dir, files := modelFolder(t, 350_001)
	s := startStub(t, "--seed", "tester/model="+dir)
	cache := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c := s.client(nil)
			c.CacheDir = cache
			p, err := c.Download(context.Background(), Model("tester/model", ""), "model.safetensors", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, files["model.safetensors"]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if n := s.gets(); n != 1 {
		t.Errorf("%d requests for the bytes, want 1", n)
	}
}

// TestDryRun plans without a request, and by the rule the Hub then applies.
func TestDryRun(t *testing.T) {
	dir, files := modelFolder(t, 1000)
	c := &Client{Endpoint: "http://127.0.0.1:1", HTTP: refuse{t}}
	u, err := c.Upload(context.Background(), Model("tester/model", ""), dir, UploadOptions{DryRun: true})
	if err != nil || len(u.Files) != len(files) {
		t.Fatalf("%+v, %v", u, err)
	}
	for _, f := range u.Files {
		want := Regular
		if strings.HasSuffix(f.Path, ".safetensors") {
			want = LFS
		}
		if f.Mode != want || f.Size != int64(len(files[f.Path])) {
			t.Errorf("%+v", f)
		}
	}
}

type refuse struct{ t *testing.T }

func (r refuse) RoundTrip(q *http.Request) (*http.Response, error) {
	r.t.Errorf("request %s %s", q.Method, q.URL)
	return nil, errors.New("no requests here")
}
