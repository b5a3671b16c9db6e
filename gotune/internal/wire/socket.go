package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// SocketPath returns where the engine listens: $GOTUNE_SOCKET, else
// $XDG_RUNTIME_DIR/gotune/engine.sock, else gotune-UID/engine.sock in the
// folder for temporary files.
func SocketPath() string {
	if p := os.Getenv("GOTUNE_SOCKET"); p != "" {
		return p
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "gotune", "engine.sock")
	}
	return filepath.Join(os.TempDir(), "gotune-"+strconv.Itoa(os.Getuid()), "engine.sock")
}

// maxSocketPath is the room for a path in a Unix socket's address.
const maxSocketPath = 103

func socketAddr(path string) (*syscall.SockaddrUnix, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("wire: the socket path %q has %d bytes, and the system allows %d: set GOTUNE_SOCKET to a shorter one", path, len(path), maxSocketPath)
	}
	return &syscall.SockaddrUnix{Name: path}, nil
}

// ErrNoServer is what Dial's error wraps when nobody listens at the path.
var ErrNoServer = errors.New("nobody listens")

// dial connects to the socket at path and checks that it belongs to this user.
func dial(path string) (*os.File, error) {
	addr, err := socketAddr(path)
	if err != nil {
		return nil, err
	}
	fd, err := newSocket()
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for {
		err = syscall.Connect(fd, addr)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		_ = syscall.Close(fd)
		if err == syscall.ENOENT || err == syscall.ECONNREFUSED || err == syscall.ENOTDIR {
			return nil, fmt.Errorf("wire: connect to %s: %w (%v)", path, ErrNoServer, err)
		}
		return nil, fmt.Errorf("wire: connect to %s: %w", path, err)
	}
	if err := checkPeer(fd); err != nil {
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("wire: connect to %s: %w", path, err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("setnonblock", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// newSocket makes a stream socket that programs started later do not inherit.
func newSocket() (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	return fd, err
}

// A Call is a request under way, seen from the client.
type Call struct {
	f *os.File
	r *Reader
}

// Dial connects to the server at path and sends the request, with the
// protocol's version filled in.
func Dial(path string, q Request) (*Call, error) {
	f, err := dial(path)
	if err != nil {
		return nil, err
	}
	q.V = Version
	if err := WriteRequest(f, q); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("wire: send %s: %w", q.Verb, err)
	}
	return &Call{f: f, r: NewReader(f)}, nil
}

// Next returns the next message. io.EOF before a reply or an error means that
// the server is gone.
func (c *Call) Next() (*Message, error) { return c.r.Message() }

// Cancel asks the server to stop gracefully; its answer still comes by Next.
func (c *Call) Cancel() error {
	_ = c.f.SetWriteDeadline(time.Now().Add(2 * time.Second))
	return writeLine(c.f, control{Cancel: true})
}

// Close drops the connection.
func (c *Call) Close() error { return c.f.Close() }

// Ping asks the server at path who it is, and checks its protocol version.
func Ping(ctx context.Context, path string) (Pong, error) {
	var p Pong
	err := Do(ctx, path, Request{Verb: VerbPing}, &p)
	if err == nil && p.Protocol != Version {
		err = VersionError(Version, p.Protocol)
	}
	return p, err
}
