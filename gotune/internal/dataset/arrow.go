package dataset

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Message kinds of the Arrow IPC format (Message.fbs).
const (
	arrowSchema     = 1
	arrowDictionary = 2
	arrowBatch      = 3
)

// Bounds of a message's metadata and of the schema. Tables can name the same
// child twice, so a small message could stand for a huge tree.
const (
	maxArrowMessage = 64 << 20
	maxArrowFields  = 1 << 14
)

// arrowRows reads an Arrow IPC stream (what save_to_disk writes) or file. A file
// is a stream between two marks, so both are read from the front, one record
// batch at a time. See the Arrow columnar format, "Serialization and IPC".
type arrowRows struct {
	f      *os.File
	path   string
	pos    int64
	size   int64 // where the messages end at the latest
	fields []*arrowField
	names  []string
	dicts  map[int64]*arrowVector

	batch []*arrowVector
	n, at int64
	row   int64
	done  bool
}

func openArrow(f *os.File, path string, size int64) (rows, error) {
	r := &arrowRows{f: f, path: path, size: size, dicts: map[int64]*arrowVector{}}
	var head, tail [8]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, corrupt(path, fmt.Sprintf("%d bytes", size), "an Arrow stream or file")
	}
	if string(head[:6]) == "ARROW1" {
		if _, err := f.ReadAt(tail[2:], size-6); err != nil || string(tail[2:]) != "ARROW1" || size < 20 {
			return nil, corrupt(path, "no ARROW1 at the end", "a whole Arrow file")
		}
		r.pos, r.size = 8, size-6
	}
	meta, _, err := r.message()
	if err != nil {
		return nil, err
	}
	var bad error
	msg := flatRoot(meta, &bad)
	schema, _ := msg.table(2)
	if kind := msg.int(1, 1, 0); kind != arrowSchema && bad == nil {
		return nil, corrupt(path, fmt.Sprintf("a first message of kind %d", kind), "the schema")
	}
	if schema.int(0, 2, 0) != 0 && bad == nil {
		return nil, &Error{Op: "read", Object: path, Found: "big-endian numbers", Wanted: "little-endian ones", Kind: ErrFormat, Next: "write the file again on a usual machine"}
	}
	left := maxArrowFields
	for _, t := range schema.tables(1) {
		fd, err := newArrowField(t, 0, &left)
		if err != nil {
			return nil, r.corrupt(err.Error())
		}
		r.fields = append(r.fields, fd)
		r.names = append(r.names, fd.name)
	}
	if bad != nil {
		return nil, r.corrupt(bad.Error())
	}
	return r, nil
}

func (r *arrowRows) corrupt(found string) error {
	return corrupt(fmt.Sprintf("%s, row %d", r.path, r.row), found, "an Arrow stream or file")
}

func (r *arrowRows) columns() []string        { return r.names }
func (r *arrowRows) progress() (int64, int64) { return r.pos, r.size }
func (r *arrowRows) close()                   { r.f.Close() }
func (r *arrowRows) read(p []byte, at int64) error {
	if at < 0 || at+int64(len(p)) > r.size {
		return r.corrupt("the data end too early")
	}
	if _, err := r.f.ReadAt(p, at); err != nil {
		return r.corrupt(err.Error())
	}
	return nil
}

// message reads the next message's metadata and the place of its body; nil
// metadata is the end mark.
func (r *arrowRows) message() (meta []byte, body int64, err error) {
	var b [4]byte
	if err := r.read(b[:], r.pos); err != nil {
		return nil, 0, err
	}
	r.pos += 4
	n := binary.LittleEndian.Uint32(b[:])
	if n == 0xFFFFFFFF { // absent before format 0.15
		if err := r.read(b[:], r.pos); err != nil {
			return nil, 0, err
		}
		r.pos += 4
		n = binary.LittleEndian.Uint32(b[:])
	}
	if n == 0 {
		return nil, 0, nil
	}
	if int64(n) > r.size-r.pos || n > maxArrowMessage {
		return nil, 0, r.corrupt(fmt.Sprintf("a message of %d bytes", n))
	}
	meta = make([]byte, n)
	if err := r.read(meta, r.pos); err != nil {
		return nil, 0, err
	}
	r.pos += int64(n)
	body = r.pos
	var bad error
	length := flatRoot(meta, &bad).int(3, 8, 0)
	if bad != nil || length < 0 || length > r.size-r.pos {
		return nil, 0, r.corrupt(fmt.Sprintf("a message with a body of %d bytes where %d are left", length, r.size-r.pos))
	}
	r.pos += length
	return meta, body, nil
}

func (r *arrowRows) next() (Row, error) {
	for r.at >= r.n {
		if r.done {
			return Row{}, io.EOF
		}
		if err := r.fill(); err != nil {
			return Row{}, err
		}
	}
	row := Row{Columns: r.names, Values: make([]any, len(r.batch))}
	for i, v := range r.batch {
		val, err := v.value(r.at)
		if err != nil {
			return Row{}, r.corrupt(fmt.Sprintf("column %q: %v", r.names[i], err))
		}
		row.Values[i] = val
	}
	r.at++
	r.row++
	return row, nil
}

// fill reads messages up to the next record batch.
func (r *arrowRows) fill() error {
	meta, body, err := r.message()
	if err != nil {
		return err
	}
	if meta == nil {
		r.done = true
		return nil
	}
	var bad error
	msg := flatRoot(meta, &bad)
	header, _ := msg.table(2)
	switch kind := msg.int(1, 1, 0); kind {
	case arrowBatch:
		r.batch, r.n, err = r.recordBatch(header, r.fields, body, r.pos-body)
		r.at = 0
	case arrowDictionary:
		err = r.dictionary(header, body, r.pos-body)
	default:
		err = fmt.Errorf("a message of kind %d", kind)
	}
	if bad != nil {
		err = bad
	}
	if err != nil {
		return r.corrupt(err.Error())
	}
	return nil
}

