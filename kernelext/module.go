package kernelext

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	source "github.com/gotune/gotune"
)

// ModulePath is the module that cells import the client from.
const ModulePath = "github.com/gotune/gotune"

// clientFiles are the contents of the client's module by path, without tests.
var clientFiles = sync.OnceValue(func() map[string][]byte {
	files := map[string][]byte{}
	err := fs.WalkDir(source.Client, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		files[path], err = fs.ReadFile(source.Client, path)
		return err
	})
	if err != nil { // an embedded file system has no failing reads
		panic("kernelext: " + err.Error())
	}
	files["go.mod"] = minimalModule(files["go.mod"])
	return files
})

// minimalModule is go.mod without its requirements: the client imports the standard library only.
func minimalModule(mod []byte) []byte {
	version := regexp.MustCompile(`(?m)^go \S+$`).Find(mod)
	return fmt.Appendf(nil, "module %s\n\n%s\n", ModulePath, version)
}

// ModuleVersion is the version of the client that this binary carries: v0.1.0-h followed by twelve
// digits of the SHA-256 of its files, since Go's module cache keeps what it has under a version.
var ModuleVersion = sync.OnceValue(func() string {
	h := sha256.New()
	for _, path := range sorted(clientFiles()) {
		fmt.Fprintf(h, "%s %d\n%s", path, len(clientFiles()[path]), clientFiles()[path])
	}
	return "v0.1.0-h" + hex.EncodeToString(h.Sum(nil))[:12]
})

// WriteModule writes the client as a file module proxy below dir, in a folder of its version, and
// returns that folder: https://go.dev/ref/mod#goproxy-protocol. What is there already is kept.
func WriteModule(dir string) (string, error) {
	version := ModuleVersion()
	root := filepath.Join(dir, version)
	at := filepath.Join(root, filepath.FromSlash(ModulePath), "@v")
	if _, err := os.Stat(filepath.Join(at, "list")); err == nil {
		return root, nil
	}
	archive, err := moduleZip()
	if err != nil {
		return "", fmt.Errorf("pack the client's module: %w", err)
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return "", fmt.Errorf("make the client's module: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{version + ".info", encode(object{"Version": version, "Time": "2026-01-01T00:00:00Z"})},
		{version + ".mod", clientFiles()["go.mod"]},
		{version + ".zip", archive},
		{"list", []byte(version + "\n")}, // last: its presence says that all is there
	} {
		if err := writeFile(filepath.Join(at, f.name), f.data, 0o644); err != nil {
			return "", fmt.Errorf("make the client's module: %w", err)
		}
	}
	return root, nil
}

// moduleZip is the module's archive, the same bytes each time.
func moduleZip() ([]byte, error) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, path := range sorted(clientFiles()) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: ModulePath + "@" + ModuleVersion() + "/" + path, Method: zip.Deflate,
			Modified: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(clientFiles()[path]); err != nil {
			return nil, err
		}
	}
	err := z.Close()
	return b.Bytes(), err
}

// writeFile writes a file atomically: readers see the old one or the new one.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	for _, step := range []func() error{func() error { return f.Chmod(mode) }, f.Sync} {
		if err == nil {
			err = step()
		}
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}
