package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Writer writes one file, tensor by tensor. It must end with Commit or Abort;
// Abort after Commit does nothing, so it can be deferred.
type Writer struct {
	path  string
	file  *os.File // temporary, in the same folder
	specs []Spec
	next  int   // index of the tensor to come
	total int64 // bytes of the whole file
	err   error // first failure; all later calls repeat it
}

// Create starts a file at path that will hold the tensors of specs, in that
// order. It writes the header to a temporary file beside path, after it has
// checked that the disk has room for all.
func Create(path string, specs []Spec, metadata map[string]string) (*Writer, error) {
	head, total, err := encodeHeader(specs, metadata)
	if err != nil {
		return nil, fmt.Errorf("safetensors: write %s: %w", path, err)
	}
	dir := filepath.Dir(path)
	if free, ok := freeSpace(dir); ok && free < total {
		return nil, &DiskFullError{path, total, free, nil}
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.incomplete")
	if err != nil {
		return nil, fmt.Errorf("safetensors: write %s: %w", path, err)
	}
	w := &Writer{path: path, file: f, specs: slices.Clone(specs), total: total}
	if err := f.Chmod(0o644); err != nil {
		return nil, w.fail(err)
	}
	if _, err := f.Write(head); err != nil {
		return nil, w.fail(err)
	}
	return w, nil
}

// WriteTensor adds the next tensor. Name, type and shape must be those of the
// spec at this place.
func (w *Writer) WriteTensor(t Tensor) error {
	if w.err != nil {
		return w.err
	}
	if w.next == len(w.specs) {
		return w.fail(fmt.Errorf("tensor %q comes after the %d announced ones", t.Name, w.next))
	}
	s := w.specs[w.next]
	if t.Name != s.Name || t.DType != s.DType || !slices.Equal(t.Shape, s.Shape) {
		return w.fail(fmt.Errorf("tensor %d is %q %s%v, announced was %q %s%v", w.next, t.Name, t.DType, t.Shape, s.Name, s.DType, s.Shape))
	}
	if err := t.check(); err != nil {
		return w.fail(err)
	}
	if _, err := w.file.Write(t.Data); err != nil {
		return w.fail(err)
	}
	w.next++
	return nil
}

// Commit brings the file to disk and gives it its name, replacing a file that
// was there. It fails, and leaves no file, if a tensor is missing.
func (w *Writer) Commit() error {
	if w.err != nil {
		return w.err
	}
	if w.next < len(w.specs) {
		return w.fail(fmt.Errorf("%d of %d tensors were written; the next is %q", w.next, len(w.specs), w.specs[w.next].Name))
	}
	temp := w.file.Name()
	if err := w.file.Sync(); err != nil {
		return w.fail(err)
	}
	if err := w.file.Close(); err != nil {
		return w.fail(err)
	}
	if err := os.Rename(temp, w.path); err != nil {
		return w.fail(err)
	}
	w.err = errDone
	if err := syncDir(filepath.Dir(w.path)); err != nil {
		return fmt.Errorf("safetensors: write %s: sync the folder: %w", w.path, err)
	}
	return nil
}

var errDone = errors.New("safetensors: the file is finished")

// Abort gives up and removes what was written.
func (w *Writer) Abort() {
	if w.err == nil {
		_ = w.fail(errors.New("given up"))
	}
}

// fail records err, removes the temporary file and returns the error to report.
func (w *Writer) fail(err error) error {
	_ = w.file.Close()
	_ = os.Remove(w.file.Name())
	if isFull(err) {
		free, ok := freeSpace(filepath.Dir(w.path))
		if !ok {
			free = -1
		}
		w.err = &DiskFullError{w.path, w.total, free, err}
	} else {
		w.err = fmt.Errorf("safetensors: write %s: %w", w.path, err)
	}
	return w.err
}

// Write writes tensors to path in the official writer's order (see [SortSpecs]),
// so that equal tensors give equal files. The file appears complete or not at all.
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	order := slices.Clone(tensors)
	slices.SortStableFunc(order, func(a, b Tensor) int { return compareSpecs(a.Spec(), b.Spec()) })
	specs := make([]Spec, len(order))
	for i, t := range order {
		specs[i] = t.Spec()
	}
	w, err := Create(path, specs, metadata)
	if err != nil {
		return err
	}
	defer w.Abort()
	for _, t := range order {
		if err := w.WriteTensor(t); err != nil {
			return err
		}
	}
	return w.Commit()
}

// SortSpecs puts specs in the official writer's order: by type, the largest
// alignment first, then by name. Every tensor is then aligned to its type.
func SortSpecs(specs []Spec) { slices.SortStableFunc(specs, compareSpecs) }

func compareSpecs(a, b Spec) int {
	if d := a.DType.rank() - b.DType.rank(); d != 0 {
		return d
	}
	return bytes.Compare([]byte(a.Name), []byte(b.Name))
}

// encodeHeader returns the bytes before the first value, padded with spaces to a
// multiple of 8, and the size of the whole file.
func encodeHeader(specs []Spec, metadata map[string]string) ([]byte, int64, error) {
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	b.WriteByte('{')
	if len(metadata) > 0 {
		b.WriteString(`"__metadata__":{`)
		for i, k := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%s:%s", quote(k), quote(metadata[k]))
		}
		b.WriteByte('}')
	}
	at, seen := int64(0), map[string]bool{}
	for _, s := range specs {
		if s.Name == "__metadata__" || seen[s.Name] {
			return nil, 0, fmt.Errorf("the tensor name %q is given twice or reserved", s.Name)
		}
		seen[s.Name] = true
		n, err := s.Bytes()
		if err != nil {
			return nil, 0, err
		}
		if at > 1<<62-n {
			return nil, 0, fmt.Errorf("the tensors are too large for one file")
		}
		if b.Len() > 9 {
			b.WriteByte(',')
		}
		shape := s.Shape
		if shape == nil {
			shape = []int{}
		}
		dims, err := json.Marshal(shape)
		if err != nil {
			return nil, 0, err
		}
		fmt.Fprintf(&b, `%s:{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, quote(s.Name), s.DType, dims, at, at+n)
		at += n
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	head := b.Bytes()
	if len(head)-8 > maxHeader {
		return nil, 0, fmt.Errorf("the header takes %d bytes, the format allows %d", len(head)-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(head, uint64(len(head)-8))
	return head, int64(len(head)) + at, nil
}

// quote writes s as JSON without escaping <, > and &, as other writers do.
func quote(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return `""`
	}
	return string(bytes.TrimRight(b.Bytes(), "\n"))
}

// FreeSpace returns the bytes that may still be written in a folder; ok is false
// where the system does not tell.
func FreeSpace(dir string) (free int64, ok bool) { return freeSpace(dir) }
