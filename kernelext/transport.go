package kernelext

import (
	"context"
	"encoding/binary"
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
	welcome, _ := ctx.Value(welcomeKey{}).(welcomeFunc)
	sl := &safeListener{Listener: l, welcome: welcome, ready: make(chan net.Conn), done: make(chan struct{})}
	go sl.accept()
	return sl, nil
}

// safeListener hands a connection on only when all that zmq4's handshake is going to read has arrived:
// the peer's greeting and its READY command (ZMTP 3.0, https://rfc.zeromq.org/spec/23/).
type safeListener struct {
	net.Listener
	welcome welcomeFunc // for peers of a PUB socket, else nil
	ready   chan net.Conn
	done    chan struct{}
	once    sync.Once
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

const (
	greetingSize = 64
	greetTime    = 10 * time.Second // for a peer's part of the handshake
	readySize    = 1 << 12          // largest READY command taken
)

// ourGreeting is what zmq4 sends first: signature, version 3.0, mechanism NULL.
func ourGreeting() []byte {
	g := make([]byte, greetingSize)
	g[0], g[9], g[10] = 0xff, 0x7f, 3
	copy(g[12:], "NULL")
	return g
}

func (l *safeListener) greet(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(greetTime))
	said, err := handshake(c)
	if err != nil {
		c.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	sc := &safeConn{Conn: c, prefix: said, swallow: greetingSize, in: frameMeter{greeting: greetingSize},
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	if l.welcome != nil {
		sc.in.heard = func(body []byte) { sc.heard(body, l.welcome) }
	}
	open.add(sc)
	go sc.write()
	select {
	case l.ready <- sc:
	case <-l.done:
		sc.Close()
	}
}

var errNotZMTP = errors.New("the peer does not speak ZMTP 3")

// handshake sends our greeting, which a peer waits for before it sends the rest of its own, and reads
// the peer's greeting and its first command.
func handshake(c net.Conn) ([]byte, error) {
	said := make([]byte, greetingSize+2)
	if _, err := io.ReadFull(c, said[:10]); err != nil {
		return nil, err
	}
	if said[0] != 0xff || said[9] != 0x7f {
		return nil, errNotZMTP
	}
	if _, err := c.Write(ourGreeting()); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, said[10:]); err != nil {
		return nil, err
	}
	size := uint64(said[greetingSize+1])
	switch said[greetingSize] { // flag: a command, with a length of one byte or of eight
	case 4:
	case 6:
		said = append(said, make([]byte, 7)...)
		if _, err := io.ReadFull(c, said[greetingSize+2:]); err != nil {
			return nil, err
		}
		size = binary.BigEndian.Uint64(said[greetingSize+1:])
	default:
		return nil, errNotZMTP
	}
	if size > readySize {
		return nil, errTooLarge
	}
	command := make([]byte, size)
	_, err := io.ReadFull(c, command)
	return append(said, command...), err
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
	prefix  []byte // read already, to be read again by zmq4
	swallow int    // bytes of zmq4's greeting that were sent already
	in      frameMeter

	welcomed bool // only Read looks at it

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
	if c.in.feed(p[:n]) != nil {
		c.Close()
		return 0, io.EOF
	}
	if err != nil {
		err = io.EOF // zmq4 forgets only connections that end in EOF
	}
	return n, err
}

// Write queues p, so that no lock of zmq4's is held over the network.
func (c *safeConn) Write(p []byte) (int, error) {
	total := len(p)
	c.mu.Lock()
	n := min(c.swallow, len(p))
	c.swallow, p = c.swallow-n, p[n:]
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
	return total, nil
}

// push queues bytes of our own.
func (c *safeConn) push(p []byte) {
	c.mu.Lock()
	c.out, c.queued = append(c.out, p), c.queued+len(p)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
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
