package kernelext

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/gotune/gotune/gotune"
	"golang.org/x/sys/unix"
)

// wireVersion is the version of the engine's protocol that this package speaks: JSON lines over a Unix
// socket, one request a connection. Its package is internal to gotune/gotune.
const wireVersion = 1

// engineStart is how long a new engine may take to answer.
const engineStart = 10 * time.Second

var errNoEngine = errors.New("no engine runs")

// engine is the resident process that owns devices, models and runs. The kernel starts it when there is
// none, and never ends it: it ends by itself when it is idle and nobody needs it.
type engine struct {
	socket, binary string
}

func newEngine(environment) *engine {
	e := &engine{socket: socketPath(), binary: os.Getenv("GOTUNE_BIN")}
	if e.binary == "" {
		e.binary, _ = os.Executable()
	}
	return e
}

// socketPath is where the engine listens: $GOTUNE_SOCKET, else $XDG_RUNTIME_DIR/gotune/engine.sock, else
// gotune-UID/engine.sock in the folder for temporary files.
func socketPath() string {
	if p := os.Getenv("GOTUNE_SOCKET"); p != "" {
		return p
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "gotune", "engine.sock")
	}
	return filepath.Join(os.TempDir(), "gotune-"+strconv.Itoa(os.Getuid()), "engine.sock")
}

func (e *engine) logFile() string { return filepath.Join(filepath.Dir(e.socket), "engine.log") }

// pong is the reply to ping and shutdown.
type pong struct {
	Version  string `json:"version"`
	Protocol int    `json:"protocol"`
	PID      int    `json:"pid"`
}

func (e *engine) ping(ctx context.Context) (p pong, err error) {
	return p, e.call(ctx, "ping", nil, &p)
}

// call sends one request and reads its reply; events on the way are dropped. It returns errNoEngine when
// nobody listens, and the engine's own error as a *gotune.Error.
func (e *engine) call(ctx context.Context, verb string, args, reply any) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return errNoEngine
		}
		return fmt.Errorf("connect to the engine: %w", err)
	}
	defer c.Close()
	if err := checkPeer(c); err != nil {
		return fmt.Errorf("connect to the engine at %s: %w", e.socket, err)
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if args == nil {
		args = struct{}{}
	}
	request := object{"v": wireVersion, "verb": verb, "args": args}
	if dir, err := os.Getwd(); err == nil {
		request["dir"] = dir
	}
	if _, err := c.Write(append(encode(request), '\n')); err != nil {
		return fmt.Errorf("ask the engine for %s: %w", verb, err)
	}
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadBytes('\n')
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("the engine hung up before it answered %s; %%gotune log shows its log", verb)
		}
		var m struct {
			Reply json.RawMessage `json:"reply"`
			Error *gotune.Error   `json:"error"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("the engine's answer to %s is not understood (%w): %%gotune restart-engine starts one of this version", verb, err)
		}
		switch {
		case m.Error != nil:
			return m.Error
		case m.Reply != nil:
			if err := json.Unmarshal(m.Reply, reply); err != nil {
				return fmt.Errorf("the engine's answer to %s is not understood (%w): %%gotune restart-engine starts one of this version", verb, err)
			}
			return nil
		}
	}
}

// checkPeer refuses a socket that another user listens at.
func checkPeer(c net.Conn) error {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return errors.Join(e, err)
	}
	if int(cred.Uid) != os.Getuid() {
		return fmt.Errorf("user %d listens there, and not you (%d): set GOTUNE_SOCKET to a path in a folder of your own", cred.Uid, os.Getuid())
	}
	return nil
}

// ensure starts the engine when none answers. A failure is only logged: cells try again and say so.
func (e *engine) ensure(ctx context.Context, logger *log.Logger) {
	ctx, cancel := context.WithTimeout(ctx, engineStart)
	defer cancel()
	if _, err := e.ping(ctx); !errors.Is(err, errNoEngine) {
		return
	}
	if err := e.start(ctx); err != nil {
		logger.Print(err)
	}
}

// start starts an engine in a session of its own, out of reach of this kernel's end, and waits until it
// answers.
func (e *engine) start(ctx context.Context) error {
	if err := ownDir(filepath.Dir(e.socket)); err != nil {
		return fmt.Errorf("start the engine: %w", err)
	}
	logFile, err := os.OpenFile(e.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start the engine: %w", err)
	}
	defer logFile.Close()
	c := exec.Command(e.binary, "engine")
	c.Env = append(os.Environ(), "GOTUNE_SOCKET="+e.socket)
	c.Stdout, c.Stderr = logFile, logFile
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return fmt.Errorf("start the engine: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, engineStart)
	defer cancel()
	for {
		if _, err := e.ping(ctx); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			if _, e2 := e.ping(ctx); e2 == nil {
				return nil // another one was faster
			}
			return fmt.Errorf("the engine ended while it started (%v): its log is %s", err, e.logFile())
		case <-ctx.Done():
			return fmt.Errorf("the engine does not answer within %v: its log is %s", engineStart, e.logFile())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// end asks the engine to end and waits until it has: runs save a checkpoint first.
func (e *engine) end(ctx context.Context) error {
	var p pong
	if err := e.call(ctx, "shutdown", nil, &p); err != nil {
		if errors.Is(err, errNoEngine) {
			return nil
		}
		return err
	}
	for {
		if _, err := e.ping(ctx); errors.Is(err, errNoEngine) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