// dictionary reads the values of a dictionary-encoded column.
func (r *arrowRows) dictionary(t flatTable, body, length int64) error {
	id := t.int(0, 8, 0)
	var field *arrowField
	var find func(fs []*arrowField)
	find = func(fs []*arrowField) {
		for _, f := range fs {
			if f.dict && f.dictID == id {
				field = f
			}
			find(f.children)
		}
	}
	find(r.fields)
	if field == nil {
		return fmt.Errorf("a dictionary that no column uses")
	}
	if t.int(2, 1, 0) != 0 {
		return fmt.Errorf("a dictionary in several parts, which is not supported")
	}
	values := *field
	values.dict = false
	data, _ := t.table(1)
	vs, _, err := r.recordBatch(data, []*arrowField{&values}, body, length)
	if err == nil {
		r.dicts[id] = vs[0]
	}
	return err
}

// recordBatch reads the columns of one batch.
func (r *arrowRows) recordBatch(t flatTable, fields []*arrowField, body, length int64) ([]*arrowVector, int64, error) {
	a := arrowBody{r: r, data: make([]byte, length)}
	if err := r.read(a.data, body); err != nil {
		return nil, 0, err
	}
	a.nodes, a.nNodes = t.vector(1, 16)
	a.bufs, a.nBufs = t.vector(2, 16)
	a.codec = -1
	if c, ok := t.table(3); ok {
		a.codec = c.int(0, 1, 0)
	}
	a.budget = maxArrowExpand
	n := t.int(0, 8, 0)
	if *t.bad != nil {
		return nil, 0, *t.bad
	}
	var out []*arrowVector
	for _, f := range fields {
		v, err := a.vector(f)
		if err != nil {
			return nil, 0, err
		}
		if v.n < n {
			return nil, 0, fmt.Errorf("%d values in a batch of %d rows", v.n, n)
		}
		out = append(out, v)
	}
	if n < 0 || n > a.mostRows() {
		return nil, 0, fmt.Errorf("a batch of %d rows in %d bytes", n, length)
	}
	return out, n, nil
}

// maxArrowExpand bounds what the buffers of one batch may be decompressed to.
const maxArrowExpand = 4 << 30

// An arrowBody hands out the nodes and buffers of a batch, which lie in the
// order of the schema's fields, depth first.
type arrowBody struct {
	r           *arrowRows
	data        []byte
	nodes, bufs []byte
	nNodes      int
	nBufs       int
	codec       int64 // -1: none
	budget      int64
}

// mostRows bounds a length that needs no bytes, as of a column of nulls.
func (a *arrowBody) mostRows() int64 {
	if a.codec >= 0 {
		return 1 << 26
	}
	return 8*int64(len(a.data)) + 1<<20
}

func (a *arrowBody) node() (n int64, err error) {
	if a.nNodes == 0 {
		return 0, fmt.Errorf("fewer columns than the schema has")
	}
	a.nNodes--
	n = int64(binary.LittleEndian.Uint64(a.nodes))
	a.nodes = a.nodes[16:]
	if n < 0 || n > a.mostRows() {
		return 0, fmt.Errorf("a column of %d values in %d bytes", n, len(a.data))
	}
	return n, nil
}

// buffer returns the next buffer and checks that it has at least want bytes; an
// absent validity bitmap has none.
func (a *arrowBody) buffer(want int64) ([]byte, error) {
	if a.nBufs == 0 {
		return nil, fmt.Errorf("fewer buffers than the schema needs")
	}
	a.nBufs--
	at, n := int64(binary.LittleEndian.Uint64(a.bufs)), int64(binary.LittleEndian.Uint64(a.bufs[8:]))
	a.bufs = a.bufs[16:]
	if at < 0 || n < 0 || at > int64(len(a.data)) || n > int64(len(a.data))-at {
		return nil, fmt.Errorf("a buffer of %d bytes at %d in a body of %d", n, at, len(a.data))
	}
	b := a.data[at : at+n]
	if a.codec >= 0 && n > 0 {
		var err error
		if b, err = a.decompress(b); err != nil {
			return nil, err
		}
	}
	if int64(len(b)) < want {
		return nil, fmt.Errorf("a buffer of %d bytes where %d are needed", len(b), want)
	}
	return b, nil
}

// decompress opens a buffer that starts with its plain length. Memory is set
// aside as bytes come, not as the length claims.
func (a *arrowBody) decompress(b []byte) ([]byte, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("a compressed buffer of %d bytes", len(b))
	}
	n := int64(binary.LittleEndian.Uint64(b))
	b = b[8:]
	if n == -1 {
		return b, nil
	}
	if n < 0 || n > a.budget {
		return nil, fmt.Errorf("a buffer that claims %d bytes from %d", n, len(b))
	}
	a.budget -= n
	var in io.Reader
	switch a.codec {
	case 0:
		in = lz4.NewReader(bytes.NewReader(b))
	case 1:
		z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxArrowExpand))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		in = z
	default:
		return nil, fmt.Errorf("the unknown codec %d", a.codec)
	}
	var out bytes.Buffer
	if m, err := io.Copy(&out, io.LimitReader(in, n+1)); err != nil || m != n {
		return nil, fmt.Errorf("a compressed buffer with %d bytes where %d are announced", m, n)
	}
	return out.Bytes(), nil
}
