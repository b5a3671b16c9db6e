package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultEndpoint is the public Hub.
const DefaultEndpoint = "https://huggingface.co"

// A Client is a Hub endpoint, a token and a cache folder. The zero value is the
// public Hub without a token and with the default cache folder; FromEnv takes
// all of it from the environment. It is safe for concurrent use; don't change
// the fields once it is in use.
type Client struct {
	// Endpoint is the Hub's address. Default DefaultEndpoint.
	Endpoint string

	// Token authenticates. The zero value sends none.
	Token Secret

	// CacheDir holds downloaded repositories. Default ~/.cache/huggingface/hub.
	CacheDir string

	// Offline forbids every request: what the cache lacks is ErrOffline.
	Offline bool

	// Parallel is how many files are transferred at once. Default 4.
	Parallel int

	// Retries is how often a request that failed with a timeout, a broken
	// connection, 408, 429 or 5xx is tried again; the waits are 1, 2, 4, 8, 8 …
	// seconds, or the answer's Retry-After plus one. Default 5; negative: none.
	Retries int

	// StallTimeout ends a transfer that gets no byte for this long; the retry
	// resumes it. Default 30 s.
	StallTimeout time.Duration

	// OnRetry is told of every failed try that will be repeated. It may be called
	// from several goroutines. Default: nobody is told.
	OnRetry func(Retry)

	// HTTP replaces the transport, for tests and unusual proxies. Default: Go's,
	// with proxies from the environment.
	HTTP http.RoundTripper

	sleep func(context.Context, time.Duration) error // tests make the waits short

	once     sync.Once
	client   *http.Client
	answered atomic.Bool // the Hub was there, see outOfReach
}

// A Retry is a failed try that will be repeated.
type Retry struct {
	Op     string        // e.g. "download"
	Object string        // e.g. "model.safetensors of model a/b@main"
	Try    int           // 1 is the first try
	Cause  string        // status or network error, without secrets
	Wait   time.Duration // until the next try
}

// FromEnv makes a client from the variables huggingface_hub reads: HF_ENDPOINT,
// HF_TOKEN (or HUGGING_FACE_HUB_TOKEN, or the file HF_TOKEN_PATH, by default
// HF_HOME/token), HF_HUB_CACHE (or HUGGINGFACE_HUB_CACHE, by default HF_HOME/hub),
// HF_HOME (by default XDG_CACHE_HOME/huggingface, then ~/.cache/huggingface) and
// HF_HUB_OFFLINE. getenv nil means os.Getenv; a cell's own environment is passed
// to the engine that way.
func FromEnv(getenv func(string) string) *Client {
	if getenv == nil {
		getenv = os.Getenv
	}
	home := hfHome(getenv)
	c := &Client{
		Endpoint: strings.TrimRight(getenv("HF_ENDPOINT"), "/"),
		CacheDir: first(getenv("HF_HUB_CACHE"), getenv("HUGGINGFACE_HUB_CACHE"), filepath.Join(home, "hub")),
		Offline:  isTrue(first(getenv("HF_HUB_OFFLINE"), getenv("TRANSFORMERS_OFFLINE"))),
		Token:    cleanToken(first(getenv("HF_TOKEN"), getenv("HUGGING_FACE_HUB_TOKEN"))),
	}
	if c.Token.IsZero() {
		b, err := os.ReadFile(first(getenv("HF_TOKEN_PATH"), filepath.Join(home, "token")))
		if err == nil {
			c.Token = cleanToken(string(b))
		}
	}
	return c
}

func hfHome(getenv func(string) string) string {
	if h := getenv("HF_HOME"); h != "" {
		return expandHome(h, getenv)
	}
	if x := getenv("XDG_CACHE_HOME"); x != "" {
		return filepath.Join(expandHome(x, getenv), "huggingface")
	}
	return filepath.Join(userHome(getenv), ".cache", "huggingface")
}

func userHome(getenv func(string) string) string {
	if h := getenv("HOME"); h != "" {
		return h
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return os.TempDir()
	}
	return h
}

func expandHome(p string, getenv func(string) string) string {
	if p == "~" || strings.HasPrefix(p, "~/") {
		return filepath.Join(userHome(getenv), p[1:])
	}
	return p
}

func first(vs ...string) string {
	for _, v := range vs {
		if v != "" {
			return v
		}
	}
	return ""
}

func isTrue(v string) bool {
	switch strings.ToUpper(v) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}

func cleanToken(s string) Secret {
	return NewSecret(strings.TrimSpace(strings.NewReplacer("\r", "", "\n", "").Replace(s)))
}

func (c *Client) endpoint() string {
	if c.Endpoint == "" {
		return DefaultEndpoint
	}
	return strings.TrimRight(c.Endpoint, "/")
}

func (c *Client) cacheDir() string {
	if c.CacheDir == "" {
		return filepath.Join(hfHome(os.Getenv), "hub")
	}
	return expandHome(c.CacheDir, os.Getenv)
}

func (c *Client) parallel() int {
	if c.Parallel <= 0 {
		return 4
	}
	return c.Parallel
}

// http returns the client, which never follows a redirect by itself.
func (c *Client) http() *http.Client {
	c.once.Do(func() {
		rt := c.HTTP
		if rt == nil {
			t := http.DefaultTransport.(*http.Transport).Clone()
			t.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
			t.ResponseHeaderTimeout = 60 * time.Second
			t.MaxIdleConnsPerHost = 16
			rt = t
		}
		c.client = &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	})
	return c.client
}

