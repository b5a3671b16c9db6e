package dataset

import (
	"encoding/binary"
	"errors"
)

// A thriftReader walks a structure in Thrift's compact protocol without
// building it, so that a footer's sizes can be checked before anything is
// allocated from them. See the Thrift specification, "compact protocol".
type thriftReader struct {
	b   []byte
	pos int
}

var errThrift = errors.New("metadata that contradict themselves")

// Wire types of the compact protocol.
const (
	thriftTrue   = 1
	thriftFalse  = 2
	thriftByte   = 3
	thriftI16    = 4
	thriftI32    = 5
	thriftI64    = 6
	thriftDouble = 7
	thriftBinary = 8
	thriftList   = 9
	thriftSet    = 10
	thriftMap    = 11
	thriftStruct = 12
	thriftUUID   = 13
)

func (t *thriftReader) byte() (byte, error) {
	if t.pos >= len(t.b) {
		return 0, errThrift
	}
	t.pos++
	return t.b[t.pos-1], nil
}

func (t *thriftReader) uvarint() (uint64, error) {
	v, n := binary.Uvarint(t.b[t.pos:])
	if n <= 0 {
		return 0, errThrift
	}
	t.pos += n
	return v, nil
}

// int reads a zigzag integer.
func (t *thriftReader) int() (int64, error) {
	u, err := t.uvarint()
	return int64(u>>1) ^ -int64(u&1), err
}

// binary reads a length and skips that many bytes.
func (t *thriftReader) binary() ([]byte, error) {
	n, err := t.uvarint()
	if err != nil || n > uint64(len(t.b)-t.pos) {
		return nil, errThrift
	}
	t.pos += int(n)
	return t.b[t.pos-int(n) : t.pos], nil
}

// fields calls read for every field of a struct; read consumes the value or
// calls skip.
func (t *thriftReader) fields(depth int, read func(id int, typ byte) error) error {
	if depth > 64 {
		return errThrift
	}
	id := 0
	for {
		h, err := t.byte()
		if err != nil {
			return err
		}
		typ := h & 15
		if typ == 0 {
			return nil
		}
		if delta := int(h >> 4); delta != 0 {
			id += delta
		} else {
			v, err := t.int()
			if err != nil {
				return err
			}
			id = int(v)
		}
		if err := read(id, typ); err != nil {
			return err
		}
	}
}

// list reads a list's head. Every element takes at least one byte, which bounds
// the count.
func (t *thriftReader) list() (n int, typ byte, err error) {
	h, err := t.byte()
	if err != nil {
		return 0, 0, err
	}
	count := uint64(h >> 4)
	if count == 15 {
		if count, err = t.uvarint(); err != nil {
			return 0, 0, err
		}
	}
	if count > uint64(len(t.b)-t.pos) {
		return 0, 0, errThrift
	}
	return int(count), h & 15, nil
}

// structs calls read for every struct of a list.
func (t *thriftReader) structs(read func() error) error {
	n, typ, err := t.list()
	if err != nil || (n > 0 && typ != thriftStruct) {
		return errThrift
	}
	for range n {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// skip consumes a value of any type.
func (t *thriftReader) skip(typ byte, depth int) error {
	if depth > 64 {
		return errThrift
	}
	switch typ {
	case thriftTrue, thriftFalse:
		return nil
	case thriftByte:
		_, err := t.byte()
		return err
	case thriftI16, thriftI32, thriftI64:
		_, err := t.uvarint()
		return err
	case thriftDouble, thriftUUID:
		n := 8
		if typ == thriftUUID {
			n = 16
		}
		if t.pos+n > len(t.b) {
			return errThrift
		}
		t.pos += n
		return nil
	case thriftBinary:
		_, err := t.binary()
		return err
	case thriftList, thriftSet:
		n, elem, err := t.list()
		for range n {
			if err != nil {
				break
			}
			if elem == thriftTrue || elem == thriftFalse { // a byte in a list
				_, err = t.byte()
			} else {
				err = t.skip(elem, depth+1)
			}
		}
		return err
	case thriftMap:
		return t.skipMap(depth)
	case thriftStruct:
		return t.fields(depth+1, func(_ int, typ byte) error { return t.skip(typ, depth+1) })
	}
	return errThrift
}

func (t *thriftReader) skipMap(depth int) error {
	n, err := t.uvarint()
	if err != nil || n == 0 {
		return err
	}
	kv, err := t.byte()
	if err != nil || n > uint64(len(t.b)-t.pos) {
		return errThrift
	}
	for range n {
		for _, typ := range []byte{kv >> 4, kv & 15} {
			if err := t.skip(typ, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
