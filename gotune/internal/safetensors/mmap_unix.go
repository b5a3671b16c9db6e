//go:build unix

package safetensors

import (
	"os"

	"golang.org/x/sys/unix"
)

// mapFile maps a file for reading. An empty file needs no mapping.
func mapFile(f *os.File, size int64) ([]byte, func() error, error) {
	if size == 0 {
		return []byte{}, func() error { return nil }, nil
	}
	if int64(int(size)) != size {
		return nil, nil, unix.EFBIG
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	return data, func() error { return unix.Munmap(data) }, nil
}

// advise asks for a tensor's pages or gives them back. Pages that it shares with
// its neighbours are fetched, but not given back.
func (f *File) advise(t Tensor, want bool) {
	if len(t.Data) == 0 {
		return
	}
	page := int64(os.Getpagesize())
	e := f.header.entries[f.header.index[t.Name]]
	from, to := f.header.size+e.begin, f.header.size+e.end
	advice := unix.MADV_WILLNEED
	if want {
		from = from / page * page
	} else {
		from, to, advice = (from+page-1)/page*page, to/page*page, unix.MADV_DONTNEED
	}
	if from < to {
		_ = unix.Madvise(f.data[from:to], advice) // a hint: a system that refuses it only keeps the pages
	}
}

// freeSpace returns the bytes that a user may still write in a folder.
func freeSpace(dir string) (int64, bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}

// syncDir makes a rename in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