// userAgent names the client to the Hub; it holds no user data.
var userAgent = "gotune; go/" + strings.TrimPrefix(runtime.Version(), "go")

// origin is scheme, host and port of an address, for deciding who may see the token.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// mayAuthorize reports whether the token may be sent to u: only to the endpoint's origin.
func (c *Client) mayAuthorize(u *url.URL) bool {
	e, err := url.Parse(c.endpoint())
	return err == nil && origin(e) == origin(u)
}

// A request is one exchange that can be repeated.
type request struct {
	op, object   string
	method, url  string
	header       http.Header
	body         func() (io.Reader, int64, error) // nil: none; called for each try
	noAuth       bool
	noRetry      bool
	stayOnOrigin bool // give a redirect to another origin back to the caller
}

// jsonBody makes v the body of a request.
func (r *request) jsonBody(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return invalid(r.op, r.object, err.Error(), "a value that can be JSON")
	}
	r.body = bytesBody(b)
	if r.header == nil {
		r.header = http.Header{}
	}
	if r.header.Get("Content-Type") == "" {
		r.header.Set("Content-Type", "application/json")
	}
	return nil
}

func bytesBody(b []byte) func() (io.Reader, int64, error) {
	return func() (io.Reader, int64, error) { return bytes.NewReader(b), int64(len(b)), nil }
}

// once sends r to u a single time.
func (c *Client) once1(ctx context.Context, r *request, u *url.URL) (*http.Response, error) {
	var body io.Reader
	var n int64
	if r.body != nil {
		var err error
		if body, n, err = r.body(); err != nil {
			return nil, err
		}
	}
	if n == 0 {
		body = nil
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = n
	req.Header.Set("Accept", "*/*")
	req.Header.Set("User-Agent", userAgent)
	for k, v := range r.header {
		req.Header[k] = v
	}
	if !r.noAuth && !c.Token.IsZero() && c.mayAuthorize(u) {
		req.Header.Set("Authorization", "Bearer "+c.Token.Reveal())
	}
	return c.http().Do(req)
}

// maxRedirects bounds a chain of redirects, as httpx does.
const maxRedirects = 20

// follow sends r and follows redirects. The token goes to the endpoint's origin
// only, and a body is never sent to another origin than the one it was meant for.
func (c *Client) follow(ctx context.Context, r *request) (*http.Response, error) {
	u, err := url.Parse(r.url)
	if err != nil {
		return nil, invalid(r.op, r.object, "address does not parse", "an http or https address in HF_ENDPOINT")
	}
	for range maxRedirects {
		resp, err := c.once1(ctx, r, u)
		if err != nil {
			return nil, err
		}
		loc := resp.Header.Get("Location")
		if resp.StatusCode/100 != 3 || loc == "" || resp.StatusCode == http.StatusNotModified {
			return resp, nil
		}
		next, err := u.Parse(loc)
		if err != nil || (next.Scheme != "http" && next.Scheme != "https") {
			resp.Body.Close()
			return nil, &Error{Op: r.op, Object: r.object, Found: "a redirect that is no http address", Kind: ErrProtocol}
		}
		other := origin(next) != origin(u)
		if other && (r.stayOnOrigin || r.body != nil) {
			return resp, nil
		}
		if u.Scheme == "https" && next.Scheme == "http" {
			resp.Body.Close()
			return nil, &Error{Op: r.op, Object: r.object, Found: "a redirect from https to plain http at " + next.Host, Kind: ErrProtocol,
				Wanted: "https", Next: "somebody may be between you and the Hub: check proxy settings"}
		}
		io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
		resp.Body.Close()
		u = next
	}
	return nil, &Error{Op: r.op, Object: r.object, Found: fmt.Sprintf("more than %d redirects", maxRedirects), Kind: ErrProtocol,
		Next: "check HF_ENDPOINT and proxy settings"}
}

// getJSON sends r and decodes the answer into v.
func (c *Client) doJSON(ctx context.Context, r *request, v any) (http.Header, error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, c.transportError(r.op, r.object, err)
	}
	if len(b) > maxAnswer {
		return nil, &Error{Op: r.op, Object: r.object, Found: fmt.Sprintf("an answer of more than %d MiB", maxAnswer>>20), Kind: ErrProtocol}
	}
	if v != nil {
		if err := json.Unmarshal(b, v); err != nil {
			return nil, &Error{Op: r.op, Object: r.object, Found: "an answer that is not the JSON expected: " + c.clean(err.Error()), Kind: ErrProtocol, Err: err,
				Next: "check HF_ENDPOINT: a proxy or login page may answer instead of the Hub"}
		}
	}
	return resp.Header, nil
}

// maxAnswer bounds an API answer held in memory.
const maxAnswer = 64 << 20

// bodyMessage finds the text of {"error": "…"} or returns a short plain body.
func bodyMessage(b []byte) string {
	var v struct {
		Error   string `json:"error"`
		Message string `json:"message"`
		Errors  []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(b, &v) == nil {
		parts := []string{}
		for _, s := range append([]string{v.Error, v.Message}, messages(v.Errors)...) {
			if s != "" {
				parts = append(parts, s)
			}
		}
		return strings.Join(parts, "; ")
	}
	if len(b) < 200 && !bytes.ContainsRune(b, '<') {
		return string(b)
	}
	return ""
}

func messages(es []struct {
	Message string `json:"message"`
}) []string {
	out := make([]string, len(es))
	for i, e := range es {
		out[i] = e.Message
	}
	return out
}
