package hub

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

const (
	defaultRetries = 5
	firstWait      = time.Second
	longestWait    = 8 * time.Second
	longestAfter   = 5 * time.Minute // a Retry-After beyond this is not waited for
)

// retryStatus reports whether an answer may be different on the next try.
func retryStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

func (c *Client) retries() int {
	switch {
	case c.Retries < 0:
		return 0
	case c.Retries == 0:
		return defaultRetries
	}
	return c.Retries
}

// A backoff counts the tries of one operation and waits between them.
type backoff struct {
	c          *Client
	op, object string
	try        int
	wait       time.Duration
}

func (c *Client) backoff(op, object string) *backoff {
	return &backoff{c: c, op: op, object: object, wait: firstWait}
}

// again waits before the next try and reports whether there may be one. after is
// the answer's Retry-After, or negative when it had none.
func (b *backoff) again(ctx context.Context, cause string, after time.Duration) bool {
	b.try++
	if b.try > b.c.retries() || ctx.Err() != nil {
		return false
	}
	wait := b.wait
	b.wait = min(2*b.wait, longestWait)
	if after >= 0 {
		if after > longestAfter {
			return false
		}
		wait = after + time.Second // the server rounds down
	}
	if b.c.OnRetry != nil {
		b.c.OnRetry(Retry{Op: b.op, Object: b.object, Try: b.try, Cause: cause, Wait: wait})
	}
	return b.c.pause(ctx, wait) == nil
}

func (c *Client) pause(ctx context.Context, d time.Duration) error {
	if c.sleep != nil {
		return c.sleep(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retryAfter reads the header of that name, in seconds or as a date; -1 when absent.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return -1
	}
	if s, err := strconv.Atoi(v); err == nil && s >= 0 {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return -1
}

// noSuchHost says whether a name has no address, which waiting does not mend.
func noSuchHost(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// outOfReach says whether nothing was there to connect to. Once the Hub has
// answered, that may be a short break; before, it is a wrong address or no network,
// which a user should know at once.
func outOfReach(err error) bool {
	return noSuchHost(err) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH)
}

// do sends r until it has a final answer. A 2xx answer, and a redirect that r
// keeps, come back with an open body; everything else is an Error.
func (c *Client) do(ctx context.Context, r *request) (*http.Response, error) {
	if c.Offline {
		return nil, &Error{Op: r.op, Object: r.object, Found: "offline mode forbids requests", Kind: ErrOffline, Next: "unset HF_HUB_OFFLINE"}
	}
	b := c.backoff(r.op, r.object)
	for {
		resp, err := c.follow(ctx, r)
		if err != nil {
			var e *Error
			if errors.As(err, &e) {
				return nil, e
			}
			e = c.transportError(r.op, r.object, err)
			if r.noRetry || e.Kind != ErrNetwork || noSuchHost(err) || outOfReach(err) && !c.answered.Load() || !b.again(ctx, e.Found, -1) {
				return nil, e
			}
			continue
		}
		c.answered.Store(true)
		if resp.StatusCode < 400 && (resp.StatusCode/100 == 2 || r.stayOnOrigin) {
			return resp, nil
		}
		after := retryAfter(resp.Header)
		e := c.statusError(r.op, r.object, resp)
		if r.noRetry || !retryStatus(resp.StatusCode) || !b.again(ctx, e.Found, after) {
			return nil, e
		}
	}
}
