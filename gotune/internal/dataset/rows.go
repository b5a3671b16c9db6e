package dataset

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// rows streams the rows of one file.
type rows interface {
	columns() []string  // as far as known
	next() (Row, error) // io.EOF after the last row
	progress() (done, total int64)
	close()
}

// The formats a file can have.
const (
	formatJSON    = "json"
	formatCSV     = "csv"
	formatText    = "text"
	formatParquet = "parquet"
	formatArrow   = "arrow"
)

// suffixFormat maps file suffixes to formats, as datasets does.
var suffixFormat = map[string]string{
	".json": formatJSON, ".jsonl": formatJSON, ".ndjson": formatJSON,
	".csv": formatCSV, ".tsv": formatCSV, ".txt": formatText,
	".parquet": formatParquet, ".geoparquet": formatParquet, ".gpq": formatParquet,
	".arrow": formatArrow,
}

// formatOf returns the format of a file name, or "".
func formatOf(path string) string {
	name := strings.ToLower(filepath.Base(path))
	return suffixFormat[filepath.Ext(strings.TrimSuffix(name, ".gz"))]
}

// openRows opens a file; format "" is found from its name, then its first bytes.
func openRows(path, format string) (r rows, err error) {
	defer recoverTo(&err, path)
	if f := formatOf(path); f != "" {
		format = f
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{Op: "read", Object: path, Found: err.Error(), Wanted: "a readable file", Kind: ErrNotFound, Err: err}
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, &Error{Op: "read", Object: path, Found: "no regular file", Wanted: "a file", Kind: ErrNotFound, Err: err}
	}
	if format == "" {
		format = sniff(f)
	}
	switch format {
	case formatJSON:
		r, err = openJSON(f, path, st.Size())
	case formatCSV:
		r, err = openCSV(f, path, st.Size())
	case formatText:
		r, err = openText(f, path, st.Size())
	case formatParquet:
		r, err = openParquet(f, path, st.Size())
	case formatArrow:
		r, err = openArrow(f, path, st.Size())
	default:
		err = &Error{Op: "read", Object: path, Found: "a file of unknown kind", Wanted: "parquet, json, jsonl, csv, tsv, txt or arrow", Kind: ErrFormat,
			Next: "rename it with the suffix of its format, or convert it"}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

// sniff looks at a file's first bytes for a format that can't be mistaken.
func sniff(f *os.File) string {
	var b [8]byte
	n, _ := f.ReadAt(b[:], 0)
	switch head := string(b[:n]); {
	case strings.HasPrefix(head, "PAR1"):
		return formatParquet
	case strings.HasPrefix(head, "ARROW1"):
		return formatArrow
	case strings.HasPrefix(strings.TrimLeft(head, " \t\r\n\ufeff"), "{"), strings.HasPrefix(strings.TrimLeft(head, " \t\r\n\ufeff"), "["):
		return formatJSON
	}
	return ""
}

// recoverTo turns a decoder's panic on a damaged file into an error.
func recoverTo(err *error, path string) {
	if p := recover(); p != nil {
		*err = corrupt(path, fmt.Sprintf("the decoder gave up: %v", p), "a whole file")
	}
}

func safeNext(r rows, path string) (row Row, err error) {
	defer recoverTo(&err, path)
	return r.next()
}

// plainFile is what the readers of text formats share: a byte stream behind
// optional gzip, and how far it is.
type plainFile struct {
	f     *os.File
	path  string
	size  int64
	count *countingReader
	r     io.Reader
}

func newPlainFile(f *os.File, path string, size int64) (*plainFile, error) {
	p := &plainFile{f: f, path: path, size: size}
	return p, p.rewind()
}

// rewind starts again at the first byte.
func (p *plainFile) rewind() error {
	if _, err := p.f.Seek(0, io.SeekStart); err != nil {
		return &Error{Op: "read", Object: p.path, Found: err.Error(), Kind: ErrNotFound, Err: err}
	}
	p.count = &countingReader{r: p.f}
	p.r = p.count
	if strings.HasSuffix(strings.ToLower(p.path), ".gz") {
		z, err := gzip.NewReader(p.count)
		if err != nil {
			return corrupt(p.path, err.Error(), "a gzip file")
		}
		p.r = z
	}
	return nil
}

func (p *plainFile) progress() (int64, int64) { return p.count.n, p.size }
func (p *plainFile) close()                   { p.f.Close() }

// readError explains a failed read of the stream.
func (p *plainFile) readError(err error, object string) error {
	if err == io.ErrUnexpectedEOF {
		return corrupt(object, "the compressed data end too early", "a whole file")
	}
	return &Error{Op: "read", Object: object, Found: err.Error(), Kind: ErrCorrupt, Err: err, Next: "get the file again, or check the disk"}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
