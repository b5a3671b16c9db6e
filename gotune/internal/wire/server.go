package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A Listener is the server's end of a socket.
type Listener struct {
	path string
	f    *os.File // the listening socket
	lock *os.File // held as long as the listener lives
	once sync.Once
	done chan struct{} // closed by Close
}

// ErrInUse is what Listen's error wraps when another process serves the path.
var ErrInUse = errors.New("another engine is listening")

// Listen makes the socket at path with mode 0600. The folder is made with mode
// 0700 if missing; one that belongs to somebody else, or that others can write,
// is refused. A socket that a dead process left behind is replaced. A lock file
// beside the socket keeps two servers from racing for one path.
func Listen(path string) (*Listener, error) {
	addr, err := socketAddr(path)
	if err != nil {
		return nil, err
	}
	if err := MakeFolder(path); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("wire: open the socket's lock: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("wire: %w at %s", ErrInUse, path)
	}
	f, err := bind(path, addr)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	return &Listener{path: path, f: f, lock: lock, done: make(chan struct{})}, nil
}

// MakeFolder makes the folder of the socket at path with mode 0700 if it is missing, and refuses one in which
// another user could replace the socket or what lies beside it.
func MakeFolder(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("wire: make the socket's folder: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("wire: look at the socket's folder: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(st.Uid) != os.Getuid() {
		return fmt.Errorf("wire: the socket's folder %s belongs to user %d, want %d: set GOTUNE_SOCKET to a path in a folder of your own", dir, st.Uid, os.Getuid())
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("wire: the socket's folder %s has mode %#o, so other users can write it: chmod 700 it, or set GOTUNE_SOCKET to a path in another folder", dir, info.Mode().Perm())
	}
	return nil
}

// bind replaces what is at path by a listening socket of mode 0600.
func bind(path string, addr *syscall.SockaddrUnix) (*os.File, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("wire: %s exists and is no socket: move it away, or set GOTUNE_SOCKET to another path", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("wire: remove the old socket: %w", err)
		}
	}
	fd, err := newSocket()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = syscall.Bind(fd, addr)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err == nil {
		err = syscall.Listen(fd, 64)
	}
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("wire: listen at %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Path returns where the listener listens.
func (l *Listener) Path() string { return l.path }

// Close stops listening and removes the socket. Open connections stay.
func (l *Listener) Close() error {
	var err error
	l.once.Do(func() {
		close(l.done)
		err = errors.Join(os.Remove(l.path), l.f.Close(), l.lock.Close())
	})
	return err
}

// accept waits for a connection of this user.
func (l *Listener) accept() (*os.File, error) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, aerr := -1, error(nil)
	err = raw.Read(func(lfd uintptr) bool {
		for {
			fd, aerr = acceptFd(int(lfd))
			if aerr != syscall.EINTR {
				return aerr != syscall.EAGAIN
			}
		}
	})
	if err == nil {
		err = aerr
	}
	if err == nil {
		if err = checkPeer(fd); err == nil {
			err = syscall.SetNonblock(fd, true)
		}
		if err != nil {
			_ = syscall.Close(fd)
		}
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), l.path), nil
}

// acceptFd accepts one connection that programs started later do not inherit.
func acceptFd(lfd int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, _, err := syscall.Accept(lfd)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	return fd, err
}

// A Handler answers one request. It sends events by s and returns the reply, or
// an error: a *Error, or a gotune.Error, crosses the wire as it is, any other as
// kind internal.
//
// ctx ends when the caller cancels ([ErrCancelled] is its cause), when the
// connection drops ([ErrGone]), or when the server closes. A handler whose work
// outlives its caller watches [Stream.Cancelled] and [Stream.Gone] instead.
type Handler func(ctx context.Context, q *Request, s *Stream) (reply any, err error)

// Causes of the end of a handler's context.
var (
	ErrCancelled = errors.New("the caller asked to stop")
	ErrGone      = errors.New("the caller is gone")
)

