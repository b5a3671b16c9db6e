package kernelext

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/transport"
)

// maxQueue is how far behind, in bytes, a client may read before it is cut off.
const maxQueue = 512 << 20

// The transports "safetcp" and "safeipc" take three habits away from zmq4 v0.17: handshakes inside the
// accept loop without a deadline (one silent peer keeps all others out), allocation of whatever length
// a frame header claims, and writes to slow peers under the socket's lock.
func init() {
	for name, network := range map[string]string{"safetcp": "tcp", "safeipc": "unix"} {
		if err := zmq4.RegisterTransport(name, safeTransport{transport.New(network)}); err != nil {
			panic("kernelext: transport " + name + " is registered already: " + err.Error())
		}
	}
}

type safeTransport struct{ transport.Transport }

func (t safeTransport) Listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := t.Transport.Listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	sl := &safeListener{Listener: l, ready: make(chan net.Conn), done: make(chan struct{})}
	go sl.accept()
	return sl, nil
}

// safeListener hands a connection on only after its peer has said the ten bytes that every ZMTP peer
// says at once.
type safeListener struct {
	net.Listener
	ready chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *safeListener) accept() {
	for {
		c, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // for example out of descriptors
			time.Sleep(50 * time.Millisecond)
			continue
		}
		go l.greet(c)
	}
}

func (l *safeListener) greet(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	signature := make([]byte, 10)
	if _, err := io.ReadFull(c, signature); err != nil || signature[0] != 0xff || signature[9] != 0x7f {
		c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second)) // for the rest of the handshake
	sc := &safeConn{Conn: c, prefix: signature, in: frameMeter{greeting: 64},
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	open.add(sc)
	go sc.write()
	select {
	case l.ready <- sc:
	case <-l.done:
		sc.Close()
	}
}

func (l *safeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *safeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// safeConn meters what it reads and queues what it writes.
type safeConn struct {
	net.Conn
	prefix []byte // read already, to be read again by zmq4
	in     frameMeter

	mu     sync.Mutex
	out    [][]byte
	queued int // bytes in out and in the write under way

	wake, done chan struct{}
	once       sync.Once
}

func (c *safeConn) Read(p []byte) (n int, err error) {
	if len(c.prefix) > 0 {
		n = copy(p, c.prefix)
		c.prefix = c.prefix[n:]
	} else {
		n, err = c.Conn.Read(p)
	}
	shaken := c.in.shaken
	if c.in.feed(p[:n]) != nil {
		c.Close()
		return 0, io.EOF
	}
	if !shaken && c.in.shaken {
		_ = c.Conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		err = io.EOF // zmq4 forgets only connections that end in EOF
	}
	return n, err
}

// Write queues p, so that no lock of zmq4's is held over the network.
func (c *safeConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.out, c.queued = append(c.out, slices.Clone(p)), c.queued+len(p)
	over := c.queued > maxQueue
	c.mu.Unlock()
	select {
	case <-c.done:
		return 0, io.EOF
	case c.wake <- struct{}{}:
	default:
	}
	if over {
		c.Close()
		return 0, io.EOF
	}
	return len(p), nil
}

// write is the goroutine that sends what Write queued.
func (c *safeConn) write() {
	for {
		select {
		case <-c.done:
			return
		case <-c.wake:
		}
		for {
			c.mu.Lock()
			b, n := net.Buffers(c.out), c.queued
			c.out = nil
			c.mu.Unlock()
			if len(b) == 0 {
				break
			}
			if _, err := b.WriteTo(c.Conn); err != nil {
				c.Close()
				return
			}
			c.mu.Lock()
			c.queued -= n
			c.mu.Unlock()
		}
	}
}

func (c *safeConn) Close() error {
	c.once.Do(func() { close(c.done); open.remove(c) })
	return c.Conn.Close()
}

// connSet is the set of open connections, kept for drain.
type connSet struct {
	mu    sync.Mutex
	conns map[*safeConn]struct{}
}

var open = connSet{conns: map[*safeConn]struct{}{}}

func (s *connSet) add(c *safeConn) {
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
}

func (s *connSet) remove(c *safeConn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *connSet) queued() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.mu.Lock()
		n += c.queued
		c.mu.Unlock()
	}
	return n
}

// drain waits, at most d, until everything written is on the wire: the linger that zmq4 lacks.
func drain(d time.Duration) {
	time.Sleep(5 * time.Millisecond) // a PUB socket hands over in a goroutine of its own
	for end := time.Now().Add(d); open.queued() > 0 && time.Now().Before(end); {
		time.Sleep(2 * time.Millisecond)
	}
}
