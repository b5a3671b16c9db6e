package kernelext

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// runtimeDir is the user's private folder for sockets, locks and records of what runs:
// $XDG_RUNTIME_DIR/gotune, else gotune-UID in the folder for temporary files. It is made with mode 0700.
func runtimeDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "gotune-"+strconv.Itoa(os.Getuid()))
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		dir = filepath.Join(d, "gotune")
	}
	return dir, ownDir(dir)
}

// ownDir makes dir with mode 0700 if it is missing, and refuses one that is somebody else's, a link, or open to
// others for writing: they could put a socket or a lock of theirs in the place of ours.
func ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder for sockets: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at the folder for sockets: %w", err)
	}
	const next = "set XDG_RUNTIME_DIR (or GOTUNE_SOCKET) to a place in a folder of your own"
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no folder but %v: %s", dir, info.Mode().Type(), next)
	case ok && int(st.Uid) != os.Getuid():
		return fmt.Errorf("the folder %s belongs to user %d, not to you (%d): %s", dir, st.Uid, os.Getuid(), next)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("other users can write the folder %s (mode %#o): chmod 700 it, or %s", dir, info.Mode().Perm(), next)
	}
	return nil
}

// closeDir makes dir with mode 0700 if it is missing, and takes away the rights of others if it is ours: a cache is
// its user's alone.
func closeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the cache folder: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at the cache folder: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == os.Getuid() && info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("close the cache folder to others: %w", err)
		}
	}
	return nil
}
