// Package notebooks carries gotune's embedded example: the model gopher-5m and
// the instruction data set go-instruct, so that the walkthrough runs from a clean
// clone without a download. The notebooks themselves lie beside this file.
//
// How the files were made: scripts/pretrain; what they are: the README of each folder.
package notebooks

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Folders of the two embedded things, below the folder that [Unpack] returns. Each is
// laid out as on the Hugging Face Hub.
const (
	ModelDir   = "gopher-5m"   // config.json, model.safetensors, tokenizer files
	DatasetDir = "go-instruct" // train.parquet (1,000 rows), heldout.parquet (100 rows)
)

//go:embed embedded
var files embed.FS

const embeddedRoot = "embedded"

// Hash is the SHA-256 over the names and contents of all embedded files, in hex.
var Hash = sync.OnceValue(func() string {
	h := sha256.New()
	// Reading embedded files cannot fail, and Unpack reports it if it does.
	_ = fs.WalkDir(files, embeddedRoot, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n", path, len(b))
		h.Write(b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))
})

// Unpack writes the embedded files below dir, unless they are there already, and
// returns the folder that holds [ModelDir] and [DatasetDir]. That folder is named by
// [Hash], so another version of gotune gets another folder, and it appears whole
// or not at all: several processes may unpack at the same time.
//
// Errors are those of the file system, such as a full disk; nothing is left behind then.
func Unpack(dir string) (string, error) {
	root := filepath.Join(dir, Hash()[:16])
	if complete(root) {
		return root, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpack the embedded model: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, ".unpack-*")
	if err != nil {
		return "", fmt.Errorf("unpack the embedded model: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := writeAll(tmp); err != nil {
		return "", fmt.Errorf("unpack the embedded model to %s: %w", dir, err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", fmt.Errorf("unpack the embedded model: %w", err)
	}
	err = os.Rename(tmp, root)
	if err == nil || complete(root) { // complete: another process was faster
		return root, nil
	}
	if !errors.Is(err, fs.ErrExist) && !isNotEmpty(root) {
		return "", fmt.Errorf("unpack the embedded model: %w", err)
	}
	// A damaged copy is in the way: put it aside, then take its place.
	if err := os.Rename(root, filepath.Join(tmp+"-damaged")); err != nil {
		return "", fmt.Errorf("unpack the embedded model: replace the damaged copy %s: %w", root, err)
	}
	defer os.RemoveAll(tmp + "-damaged")
	if err := os.Rename(tmp, root); err != nil {
		return "", fmt.Errorf("unpack the embedded model: %w", err)
	}
	return root, nil
}

func isNotEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}

// complete reports whether root holds every embedded file at its full size.
func complete(root string) bool {
	return fs.WalkDir(files, embeddedRoot, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		want, err := d.Info()
		if err != nil {
			return err
		}
		have, err := os.Stat(target(root, path))
		if err == nil && have.Size() != want.Size() {
			err = fmt.Errorf("%s has %d bytes, want %d", path, have.Size(), want.Size())
		}
		return err
	}) == nil
}

// target is where an embedded file lies below root.
func target(root, path string) string {
	return filepath.Join(root, filepath.FromSlash(path[len(embeddedRoot):]))
}

func writeAll(root string) error {
	return fs.WalkDir(files, embeddedRoot, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(target(root, path), 0o755)
		}
		b, err := files.ReadFile(path)
		if err != nil {
			return err
		}
		return writeSynced(target(root, path), b)
	})
}

func writeSynced(path string, b []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}
