package safetensors

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
)

// File is an open file of tensors. It is safe for concurrent use, except for
// Close.
type File struct {
	path   string
	header *header
	data   []byte // the whole file, mapped
	unmap  func() error
	open   *os.File
}

// Open maps the file at path and checks its header. The errors are
// [*TruncatedError] for a file cut off, [*FormatError] for one that breaks a rule
// of the format, and those of the file system.
//
// The file must not be shortened while it is open: the system ends a process
// that reads a mapped page behind a file's end.
func Open(path string) (opened *File, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("safetensors: open %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, &FormatError{Path: path, What: "this is no regular file"}
	}
	first := make([]byte, min(8, info.Size()))
	if _, err := io.ReadFull(f, first); err != nil {
		return nil, fmt.Errorf("safetensors: read %s: %w", path, err)
	}
	n, err := headerSize(path, first, info.Size())
	if err != nil {
		return nil, err
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(f, text); err != nil {
		return nil, fmt.Errorf("safetensors: read %s: %w", path, err)
	}
	h, err := parseHeader(path, text, info.Size())
	if err != nil {
		return nil, err
	}
	data, unmap, err := mapFile(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("safetensors: map %s (%d bytes): %w", path, info.Size(), err)
	}
	return &File{path, h, data, unmap, f}, nil
}

// Close unmaps the file. The Data of its tensors and their readers must not be
// used any more.
func (f *File) Close() error {
	if f.unmap == nil {
		return nil
	}
	unmap := f.unmap
	f.unmap, f.data = nil, nil
	return errors.Join(unmap(), f.open.Close())
}

// Path returns the path that the file was opened with.
func (f *File) Path() string { return f.path }

// Size returns the file's size in bytes.
func (f *File) Size() int64 {
	if n := len(f.header.entries); n > 0 {
		return f.header.size + f.header.entries[n-1].end
	}
	return f.header.size
}

// Names lists the tensors in the order in which they lie in the file.
func (f *File) Names() []string {
	names := make([]string, len(f.header.entries))
	for i, e := range f.header.entries {
		names[i] = e.spec.Name
	}
	return names
}

// Metadata returns a copy of the file's free text, by key. PyTorch's writers set
// "format" to "pt".
func (f *File) Metadata() map[string]string { return maps.Clone(f.header.metadata) }

// Spec describes a tensor without touching its values.
func (f *File) Spec(name string) (Spec, bool) {
	i, ok := f.header.index[name]
	if !ok {
		return Spec{}, false
	}
	return f.header.entries[i].spec, true
}

// Tensor returns a tensor whose Data is a view of the mapped file: it costs no
// memory until it is read, must not be written to, and ends with Close. A name
// that the file lacks gives a [*NotFoundError].
func (f *File) Tensor(name string) (Tensor, error) {
	i, ok := f.header.index[name]
	if !ok {
		return Tensor{}, &NotFoundError{f.path, name, len(f.header.entries)}
	}
	if f.data == nil {
		return Tensor{}, fmt.Errorf("safetensors: read tensor %q: %s is closed", name, f.path)
	}
	e := f.header.entries[i]
	from, to := f.header.size+e.begin, f.header.size+e.end
	return Tensor{e.spec.Name, e.spec.DType, e.spec.Shape, f.data[from:to:to]}, nil
}

// Reader reads the bytes of a tensor from the file, past the mapping: copying a
// piece that stays in the cache takes a fraction of the time that the system
// needs to map its pages, so this is the way to go through large weights once.
// The reader is safe for concurrent use and ends with Close; a file that was
// shortened meanwhile gives an error.
func (f *File) Reader(name string) (io.ReaderAt, Spec, error) {
	t, err := f.Tensor(name)
	if err != nil {
		return nil, Spec{}, err
	}
	e := f.header.entries[f.header.index[name]]
	return io.NewSectionReader(f.open, f.header.size+e.begin, e.end-e.begin), t.Spec(), nil
}

// Want tells the system that a tensor is about to be read, so that it starts to
// fetch it from disk. It is a hint: an unknown name does nothing.
func (f *File) Want(name string) {
	if t, err := f.Tensor(name); err == nil {
		f.advise(t, true)
	}
}

// Drop gives back the memory that a tensor's pages hold in this process. The
// tensor stays usable: its values are mapped again when they are read.
func (f *File) Drop(name string) {
	if t, err := f.Tensor(name); err == nil {
		f.advise(t, false)
	}
}