// requestTimeout is how long a new connection may take to say what it wants.
const requestTimeout = 30 * time.Second

// Serve accepts connections until ctx ends or the listener is closed, and runs
// handle for each in a goroutine of its own. It returns when all of them have.
func (l *Listener) Serve(ctx context.Context, handle Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for {
		f, err := l.accept()
		if err != nil {
			// A foreign peer, or no descriptors left: neither may spin or stop the server.
			select {
			case <-l.done:
				return nil
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		wg.Go(func() { serveConn(ctx, f, handle) })
	}
}

func serveConn(ctx context.Context, f *os.File, handle Handler) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &Stream{f: f, cancelled: make(chan struct{}), gone: make(chan struct{})}
	defer f.Close()
	defer cancel(nil)
	r := NewReader(f)
	_ = f.SetReadDeadline(time.Now().Add(requestTimeout))
	q, err := r.Request()
	if err != nil {
		_ = s.finish(Message{Error: &Error{Kind: "invalid", Op: "read", Object: "request", Found: err.Error(), Wanted: "a line of JSON as package wire describes it"}})
		return
	}
	_ = f.SetReadDeadline(time.Time{})
	if q.V != Version && q.Verb != VerbPing && q.Verb != VerbShutdown { // these two find out, and put an end to it
		_ = s.finish(Message{Error: VersionError(q.V, Version)})
		return
	}
	go s.watch(r, cancel)
	reply, err := handle(ctx, q, s)
	if err != nil {
		_ = s.finish(Message{Error: asError(q.Verb, err)})
		return
	}
	m := Message{}
	if m.Reply, err = Marshal(reply); err != nil {
		m = Message{Error: asError(q.Verb, err)}
	}
	if err := s.finish(m); err != nil {
		// Too large a reply: say so in its place.
		_ = s.finish(Message{Error: asError(q.Verb, err)})
	}
}

func asError(verb string, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var fields interface {
		error
		Fields() (kind, op, object, found, wanted, next string)
	}
	if errors.As(err, &fields) {
		e = new(Error)
		e.Kind, e.Op, e.Object, e.Found, e.Wanted, e.Next = fields.Fields()
		return e
	}
	return &Error{Kind: "internal", Op: verb, Found: err.Error()}
}

// A Stream is one connection, seen from the server. Its methods may be called
// from several goroutines.
type Stream struct {
	mu              sync.Mutex
	f               *os.File
	dead            error // the first write that failed
	cancelled, gone chan struct{}
}

// sendTimeout is how long a caller may let its end of the socket fill up; after
// that it counts as gone, so that it cannot hold up a run.
var sendTimeout = 10 * time.Second

// Send sends an event. Once a Send has failed all later ones fail at once.
func (s *Stream) Send(event string, data any) error {
	b, err := Marshal(data)
	if err != nil {
		return err
	}
	return s.finish(Message{Event: event, Data: b})
}

func (s *Stream) finish(m Message) error {
	if m.Event == "" && m.Error == nil && m.Reply == nil {
		m.Reply = json.RawMessage("{}")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		return s.dead
	}
	_ = s.f.SetWriteDeadline(time.Now().Add(sendTimeout))
	err := writeLine(s.f, m)
	var pe *os.PathError
	if errors.As(err, &pe) {
		s.dead = err
	}
	return err
}

// Cancelled is closed when the caller asks to stop gracefully.
func (s *Stream) Cancelled() <-chan struct{} { return s.cancelled }

// Gone is closed when the caller's connection has dropped.
func (s *Stream) Gone() <-chan struct{} { return s.gone }

// watch reads what the caller says after its request.
func (s *Stream) watch(r *Reader, cancel context.CancelCauseFunc) {
	var once sync.Once
	for {
		var c control
		if err := r.decode(&c); err != nil {
			close(s.gone)
			cancel(ErrGone)
			return
		}
		if c.Cancel {
			once.Do(func() { close(s.cancelled) })
			cancel(ErrCancelled)
		}
	}
}
