package kernelext

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/go-zeromq/zmq4"
)

var quiet = log.New(io.Discard, "", 0)

// gonb is the running GoNB: its guard and the kernel's sockets towards it. GoNB listens on Unix sockets
// in a private folder: there are no ports to race for and nobody else can connect.
type gonb struct {
	dir                         string
	guard                       *exec.Cmd
	leash                       io.Closer     // closing it ends the tree
	gone                        chan struct{} // closed when the guard has ended
	codec                       *codec
	shell, control, stdin, back *socket // back is GoNB's iopub
}

// findGoNB looks for GoNB's binary: $GOTUNE_GONB, then the user's cache, then PATH.
func findGoNB() (string, error) {
	if p := os.Getenv("GOTUNE_GONB"); p != "" {
		if _, err := exec.LookPath(p); err != nil {
			return "", fmt.Errorf("GOTUNE_GONB is %q: %w", p, err)
		}
		return p, nil
	}
	if p := filepath.Join(cacheDir(), "bin", "gonb"); executable(p) {
		return p, nil
	}
	p, err := exec.LookPath("gonb")
	if err != nil {
		return "", fmt.Errorf("GoNB is neither in %s nor on PATH: run scripts/setup, or set GOTUNE_GONB to its path",
			filepath.Join(cacheDir(), "bin"))
	}
	return p, nil
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// cacheDir is gotune's folder in the user's cache. Without a home it is a folder for temporary files, which nobody
// else may have made: programs are run from it.
var cacheDir = sync.OnceValue(func() string {
	if d, err := os.UserCacheDir(); err == nil {
		return filepath.Join(d, "gotune")
	}
	d := filepath.Join(os.TempDir(), fmt.Sprintf("gotune-%d", os.Getuid()))
	if ownDir(d) != nil {
		d, _ = os.MkdirTemp("", "gotune-cache-")
	}
	return d
})

// privateDir makes a folder for Unix sockets, whose paths may not pass 108 bytes.
func privateDir() (string, error) {
	root := os.TempDir()
	if len(root) > 60 {
		root = "/tmp"
	}
	return os.MkdirTemp(root, "gotune-k")
}

// startGoNB starts GoNB under a guard. Name is the base name of Jupyter's connection file, which carries
// the kernel's id; env is added to this process's environment.
func startGoNB(binary, name string, env []string) (*gonb, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's path: %w", err)
	}
	g := &gonb{gone: make(chan struct{}), codec: newCodec(newID())}
	g.codec.trusted = true
	if g.dir, err = privateDir(); err != nil {
		return nil, fmt.Errorf("make a folder for GoNB's sockets: %w", err)
	}
	file := filepath.Join(g.dir, name)
	c := connection{Transport: "ipc", IP: filepath.Join(g.dir, "s"), Key: string(g.codec.key), SignatureScheme: "hmac-sha256",
		KernelName: "gonb", ShellPort: 1, ControlPort: 2, StdinPort: 3, IOPubPort: 4, HBPort: 5}
	if err := os.WriteFile(file, encode(c), 0o600); err != nil {
		return nil, fmt.Errorf("write GoNB's connection file: %w", err)
	}
	g.guard = exec.Command(self, "kernel", "guard", g.dir, binary, "--kernel", file, "--raw_error",
		"--logtostderr=false", "--log_dir="+g.dir, "--stderrthreshold=FATAL")
	g.guard.Env = append(os.Environ(), env...)
	g.guard.Stdout, g.guard.Stderr = os.Stderr, os.Stderr
	g.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Jupyter kills the kernel's whole group
	if g.leash, err = g.guard.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start GoNB's guard: %w", err)
	}
	if err := g.guard.Start(); err != nil {
		return nil, fmt.Errorf("start GoNB's guard: %w", err)
	}
	go func() { _ = g.guard.Wait(); close(g.gone) }()
	return g, g.dial(&c)
}

// dial connects to GoNB. It asks for input and answers control requests by the identity of the shell
// socket: one identity for all.
func (g *gonb) dial(c *connection) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-g.gone; cancel() }()
	for _, s := range []struct {
		at   **socket
		name string
		port int
	}{{&g.shell, "shell", c.ShellPort}, {&g.control, "control", c.ControlPort}, {&g.stdin, "stdin", c.StdinPort}, {&g.back, "iopub", c.IOPubPort}} {
		options := []zmq4.Option{zmq4.WithID(zmq4.SocketIdentity("gotune")), zmq4.WithLogger(quiet),
			zmq4.WithDialerRetry(5 * time.Millisecond), zmq4.WithDialerMaxRetries(4000)}
		z := zmq4.NewDealer(ctx, options...)
		if s.name == "iopub" {
			z = zmq4.NewSub(ctx, options...)
			if err := z.SetOption(zmq4.OptionSubscribe, ""); err != nil {
				return fmt.Errorf("subscribe to GoNB's output: %w", err)
			}
		}
		if err := z.Dial(c.endpoint("", s.port)); err != nil {
			select {
			case <-g.gone:
				return errors.New("GoNB ended while it started: its message is above")
			default:
				return fmt.Errorf("connect to GoNB's %s channel: %w", s.name, err)
			}
		}
		*s.at = &socket{Socket: z, name: "GoNB's " + s.name}
	}
	return nil
}

// send signs m with GoNB's key and sends it.
func (g *gonb) send(s *socket, m *message) error {
	out := *m
	out.identities, out.buffers = nil, nil // GoNB routes by the socket's identity and uses no buffers
	return s.send(g.codec.frames(&out))
}

// end closes the leash and waits until the guard has cleaned up.
func (g *gonb) end() {
	g.leash.Close()
	<-g.gone
}
