package hub

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A Hub that was never there is told at once; one that has answered gets its
// retries when it goes away.
func TestOutOfReach(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.NotFoundHandler()}
	go func() { _ = s.Serve(l) }()
	retries := 0
	c := &Client{Endpoint: "http://" + l.Addr().String(), CacheDir: t.TempDir(), OnRetry: func(Retry) { retries++ },
		sleep: func(context.Context, time.Duration) error { return nil }}
	look := func(c *Client, want error) {
		t.Helper()
		_, err := c.Info(context.Background(), Repo{ID: "me/x"})
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if want == ErrNetwork && !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%v does not say that the connection was refused", err)
		}
	}
	look(c, ErrNotFound)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	look(c, ErrNetwork)
	if retries != defaultRetries {
		t.Errorf("a Hub that had answered was tried again %d times, want %d", retries, defaultRetries)
	}
	retries = 0
	look(&Client{Endpoint: c.Endpoint, CacheDir: c.CacheDir, OnRetry: c.OnRetry, sleep: c.sleep}, ErrNetwork)
	if retries != 0 {
		t.Errorf("a Hub that never answered was tried again %d times, want none", retries)
	}
}
