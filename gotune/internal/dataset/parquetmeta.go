package dataset

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Limits of a Parquet file. A real writer stays far below all of them.
const (
	maxFooter    = 256 << 20
	maxPageBytes = 512 << 20 // plain
	maxDictBytes = 128 << 20 // plain
	maxGroupRows = 1 << 40
)

// Physical types (parquet.thrift, enum Type).
const (
	parquetBoolean = iota
	parquetInt32
	parquetInt64
	parquetInt96
	parquetFloat
	parquetDouble
	parquetByteArray
	parquetFixed
)

// Annotations of a column: the fields of the union LogicalType.
const (
	logicalString    = 1
	logicalMap       = 2
	logicalList      = 3
	logicalEnum      = 4
	logicalDecimal   = 5
	logicalDate      = 6
	logicalTimestamp = 8
	logicalInteger   = 10
	logicalJSON      = 12
	logicalFloat16   = 15
)

// convertedLogical maps the older ConvertedType to the annotation it stands for.
var convertedLogical = map[int64]int{
	0: logicalString, 1: logicalMap, 3: logicalList, 4: logicalEnum, 5: logicalDecimal, 6: logicalDate, 9: logicalTimestamp, 10: logicalTimestamp,
	11: logicalInteger, 12: logicalInteger, 13: logicalInteger, 14: logicalInteger, 19: logicalJSON,
}

// A parquetNode is a column or a group of columns of the schema.
type parquetNode struct {
	name       string
	repetition int64 // 0 required, 1 optional, 2 repeated
	def, rep   int   // largest levels
	children   []*parquetNode
	leaf       int // index of the first leaf column in or below this node
	leaves     int
	isList     bool // the one repeated child holds the elements

	// Of a leaf.
	typ      int64
	width    int64 // bytes of a fixed-length value
	logical  int
	unsigned bool
	scale    int64
	unit     int64 // of a timestamp: 1 ms, 2 µs, 3 ns
}

// A parquetChunk is where the footer says that a column of a row group is.
type parquetChunk struct {
	typ, codec, values, compressed int64
	data, dict                     int64 // offsets; dict 0: none
}

// A parquetGroup is a row group.
type parquetGroup struct {
	rows   int64
	chunks []parquetChunk
}

// A parquetMeta is the footer, every size in it compared with the file.
type parquetMeta struct {
	root   *parquetNode
	leaves []*parquetNode
	groups []parquetGroup
	rows   int64
	end    int64 // where the column data end
}

