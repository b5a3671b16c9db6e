package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve runs a server for the test and returns its path.
func serve(t *testing.T, handle Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wire") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sub", "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
		os.RemoveAll(dir)
	})
	return path
}

func TestEventsThenReply(t *testing.T) {
	path := serve(t, func(_ context.Context, q *Request, s *Stream) (any, error) {
		var args struct{ N int }
		if err := q.Decode(&args); err != nil {
			return nil, err
		}
		for i := range args.N {
			if err := s.Send(EventProgress, Progress{Task: "count", Done: int64(i)}); err != nil {
				return nil, err
			}
		}
		return map[string]string{"dir": q.Dir, "token": q.Getenv("HF_TOKEN")}, nil
	})
	c, err := Dial(path, Request{Verb: "count", Dir: "/x", Env: map[string]Secret{"HF_TOKEN": NewSecret("hf_1")}, Args: json.RawMessage(`{"N":3}`)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 3 {
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		var p Progress
		if err := json.Unmarshal(m.Data, &p); err != nil || m.Event != EventProgress || p.Done != int64(i) {
			t.Errorf("event %d is %+v (%v)", i, m, err)
		}
	}
	m, err := c.Next()
	if err != nil || string(m.Reply) != `{"dir":"/x","token":"hf_1"}` {
		t.Errorf("reply is %+v (%v)", m, err)
	}
	if _, err := c.Next(); err != io.EOF {
		t.Errorf("after the reply: %v, want io.EOF", err)
	}
}

func TestErrorsCross(t *testing.T) {
	sent := &Error{Kind: "notfound", Op: "load", Object: "x", Found: "a", Wanted: "b", Next: "c"}
	path := serve(t, func(_ context.Context, q *Request, s *Stream) (any, error) {
		switch q.Verb {
		case "typed":
			return nil, fmt.Errorf("wrapped: %w", sent)
		case "plain":
			return nil, errors.New("boom")
		case "huge":
			return strings.Repeat("x", MaxLine), nil
		case "odd":
			return make(chan int), nil
		}
		return nil, nil
	})
	for verb, want := range map[string]Error{
		"typed": *sent,
		"plain": {Kind: "internal", Op: "plain", Found: "boom"},
		"huge":  {Kind: "internal", Op: "huge", Found: "wire: a message of 64 MiB is over the limit of 64 MiB: ask for less at a time"},
		"odd":   {Kind: "internal", Op: "odd", Found: "wire: encode chan int: json: unsupported type: chan int"},
	} {
		err := Do(context.Background(), path, Request{Verb: verb}, nil)
		var e *Error
		if !errors.As(err, &e) || *e != want {
			t.Errorf("%s: %+v, want %+v", verb, err, want)
		}
	}
	if err := Do(context.Background(), path, Request{Verb: "nothing"}, nil); err != nil {
		t.Errorf("a reply of nothing: %v", err)
	}
}

func TestCancelAndHangUp(t *testing.T) {
	causes := make(chan error, 2)
	path := serve(t, func(ctx context.Context, q *Request, s *Stream) (any, error) {
		<-ctx.Done()
		causes <- context.Cause(ctx)
		select {
		case <-s.Cancelled():
			return map[string]bool{"stopped": true}, nil
		case <-s.Gone():
			return nil, s.Send(EventLog, Log{})
		}
	})
	c, err := Dial(path, Request{Verb: "wait"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Cancel(); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Next(); err != nil || string(m.Reply) != `{"stopped":true}` {
		t.Errorf("after cancel: %+v, %v", m, err)
	}
	if cause := <-causes; cause != ErrCancelled {
		t.Errorf("cause is %v", cause)
	}
	c.Close()
	if c, err = Dial(path, Request{Verb: "wait"}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if cause := <-causes; cause != ErrGone {
		t.Errorf("cause is %v", cause)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := Do(ctx, path, Request{Verb: "wait"}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Do with an ended context: %v", err)
	}
}

// A caller that stops reading does not hold up the server for long.
func TestSlowCaller(t *testing.T) {
	defer func(d time.Duration) { sendTimeout = d }(sendTimeout)
	sendTimeout = 50 * time.Millisecond
	took := make(chan time.Duration, 1)
	path := serve(t, func(_ context.Context, q *Request, s *Stream) (any, error) {
		begin := time.Now()
		for s.Send(EventLog, Log{Text: strings.Repeat("x", 1<<20)}) == nil {
			continue
		}
		for range 100 {
			if s.Send(EventLog, Log{}) == nil {
				t.Error("Send works after it failed")
			}
		}
		took <- time.Since(begin)
		return nil, nil
	})
	c, err := Dial(path, Request{Verb: "flood"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if d := <-took; d > 5*time.Second {
		t.Errorf("the server was held up for %v", d)
	}
}

func TestVersions(t *testing.T) {
	path := serve(t, func(context.Context, *Request, *Stream) (any, error) {
		return Pong{Version: "x", Protocol: Version + 1, PID: 1}, nil
	})
	_, err := Ping(context.Background(), path)
	if err == nil || !strings.Contains(err.Error(), "the client is older than the engine") {
		t.Errorf("Ping of a newer engine: %v", err)
	}
	f, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := WriteRequest(f, Request{V: Version + 1, Verb: VerbStatus}); err != nil {
		t.Fatal(err)
	}
	m, err := NewReader(f).Message()
	if err != nil || m.Error == nil || m.Error.Object != "the engine is older than the client" || !strings.Contains(m.Error.Next, "%gotune restart-engine") {
		t.Errorf("a newer client's request: %+v, %v", m, err)
	}
	for _, verb := range []string{VerbPing, VerbShutdown} { // by which a client of any version can restart the engine
		f, err := dial(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := WriteRequest(f, Request{V: Version + 1, Verb: verb}); err != nil {
			t.Fatal(err)
		}
		if m, err := NewReader(f).Message(); err != nil || m.Error != nil {
			t.Errorf("%s of a newer client: %+v, %v", verb, m, err)
		}
	}
	q := Request{Verb: "x", Args: json.RawMessage(`{"A":1,"New":2}`)}
	var args struct{ A int }
	var e *Error
	if err := q.Decode(&args); !errors.As(err, &e) || !strings.Contains(e.Found, `unknown field "New"`) || e.Next != restartHint {
		t.Errorf("Decode of an unknown field: %v", err)
	}
}

func TestListen(t *testing.T) {
	path := serve(t, func(context.Context, *Request, *Stream) (any, error) { return nil, nil })
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v (%v)", p, info.Mode().Perm(), want, err)
		}
	}
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("Listen at a path in use: %v", err)
	}
	dir := filepath.Dir(path)
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 200))); err == nil || !strings.Contains(err.Error(), "GOTUNE_SOCKET") {
		t.Errorf("Listen at a long path: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(dir, "file")); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("Listen at a file: %v", err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(open, "s")); err == nil || !strings.Contains(err.Error(), "other users can write it") {
		t.Errorf("Listen in a folder of everybody: %v", err)
	}
	stale := filepath.Join(dir, "stale")
	addr, err := socketAddr(stale)
	if err != nil {
		t.Fatal(err)
	}
	f, err := bind(stale, addr)
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // as a killed process leaves it
	if _, err := Dial(stale, Request{Verb: "x"}); !errors.Is(err, ErrNoServer) {
		t.Errorf("Dial of a dead socket: %v", err)
	}
	l, err := Listen(stale)
	if err != nil {
		t.Fatalf("Listen over a dead socket: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Dial(filepath.Join(dir, "none"), Request{Verb: "x"}); !errors.Is(err, ErrNoServer) {
		t.Errorf("Dial of nothing: %v", err)
	}
}

func TestSecret(t *testing.T) {
	q := Request{Verb: "x", Env: map[string]Secret{"HF_TOKEN": NewSecret("hf_hush")}}
	for _, text := range []string{
		fmt.Sprint(q), fmt.Sprintf("%v %+v %#v %s %q %x", q, q, q, q.Env, q.Env, q.Env),
		func() string { b, _ := json.Marshal(q); return string(b) }(),
	} {
		if strings.Contains(text, "hush") || strings.Contains(text, "6875") || !strings.Contains(text, hidden) {
			t.Errorf("printed: %s", text)
		}
	}
	var b bytes.Buffer
	if err := WriteRequest(&b, q); err != nil {
		t.Fatal(err)
	}
	back, err := NewReader(&b).Request()
	if err != nil || back.Getenv("HF_TOKEN") != "hf_hush" {
		t.Errorf("on the wire: %v, %v", back, err)
	}
}

func TestLines(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"garbage", "GET / HTTP/1.1\r\n", "is not a message"},
		{"no verb", "{}\n", "without a verb"},
		{"array", "[]\n", "is not a message"},
		{"cut", `{"verb":"x"`, io.ErrUnexpectedEOF.Error()},
		{"nothing", "\n \n", io.EOF.Error()},
		{"long", strings.Repeat("x", 2000) + "\n", "more than"},
		{"wrong type", `{"verb":7}` + "\n", "is not a message"},
	} {
		r := NewReader(strings.NewReader(tt.in))
		r.max = 1000
		if _, err := r.Request(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	for _, in := range []string{`{}`, `{"event":"x","reply":{}}`, `{"reply":{},"error":{"kind":"io"}}`} {
		if _, err := NewReader(strings.NewReader(in + "\n")).Message(); err == nil {
			t.Errorf("%s passes for a message", in)
		}
	}
}

func TestSocketPath(t *testing.T) {
	t.Setenv("GOTUNE_SOCKET", "/a/b")
	if p := SocketPath(); p != "/a/b" {
		t.Errorf("with GOTUNE_SOCKET: %s", p)
	}
	t.Setenv("GOTUNE_SOCKET", "")
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	if p := SocketPath(); p != "/run/user/7/gotune/engine.sock" {
		t.Errorf("with XDG_RUNTIME_DIR: %s", p)
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("TMPDIR", "/t")
	if p, want := SocketPath(), fmt.Sprintf("/t/gotune-%d/engine.sock", os.Getuid()); p != want {
		t.Errorf("without both: %s, want %s", p, want)
	}
}

// FuzzReader feeds any bytes as a stream of lines: no panic, and what is
// accepted survives another round.
func FuzzReader(f *testing.F) {
	for _, s := range []string{"", "\n", "{}\n", `{"v":1,"verb":"ping"}` + "\n", `{"event":"step","data":{"Loss":null}}` + "\n",
		`{"reply":{}}` + "\n" + `{"error":{"kind":"x"}}`, `{"v":1,"verb":"x","env":{"HF_TOKEN":"y"},"args":[1]}` + "\n", "\x00\xff\n", `{"v":1e99,"verb":""}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewReader(bytes.NewReader(b))
		for {
			q, err := r.Request()
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				break
			}
			if err != nil {
				continue
			}
			var out bytes.Buffer
			if err := WriteRequest(&out, *q); err != nil {
				t.Fatalf("write %+v: %v", q, err)
			}
			again, err := NewReader(&out).Request()
			if err != nil || again.Verb != q.Verb || len(again.Env) != len(q.Env) {
				t.Fatalf("%+v came back as %+v (%v)", q, again, err)
			}
		}
		r = NewReader(bytes.NewReader(b))
		for {
			if _, err := r.Message(); err == io.EOF || err == io.ErrUnexpectedEOF {
				break
			}
		}
	})
}
