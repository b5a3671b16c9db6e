package ckpt

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
)

// writeFile writes b to a new file and brings it to disk.
func writeFile(path string, b []byte) error {
	return create(path, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

// copyFile copies from to a new file and brings it to disk.
func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return create(to, func(f *os.File) error {
		_, err := io.Copy(f, in)
		return err
	})
}

func create(path string, fill func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir brings a folder's entries to disk.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// sum is a file's size and SHA-256 in hex.
func sum(path string) (fileSum, error) {
	f, err := os.Open(path)
	if err != nil {
		return fileSum{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return fileSum{n, hex.EncodeToString(h.Sum(nil))}, err
}
