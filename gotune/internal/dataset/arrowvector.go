package dataset

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
	"unicode/utf8"
)

// Types of a field (Schema.fbs, union Type).
const (
	arrowNull        = 1
	arrowInt         = 2
	arrowFloat       = 3
	arrowBinary      = 4
	arrowUtf8        = 5
	arrowBool        = 6
	arrowDecimal     = 7
	arrowDate        = 8
	arrowTimestamp   = 10
	arrowList        = 12
	arrowStruct      = 13
	arrowFixedBinary = 15
	arrowFixedList   = 16
	arrowMap         = 17
	arrowLargeBinary = 19
	arrowLargeUtf8   = 20
	arrowLargeList   = 21
)

// An arrowField is a column of the schema, or a part of one.
type arrowField struct {
	name     string
	typ      int64
	width    int64 // bits of an integer, bytes of a fixed size, elements of a fixed list
	signed   bool
	unit     time.Duration // of a timestamp; 0 for a date in days
	scale    int
	dict     bool
	dictID   int64
	index    *arrowField // type of the indices
	children []*arrowField
}

// newArrowField reads a field and its children, left of them at the most.
func newArrowField(t flatTable, depth int, left *int) (*arrowField, error) {
	if *left--; depth > maxDepth || *left < 0 {
		return nil, fmt.Errorf("more than %d columns, or nested more than %d deep", maxArrowFields, maxDepth)
	}
	f := &arrowField{name: t.text(0), typ: t.int(2, 1, 0)}
	typ, _ := t.table(3)
	if err := f.setType(typ); err != nil {
		return nil, err
	}
	for _, c := range t.tables(5) {
		child, err := newArrowField(c, depth+1, left)
		if err != nil {
			return nil, err
		}
		f.children = append(f.children, child)
	}
	switch f.typ {
	case arrowList, arrowLargeList, arrowFixedList, arrowMap:
		if len(f.children) != 1 {
			return nil, fmt.Errorf("column %q: a list with %d element types", f.name, len(f.children))
		}
	}
	if d, ok := t.table(4); ok {
		f.dict, f.dictID = true, d.int(0, 8, 0)
		f.index = &arrowField{typ: arrowInt, width: 32, signed: true}
		if it, ok := d.table(1); ok {
			if err := f.index.setType(it); err != nil {
				return nil, err
			}
		}
	}
	if *t.bad != nil {
		return nil, *t.bad
	}
	return f, nil
}

// setType reads the table that belongs to the type.
func (f *arrowField) setType(t flatTable) error {
	units := []time.Duration{time.Second, time.Millisecond, time.Microsecond, time.Nanosecond}
	bad := func(what string, v int64) error { return fmt.Errorf("column %q: %s %d", f.name, what, v) }
	switch f.typ {
	case arrowNull, arrowBinary, arrowUtf8, arrowBool, arrowList, arrowStruct, arrowMap, arrowLargeBinary, arrowLargeUtf8, arrowLargeList:
	case arrowInt:
		f.width, f.signed = t.int(0, 4, 0), t.int(1, 1, 0) != 0
		if !slices.Contains([]int64{8, 16, 32, 64}, f.width) {
			return bad("an integer of bits", f.width)
		}
	case arrowFloat:
		p := t.int(0, 2, 0)
		if p < 0 || p > 2 {
			return bad("a float of precision", p)
		}
		f.width = 16 << p
	case arrowDecimal:
		f.width, f.scale = t.int(2, 4, 128)/8, int(t.int(1, 4, 0))
		if !slices.Contains([]int64{4, 8, 16, 32}, f.width) {
			return bad("a decimal of bytes", f.width)
		}
	case arrowDate:
		if u := t.int(0, 2, 1); u == 1 {
			f.unit, f.width = time.Millisecond, 64
		} else {
			f.width = 32
		}
	case arrowTimestamp:
		u := t.int(0, 2, 0)
		if u < 0 || u > 3 {
			return bad("a timestamp of unit", u)
		}
		f.unit, f.width = units[u], 64
	case arrowFixedBinary, arrowFixedList:
		f.width = t.int(0, 4, 0)
		if f.width < 0 {
			return bad("a fixed size of", f.width)
		}
	default:
		return bad("type (union Type of Schema.fbs) not supported:", f.typ)
	}
	return nil
}

