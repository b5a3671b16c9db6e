//go:build !unix

package safetensors

import (
	"io"
	"os"
)

// mapFile reads the whole file where there is no mapping.
func mapFile(f *os.File, size int64) ([]byte, func() error, error) {
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && err != io.EOF {
		return nil, nil, err
	}
	return data, func() error { return nil }, nil
}

func (f *File) advise(Tensor, bool) {}

func freeSpace(string) (int64, bool) { return 0, false }

func syncDir(string) error { return nil }