// readParquetMeta reads the footer. Nothing is allocated from a size in the file
// that the file could not hold. See the format's README and parquet.thrift.
func readParquetMeta(r io.ReaderAt, size int64) (*parquetMeta, error) {
	var tail [8]byte
	if size < 12 {
		return nil, fmt.Errorf("%d bytes", size)
	}
	if _, err := r.ReadAt(tail[:4], 0); err != nil || string(tail[:4]) != "PAR1" {
		return nil, fmt.Errorf("no PAR1 at the start")
	}
	if _, err := r.ReadAt(tail[:], size-8); err != nil || string(tail[4:]) != "PAR1" {
		return nil, fmt.Errorf("no PAR1 at the end")
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if n > size-12 || n > maxFooter {
		return nil, fmt.Errorf("a footer of %d bytes in a file of %d", n, size)
	}
	footer := make([]byte, n)
	if _, err := r.ReadAt(footer, size-8-n); err != nil {
		return nil, err
	}
	m := &parquetMeta{end: size - 8 - n}
	if err := m.parse(footer); err != nil {
		return nil, err
	}
	return m, m.check()
}

// parse walks FileMetaData.
func (m *parquetMeta) parse(footer []byte) error {
	t := &thriftReader{b: footer}
	return t.fields(0, func(id int, typ byte) (err error) {
		switch {
		case id == 2 && typ == thriftList:
			return m.schema(t)
		case id == 3 && typ == thriftI64:
			m.rows, err = t.int()
			return err
		case id == 4 && typ == thriftList:
			return t.structs(func() error {
				g, err := readGroup(t)
				m.groups = append(m.groups, g)
				return err
			})
		}
		return t.skip(typ, 0)
	})
}

// check compares the parts of the footer with each other and with the file.
func (m *parquetMeta) check() error {
	if m.root == nil || len(m.leaves) == 0 {
		return fmt.Errorf("a footer without columns")
	}
	rows := int64(0)
	for _, g := range m.groups {
		if g.rows < 0 || g.rows > maxGroupRows || len(g.chunks) != len(m.leaves) {
			return fmt.Errorf("a group of %d rows with %d columns, where the schema has %d", g.rows, len(g.chunks), len(m.leaves))
		}
		if rows += g.rows; rows < 0 {
			return errThrift
		}
		for i, c := range g.chunks {
			at := c.start()
			if at < 4 || c.compressed < 0 || c.compressed > m.end-at || c.values < g.rows || c.typ != m.leaves[i].typ {
				return fmt.Errorf("column %q: %d values of type %d in %d bytes at %d, in a group of %d rows and %d bytes of data", m.leaves[i].name, c.values, c.typ, c.compressed, at, g.rows, m.end)
			}
		}
	}
	if rows != m.rows {
		return fmt.Errorf("%d rows in all and %d in the groups", m.rows, rows)
	}
	return nil
}

// start is the offset of the chunk's first page.
func (c parquetChunk) start() int64 {
	if c.dict > 0 && c.dict < c.data {
		return c.dict
	}
	return c.data
}

// readGroup walks one RowGroup.
func readGroup(t *thriftReader) (g parquetGroup, err error) {
	err = t.fields(1, func(id int, typ byte) (err error) {
		switch {
		case id == 1 && typ == thriftList:
			return t.structs(func() error {
				c, err := readChunk(t)
				g.chunks = append(g.chunks, c)
				return err
			})
		case id == 3 && typ == thriftI64:
			g.rows, err = t.int()
			return err
		}
		return t.skip(typ, 1)
	})
	return g, err
}

// readChunk walks one ColumnChunk and its ColumnMetaData.
func readChunk(t *thriftReader) (c parquetChunk, err error) {
	seen := false
	err = t.fields(2, func(id int, typ byte) error {
		if id == 1 && typ == thriftBinary {
			return fmt.Errorf("a column in another file")
		}
		if id != 3 || typ != thriftStruct {
			return t.skip(typ, 2)
		}
		seen = true
		return t.fields(3, func(id int, typ byte) (err error) {
			into := map[int]*int64{1: &c.typ, 4: &c.codec, 5: &c.values, 7: &c.compressed, 9: &c.data, 11: &c.dict}[id]
			if into == nil || (typ != thriftI32 && typ != thriftI64) {
				return t.skip(typ, 3)
			}
			*into, err = t.int()
			return err
		})
	})
	if err == nil && !seen {
		err = fmt.Errorf("a column without metadata")
	}
	return c, err
}

// schema reads the list of SchemaElements: a tree written depth first.
func (m *parquetMeta) schema(t *thriftReader) error {
	type open struct {
		node *parquetNode
		left int64
	}
	var stack []open
	err := t.structs(func() error {
		n, children, err := schemaElement(t)
		if err != nil || children < 0 || len(stack) > maxDepth {
			return errThrift
		}
		if m.root == nil {
			m.root = n
		} else {
			if len(stack) == 0 {
				return errThrift
			}
			up := &stack[len(stack)-1]
			up.left--
			m.attach(up.node, n, children == 0)
		}
		if children > 0 {
			stack = append(stack, open{n, children})
		}
		for len(stack) > 0 && stack[len(stack)-1].left == 0 {
			n := stack[len(stack)-1].node
			n.leaves = len(m.leaves) - n.leaf
			n.isList = n.list()
			stack = stack[:len(stack)-1]
		}
		return nil
	})
	if err == nil && len(stack) > 0 {
		err = errThrift
	}
	return err
}

// attach puts a node below its group.
func (m *parquetMeta) attach(up, n *parquetNode, leaf bool) {
	up.children = append(up.children, n)
	n.def, n.rep, n.leaf = up.def, up.rep, len(m.leaves)
	if n.repetition != 0 {
		n.def++
	}
	if n.repetition == 2 {
		n.rep++
	}
	if leaf {
		n.leaves = 1
		m.leaves = append(m.leaves, n)
	}
}

// list reports a LIST group. Older writers annotate it otherwise or not at all;
// the names then tell.
func (n *parquetNode) list() bool {
	if len(n.children) != 1 || n.children[0].repetition != 2 || n.repetition == 2 || n.logical == logicalMap {
		return false
	}
	name := n.children[0].name
	return n.logical == logicalList || name == "list" || name == "bag" || name == "array"
}

// schemaElement walks one SchemaElement.
func schemaElement(t *thriftReader) (n *parquetNode, children int64, err error) {
	n = &parquetNode{typ: -1}
	converted := int64(-1)
	err = t.fields(1, func(id int, typ byte) (err error) {
		if id == 4 && typ == thriftBinary {
			b, err := t.binary()
			n.name = string(b)
			return err
		}
		if id == 10 && typ == thriftStruct {
			return n.logicalType(t)
		}
		into := map[int]*int64{1: &n.typ, 2: &n.width, 3: &n.repetition, 5: &children, 6: &converted, 7: &n.scale}[id]
		if into == nil || typ != thriftI32 {
			return t.skip(typ, 1)
		}
		*into, err = t.int()
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	if n.logical == 0 && converted >= 0 {
		n.logical = convertedLogical[converted]
		n.unsigned = n.logical == logicalInteger
		n.unit = map[int64]int64{9: 1, 10: 2}[converted]
	}
	if children == 0 && (n.typ < parquetBoolean || n.typ > parquetFixed || (n.typ == parquetFixed && (n.width <= 0 || n.width > 1<<20))) {
		return nil, 0, fmt.Errorf("column %q of type %d and width %d", n.name, n.typ, n.width)
	}
	return n, children, nil
}

// logicalType walks the union LogicalType: one field, whose number is the kind.
func (n *parquetNode) logicalType(t *thriftReader) error {
	return t.fields(2, func(kind int, typ byte) error {
		n.logical = kind
		if typ != thriftStruct {
			return t.skip(typ, 2)
		}
		return t.fields(3, func(id int, typ byte) (err error) {
			switch {
			case kind == logicalInteger && id == 2 && (typ == thriftTrue || typ == thriftFalse):
				n.unsigned = typ == thriftFalse
				return nil
			case kind == logicalDecimal && id == 1 && typ == thriftI32:
				n.scale, err = t.int()
				return err
			case kind == logicalTimestamp && id == 2 && typ == thriftStruct:
				return t.fields(4, func(id int, typ byte) error {
					n.unit = int64(id)
					return t.skip(typ, 4)
				})
			}
			return t.skip(typ, 3)
		})
	})
}