// An arrowVector is the values of a field in one batch. Its buffers are long
// enough for n values, and its offsets rise and stay inside them.
type arrowVector struct {
	f        *arrowField
	n        int64
	valid    []byte // bitmap; empty: no nulls
	offsets  []byte
	data     []byte
	children []*arrowVector
	dict     *arrowVector
}

// vector takes the nodes and buffers of a field.
func (a *arrowBody) vector(f *arrowField) (v *arrowVector, err error) {
	v = &arrowVector{f: f}
	if v.n, err = a.node(); err != nil || (f.typ == arrowNull && !f.dict) {
		return v, err
	}
	if v.valid, err = a.buffer(0); err != nil {
		return nil, err
	}
	if len(v.valid) > 0 && int64(len(v.valid)) < (v.n+7)/8 {
		return nil, fmt.Errorf("a validity map of %d bytes for %d values", len(v.valid), v.n)
	}
	if f.dict {
		if v.dict = a.r.dicts[f.dictID]; v.dict == nil {
			return nil, fmt.Errorf("column %q: its dictionary is missing", f.name)
		}
		v.data, err = a.buffer(v.n * f.index.width / 8)
		return v, err
	}
	switch f.typ {
	case arrowInt, arrowFloat, arrowDate, arrowTimestamp:
		v.data, err = a.buffer(v.n * f.width / 8)
	case arrowBool:
		v.data, err = a.buffer((v.n + 7) / 8)
	case arrowDecimal, arrowFixedBinary:
		if f.width > 0 && v.n > math.MaxInt64/f.width {
			return nil, fmt.Errorf("%d values of %d bytes", v.n, f.width)
		}
		v.data, err = a.buffer(v.n * f.width)
	case arrowBinary, arrowUtf8, arrowLargeBinary, arrowLargeUtf8:
		if v.offsets, err = a.buffer(0); err == nil {
			if v.data, err = a.buffer(0); err == nil {
				err = v.checkOffsets(int64(len(v.data)))
			}
		}
	case arrowList, arrowLargeList, arrowMap:
		if v.offsets, err = a.buffer(0); err == nil {
			if err = a.children(v); err == nil {
				err = v.checkOffsets(v.children[0].n)
			}
		}
	case arrowFixedList:
		if err = a.children(v); err == nil && f.width > 0 && v.n > v.children[0].n/f.width {
			err = fmt.Errorf("%d lists of %d elements in a column of %d", v.n, f.width, v.children[0].n)
		}
	case arrowStruct:
		err = a.children(v)
		for _, c := range v.children {
			if c.n < v.n {
				err = fmt.Errorf("%d values in a struct column of %d", c.n, v.n)
			}
		}
	}
	return v, err
}

func (a *arrowBody) children(v *arrowVector) error {
	for _, f := range v.f.children {
		c, err := a.vector(f)
		if err != nil {
			return err
		}
		v.children = append(v.children, c)
	}
	return nil
}

// large reports 64-bit offsets.
func (v *arrowVector) large() bool {
	return v.f.typ == arrowLargeBinary || v.f.typ == arrowLargeUtf8 || v.f.typ == arrowLargeList
}

func (v *arrowVector) offset(i int64) int64 {
	if v.large() {
		return int64(binary.LittleEndian.Uint64(v.offsets[8*i:]))
	}
	return int64(int32(binary.LittleEndian.Uint32(v.offsets[4*i:])))
}

