//go:build unix

package ckpt

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// fullEnv makes the test binary a process whose files may not grow large.
const fullEnv = "GOTUNE_CKPT_FULL"

// saveOnFullDisk saves with a limit on the size of files, which the system
// enforces in the middle of a write, as a full disk is.
func saveOnFullDisk(dir string) error {
	signal.Ignore(syscall.SIGXFSZ)
	limit := syscall.Rlimit{Cur: 100 << 10, Max: 100 << 10}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	var t testing.T
	return saveStep(&t, dir, 7)
}

// TestFullDisk: the error says what to do, the older checkpoint is whole, and
// nothing is left of the new one.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "results")
	if err := saveStep(t, dir, 5); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), fullEnv+"="+dir)
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, want := range []string{"save " + filepath.Join(dir, "checkpoint-7"), "the disk is full", "optimizer.safetensors", "earlier checkpoints are whole", "free some space"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if items, err := os.ReadDir(dir); err != nil || len(items) != 1 {
		t.Errorf("left over: %v, %v", items, err)
	}
	verify(t, dir, 5)
}
