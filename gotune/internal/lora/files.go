package lora

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// writeFile puts data under path whole or not at all.
func writeFile(path string, data []byte) error {
	return atomically(path, int64(len(data)), func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// copyFile copies a file, following links, whole or not at all.
func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("lora: copy %s: %w", from, err)
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return fmt.Errorf("lora: copy %s: %w", from, err)
	}
	return atomically(to, info.Size(), func(f *os.File) error {
		_, err := io.Copy(f, src)
		return err
	})
}

// atomically lets fill write a temporary file, brings it to disk and renames it.
func atomically(path string, size int64, fill func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.incomplete")
	if err != nil {
		return fmt.Errorf("lora: write %s: %w", path, err)
	}
	err = errors.Join(f.Chmod(0o644), fill(f), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error is the one to report
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return &safetensors.DiskFullError{Path: path, Wanted: size, Free: -1, Err: err}
		}
		return fmt.Errorf("lora: write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a folder durable, where the system can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("lora: sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("lora: sync %s: %w", dir, err)
	}
	return nil
}