// checkOffsets makes sure that the offsets rise from 0 or more to end or less.
// Rising, they can't name the same bytes twice, so rows stay as large as the file.
func (v *arrowVector) checkOffsets(end int64) error {
	size := int64(4)
	if v.large() {
		size = 8
	}
	if v.n == 0 {
		return nil
	}
	if int64(len(v.offsets))/size < v.n+1 {
		return fmt.Errorf("%d bytes of offsets for %d values", len(v.offsets), v.n)
	}
	last := int64(0)
	for i := range v.n + 1 {
		o := v.offset(i)
		if o < last || o > end {
			return fmt.Errorf("the offset %d after %d in %d", o, last, end)
		}
		last = o
	}
	return nil
}

// value returns value i as a Go value.
func (v *arrowVector) value(i int64) (any, error) {
	if i < 0 || i >= v.n {
		return nil, fmt.Errorf("value %d of %d", i, v.n)
	}
	if len(v.valid) > 0 && v.valid[i/8]>>(i%8)&1 == 0 {
		return nil, nil
	}
	if v.dict != nil {
		k, ok := integer(v.data, i, v.f.index).(int64)
		if !ok {
			return nil, fmt.Errorf("a dictionary index out of range")
		}
		return v.dict.value(k)
	}
	switch v.f.typ {
	case arrowNull:
		return nil, nil
	case arrowInt:
		return integer(v.data, i, v.f), nil
	case arrowFloat:
		switch v.f.width {
		case 16:
			return halfFloat(binary.LittleEndian.Uint16(v.data[2*i:])), nil
		case 32:
			return float64(math.Float32frombits(binary.LittleEndian.Uint32(v.data[4*i:]))), nil
		}
		return math.Float64frombits(binary.LittleEndian.Uint64(v.data[8*i:])), nil
	case arrowBool:
		return v.data[i/8]>>(i%8)&1 == 1, nil
	case arrowDate:
		if v.f.unit == 0 {
			return isoDate(int64(int32(binary.LittleEndian.Uint32(v.data[4*i:])))), nil
		}
		return isoDate(int64(binary.LittleEndian.Uint64(v.data[8*i:])) / (24 * 3600 * 1000)), nil
	case arrowTimestamp:
		return isoTime(int64(binary.LittleEndian.Uint64(v.data[8*i:])), v.f.unit), nil
	case arrowDecimal:
		b := slices.Clone(v.data[i*v.f.width : (i+1)*v.f.width])
		slices.Reverse(b)
		return shiftDecimal(twosComplement(b), v.f.scale)
	case arrowFixedBinary:
		return bytesValue(v.data[i*v.f.width : (i+1)*v.f.width]), nil
	case arrowBinary, arrowLargeBinary:
		return bytesValue(v.data[v.offset(i):v.offset(i+1)]), nil
	case arrowUtf8, arrowLargeUtf8:
		b := v.data[v.offset(i):v.offset(i+1)]
		if !utf8.Valid(b) {
			return nil, fmt.Errorf("text that is not UTF-8")
		}
		return string(b), nil
	case arrowList, arrowLargeList, arrowMap:
		return v.children[0].list(v.offset(i), v.offset(i+1))
	case arrowFixedList:
		return v.children[0].list(i*v.f.width, (i+1)*v.f.width)
	}
	row := Row{Columns: make([]string, len(v.children)), Values: make([]any, len(v.children))}
	for k, c := range v.children {
		val, err := c.value(i)
		if err != nil {
			return nil, err
		}
		row.Columns[k], row.Values[k] = c.f.name, val
	}
	return row, nil
}

func (v *arrowVector) list(from, to int64) (any, error) {
	out := make([]any, 0, to-from)
	for i := from; i < to; i++ {
		e, err := v.value(i)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// integer reads an integer of the field's width; int64, or float64 beyond it.
func integer(b []byte, i int64, f *arrowField) any {
	var u uint64
	switch f.width {
	case 8:
		u = uint64(b[i])
	case 16:
		u = uint64(binary.LittleEndian.Uint16(b[2*i:]))
	case 32:
		u = uint64(binary.LittleEndian.Uint32(b[4*i:]))
	default:
		u = binary.LittleEndian.Uint64(b[8*i:])
	}
	if !f.signed {
		return unsigned(u)
	}
	shift := 64 - f.width
	return int64(u<<shift) >> shift
}
