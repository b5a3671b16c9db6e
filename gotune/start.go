package gotune

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// startTimeout is how long a new engine may take to listen.
const startTimeout = 10 * time.Second

// startEngine starts `gotune engine` as a process of its own session, which
// outlives this program, and waits until it listens at the socket.
func startEngine(ctx context.Context, socket string) error {
	binary, err := findBinary()
	if err != nil {
		return err
	}
	fail := func(found, next string) error {
		return &Error{Kind: KindIO, Op: "start the engine", Object: binary, Found: found, Next: next}
	}
	if err := wire.MakeFolder(socket); err != nil { // before the log is opened there
		return fail(err.Error(), "set GOTUNE_SOCKET to a path in a folder of your own")
	}
	log, err := os.OpenFile(logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fail(err.Error(), "set GOTUNE_SOCKET to a path in a folder of your own")
	}
	defer log.Close()
	before := fileSize(log)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fail(err.Error(), "")
	}
	defer null.Close()
	p, err := os.StartProcess(binary, []string{binary, "engine", "-log", logPath()}, &os.ProcAttr{
		Dir:   "/",
		Env:   engineEnvironment(socket),
		Files: []*os.File{null, log, log},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fail(err.Error(), "set GOTUNE_BIN to the gotune binary, or build it again")
	}
	ended := make(chan string, 1)
	go func() {
		state, err := p.Wait()
		if err != nil {
			ended <- err.Error()
			return
		}
		ended <- state.String()
	}()
	found := waitForEngine(ctx, socket, ended)
	if found == "" {
		return nil
	}
	return fail(found+logTail(before), "the whole log is "+logPath())
}

// waitForEngine returns "" once somebody answers at the socket, else why not.
func waitForEngine(ctx context.Context, socket string, ended <-chan string) string {
	end := time.Now().Add(startTimeout)
	state := ""
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		_, err := wire.Ping(ctx, socket)
		switch {
		case err == nil || ctx.Err() != nil || !errors.Is(err, wire.ErrNoServer):
			return "" // the request itself will say what is wrong
		case time.Now().After(end):
			return fmt.Sprintf("it does not listen at %s after %v", socket, startTimeout)
		case state != "":
			return "it ended: " + state
		}
		select {
		case state = <-ended:
			// Another program may have won the race to start one: look once more.
			time.Sleep(200 * time.Millisecond)
		case <-time.After(wait):
		}
	}
}

// findBinary returns the gotune command: $GOTUNE_BIN, the one on PATH, or the
// one in the user's cache.
func findBinary() (string, error) {
	if b := os.Getenv("GOTUNE_BIN"); b != "" {
		if runnable(b) {
			return b, nil
		}
		return "", &Error{Kind: KindNotFound, Op: "start the engine", Object: "$GOTUNE_BIN", Found: b, Wanted: "a program that can be run"}
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if b := filepath.Join(dir, "gotune"); filepath.IsAbs(b) && runnable(b) {
			return b, nil
		}
	}
	looked := "not on PATH"
	if cache, err := os.UserCacheDir(); err == nil {
		b := filepath.Join(cache, "gotune", "bin", "gotune")
		if runnable(b) {
			return b, nil
		}
		looked += ", nor at " + b
	}
	return "", &Error{Kind: KindNotFound, Op: "start the engine", Object: "the command gotune", Found: looked,
		Next: "build it with `go build -o ~/.cache/gotune/bin/gotune ./gotune/cmd/gotune` in a clone of the repository, or set GOTUNE_BIN to where it is"}
}

func runnable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// engineEnvironment is this program's, without what belongs to one cell.
func engineEnvironment(socket string) []string {
	env := []string{"GOTUNE_SOCKET=" + socket}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "GONB_") && !strings.HasPrefix(e, "GOTUNE_SOCKET=") {
			env = append(env, e)
		}
	}
	return env
}

func fileSize(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// logTail is the end of what was written to the log since it had the size before.
func logTail(before int64) string {
	f, err := os.Open(logPath())
	if err != nil {
		return ""
	}
	defer f.Close()
	from := max(before, fileSize(f)-2000)
	b := make([]byte, 2000)
	n, _ := f.ReadAt(b, from)
	lines := strings.Split(strings.TrimSpace(plainText(string(b[:n]))), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return ""
	}
	return "; the end of its log:\n" + strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// isClosed says whether the other end of a connection is gone.
func isClosed(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed)
}
