package dataset

import (
	"encoding/binary"
	"errors"
)

// A flatTable is a table in a FlatBuffers message, read with every offset
// checked: a bad one sets *bad and reads as the field's default. See the
// FlatBuffers internals page, "Format".
type flatTable struct {
	b      []byte
	at     int
	vtable []byte // after its two sizes
	bad    *error
}

var errFlat = errors.New("a message that contradicts itself")

// flatRoot is the table a message starts with.
func flatRoot(b []byte, bad *error) flatTable {
	if len(b) < 4 {
		*bad = errFlat
		return flatTable{bad: bad}
	}
	return newFlatTable(b, uint64(binary.LittleEndian.Uint32(b)), bad)
}

func newFlatTable(b []byte, at uint64, bad *error) flatTable {
	t := flatTable{bad: bad}
	if at+4 > uint64(len(b)) {
		*bad = errFlat
		return t
	}
	v := int64(at) - int64(int32(binary.LittleEndian.Uint32(b[at:])))
	if v < 0 || v+4 > int64(len(b)) {
		*bad = errFlat
		return t
	}
	size := int64(binary.LittleEndian.Uint16(b[v:]))
	if size < 4 || size%2 != 0 || v+size > int64(len(b)) {
		*bad = errFlat
		return t
	}
	t.b, t.at, t.vtable = b, int(at), b[v+4:v+size]
	return t
}

// field is the position of field i of a size in bytes, or -1 when it is absent.
func (t flatTable) field(i, size int) int {
	if t.b == nil || 2*i+2 > len(t.vtable) {
		return -1
	}
	off := int(binary.LittleEndian.Uint16(t.vtable[2*i:]))
	if off == 0 {
		return -1
	}
	if off < 4 || t.at+off+size > len(t.b) {
		*t.bad = errFlat
		return -1
	}
	return t.at + off
}

func (t flatTable) int(i, size int, missing int64) int64 {
	p := t.field(i, size)
	if p < 0 {
		return missing
	}
	switch size {
	case 1:
		return int64(int8(t.b[p]))
	case 2:
		return int64(int16(binary.LittleEndian.Uint16(t.b[p:])))
	case 4:
		return int64(int32(binary.LittleEndian.Uint32(t.b[p:])))
	}
	return int64(binary.LittleEndian.Uint64(t.b[p:]))
}

// target follows the offset in field i; ok is false when the field is absent.
func (t flatTable) target(i int) (at uint64, ok bool) {
	p := t.field(i, 4)
	if p < 0 {
		return 0, false
	}
	return uint64(p) + uint64(binary.LittleEndian.Uint32(t.b[p:])), true
}

// table is the table in field i; an absent one has only defaults.
func (t flatTable) table(i int) (flatTable, bool) {
	at, ok := t.target(i)
	if !ok {
		return flatTable{bad: t.bad}, false
	}
	return newFlatTable(t.b, at, t.bad), true
}

// vector is the bytes of the vector in field i and its number of elements.
func (t flatTable) vector(i, size int) ([]byte, int) {
	at, ok := t.target(i)
	if !ok {
		return nil, 0
	}
	if at+4 > uint64(len(t.b)) {
		*t.bad = errFlat
		return nil, 0
	}
	n := uint64(binary.LittleEndian.Uint32(t.b[at:]))
	if at+4+n*uint64(size) > uint64(len(t.b)) {
		*t.bad = errFlat
		return nil, 0
	}
	return t.b[at+4 : at+4+n*uint64(size)], int(n)
}

func (t flatTable) text(i int) string {
	b, _ := t.vector(i, 1)
	return string(b)
}

// tables is the vector of tables in field i.
func (t flatTable) tables(i int) []flatTable {
	at, ok := t.target(i)
	if !ok {
		return nil
	}
	b, n := t.vector(i, 4)
	var out []flatTable
	for k := range n {
		if *t.bad != nil {
			return nil
		}
		pos := at + 4 + 4*uint64(k)
		out = append(out, newFlatTable(t.b, pos+uint64(binary.LittleEndian.Uint32(b[4*k:])), t.bad))
	}
	return out
}
