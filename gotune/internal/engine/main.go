package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/wire"
)

var pid = os.Getpid()

// DefaultIdle is the time after which an engine that nobody uses ends by
// itself, so that no memory of a GPU is kept for ever.
const DefaultIdle = 30 * time.Minute

// EnvIdle names an environment variable with another idle time, as
// time.ParseDuration reads it. 0 keeps the engine for ever.
const EnvIdle = "GOTUNE_ENGINE_IDLE"

// Main runs `gotune engine` with args until it is told to end (the verb
// shutdown, SIGTERM, SIGINT) or has been idle for long enough, and returns the
// exit status. Runs under way are stopped with a checkpoint. Started in a session
// of its own without an input, it goes to the background once it listens (see
// ownSession and detach).
func Main(args []string, version string) int {
	o := Options{Version: version, Idle: DefaultIdle}
	if s := os.Getenv(EnvIdle); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			fmt.Fprintf(os.Stderr, "gotune engine: %s=%q: want a duration such as 30m\n", EnvIdle, s)
			return 2
		}
		o.Idle = d
	}
	f := flag.NewFlagSet("gotune engine", flag.ContinueOnError)
	f.StringVar(&o.Socket, "socket", wire.SocketPath(), "Unix socket to listen at")
	f.StringVar(&o.LogFile, "log", "", "where the log goes, for status (the log itself is stderr)")
	f.DurationVar(&o.Idle, "idle", o.Idle, "end after this long without work; 0: never")
	if err := f.Parse(args); err != nil {
		return 2
	}
	if f.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "gotune engine: it takes flags alone, and was given %q; 'gotune stop' ends a running engine, 'gotune status' shows it\n", f.Args())
		return 2
	}
	if ownSession() {
		return detach(o.Socket)
	}
	if err := fillDirs(&o); err != nil {
		fmt.Fprintln(os.Stderr, "gotune engine:", err)
		return 1
	}
	if err := serve(o); err != nil {
		if errors.Is(err, wire.ErrInUse) {
			return 0 // two clients started an engine at once: the other one serves both
		}
		fmt.Fprintln(os.Stderr, "gotune engine:", err)
		return 1
	}
	return 0
}

// fillDirs sets the folders that Options leaves empty.
func fillDirs(o *Options) (err error) {
	if o.CacheDir == "" {
		if o.CacheDir, err = cuda.CacheDir(); err != nil {
			return err
		}
		if err = os.MkdirAll(o.CacheDir, 0o700); err != nil {
			return fmt.Errorf("make the cache folder: %w", err)
		}
	}
	if o.StateDir == "" {
		o.StateDir, err = StateDir()
	}
	return err
}

// StateDir is the folder of what gotune remembers from day to day:
// $XDG_STATE_HOME/gotune, by default ~/.local/state/gotune.
func StateDir() (string, error) {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "gotune"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("state folder: %w; set HOME or XDG_STATE_HOME", err)
	}
	return filepath.Join(home, ".local", "state", "gotune"), nil
}

func serve(o Options) error {
	l, err := listen(o.Socket)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e := New(o)
	e.verbs[wire.VerbShutdown] = handler(func(c *call, a none) (wire.Pong, error) {
		time.AfterFunc(50*time.Millisecond, cancel) // after the reply
		return e.ping(c, a)
	})
	go e.endWhenIdle(ctx, cancel)
	log.Printf("engine %s, pid %d, at %s", o.Version, pid, o.Socket)
	context.AfterFunc(ctx, e.Close)
	err = l.Serve(ctx, e.Handle)
	e.Close()
	log.Print("engine ends")
	return err
}

// handover is how long a new engine waits for one that is about to end, which
// first stops its runs with a checkpoint.
const handover = 9 * time.Second

// listen takes the socket. An engine that still holds it but answers no more is
// waited for; one that answers serves both, which is wire.ErrInUse.
func listen(socket string) (*wire.Listener, error) {
	end := time.Now().Add(handover)
	for {
		l, err := wire.Listen(socket)
		if err == nil || !errors.Is(err, wire.ErrInUse) || time.Now().After(end) {
			return l, err
		}
		if _, e := wire.Ping(context.Background(), socket); !errors.Is(e, wire.ErrNoServer) {
			return nil, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (e *Engine) endWhenIdle(ctx context.Context, end func()) {
	if e.options.Idle <= 0 {
		return
	}
	t := time.NewTicker(max(e.options.Idle/20, 100*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if e.idle() >= e.options.Idle {
				log.Printf("idle for %v", e.options.Idle)
				end()
				return
			}
		}
	}
}
