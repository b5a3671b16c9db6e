package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"
	"unicode/utf8"
)

// Encodings of a page's values (parquet.thrift, enum Encoding).
const (
	plainEncoding     = 0
	plainDictionary   = 2
	runLength         = 3
	deltaBinaryPacked = 5
	deltaLengths      = 6
	deltaByteArray    = 7
	rleDictionary     = 8
	byteStreamSplit   = 9
)

var errCounts = errors.New("values that end too early or contradict their page's header")

// valueReader streams the values of a page, converted as in a Row.
type valueReader interface{ next() (any, error) }

// newValueReader picks the reader of a page's encoding.
func newValueReader(n *parquetNode, dict []any, data []byte, p pageHeader) (valueReader, error) {
	isInt := n.typ == parquetInt32 || n.typ == parquetInt64
	switch e := p.encoding; {
	case e == plainEncoding:
		return &plainReader{n: n, b: data}, nil
	case e == plainDictionary || e == rleDictionary:
		if dict == nil {
			return nil, fmt.Errorf("a page without its dictionary")
		}
		r := &dictReader{dict: dict}
		if len(data) > 0 { // a page of nulls can be empty
			if data[0] > 32 {
				return nil, fmt.Errorf("dictionary indices of %d bits", data[0])
			}
			r.runs = newRunReader(data[1:], int(data[0]))
		}
		return r, nil
	case e == runLength && n.typ == parquetBoolean:
		if len(data) == 0 {
			return &boolReader{}, nil
		}
		if len(data) < 4 || uint64(binary.LittleEndian.Uint32(data)) > uint64(len(data)-4) {
			return nil, errCounts
		}
		return &boolReader{newRunReader(data[4:4+binary.LittleEndian.Uint32(data)], 1)}, nil
	case e == deltaBinaryPacked && isInt, e == deltaLengths && n.typ == parquetByteArray, e == deltaByteArray && (n.typ == parquetByteArray || n.typ == parquetFixed):
		return newDeltaReader(n, data, p)
	case e == byteStreamSplit && n.size() > 0:
		return &splitReader{n: n, b: data, count: len(data) / n.size()}, nil
	}
	return nil, fmt.Errorf("encoding %d of type %d, which is not supported", p.encoding, n.typ)
}

// readDictionary reads a dictionary page: plain values.
func readDictionary(n *parquetNode, data []byte, p pageHeader) ([]any, error) {
	if p.encoding != plainEncoding && p.encoding != plainDictionary {
		return nil, fmt.Errorf("a dictionary of encoding %d", p.encoding)
	}
	r := &plainReader{n: n, b: data}
	dict := []any{}
	for range p.values { // ends with the data: each value takes some of them
		v, err := r.next()
		if err != nil {
			return nil, err
		}
		dict = append(dict, v)
	}
	return dict, nil
}

// size is the bytes of a value of fixed size, 0 for others.
func (n *parquetNode) size() int {
	switch n.typ {
	case parquetInt32, parquetFloat:
		return 4
	case parquetInt64, parquetDouble:
		return 8
	case parquetInt96:
		return 12
	case parquetFixed:
		return int(n.width)
	}
	return 0
}

// plainReader reads values one after another.
type plainReader struct {
	n   *parquetNode
	b   []byte
	bit int // of booleans
}

func (r *plainReader) next() (any, error) {
	switch r.n.typ {
	case parquetBoolean:
		if r.bit/8 >= len(r.b) {
			return nil, errCounts
		}
		v := r.b[r.bit/8]>>(r.bit%8)&1 == 1
		r.bit++
		return v, nil
	case parquetByteArray:
		if len(r.b) < 4 {
			return nil, errCounts
		}
		n := uint64(binary.LittleEndian.Uint32(r.b))
		if n > uint64(len(r.b)-4) {
			return nil, errCounts
		}
		v := r.b[4 : 4+n]
		r.b = r.b[4+n:]
		return r.n.fromBytes(v)
	}
	size := r.n.size()
	if len(r.b) < size {
		return nil, errCounts
	}
	v := r.b[:size]
	r.b = r.b[size:]
	return r.n.fromFixed(v)
}

// splitReader reads BYTE_STREAM_SPLIT: first bytes of all values, then second ones.
type splitReader struct {
	n     *parquetNode
	b     []byte
	at    int
	count int
	one   []byte
}

func (r *splitReader) next() (any, error) {
	if r.at >= r.count {
		return nil, errCounts
	}
	r.one = r.one[:0]
	for i := range r.n.size() {
		r.one = append(r.one, r.b[i*r.count+r.at])
	}
	r.at++
	return r.n.fromFixed(r.one)
}

// dictReader reads indices into the dictionary.
type dictReader struct {
	dict []any
	runs runReader
}

func (r *dictReader) next() (any, error) {
	i, err := r.runs.next()
	if err != nil || i >= uint64(len(r.dict)) {
		return nil, errCounts
	}
	return r.dict[i], nil
}

type boolReader struct{ runs runReader }

func (r *boolReader) next() (any, error) {
	v, err := r.runs.next()
	return v == 1, err
}

// deltaReader holds the numbers or lengths of a page with a delta encoding.
type deltaReader struct {
	n        *parquetNode
	encoding int64
	nums     []int64 // values, lengths, or prefix lengths
	suffixes []int64
	b        []byte
	at       int
	last     []byte
}

func newDeltaReader(n *parquetNode, data []byte, p pageHeader) (valueReader, error) {
	r := &deltaReader{n: n, encoding: p.encoding}
	if len(data) == 0 {
		return r, nil
	}
	var err error
	if r.nums, r.b, err = decodeDelta(data, p.values); err != nil {
		return nil, err
	}
	if p.encoding == deltaByteArray {
		if r.suffixes, r.b, err = decodeDelta(r.b, p.values); err != nil || len(r.suffixes) != len(r.nums) {
			return nil, errCounts
		}
	}
	return r, nil
}

func (r *deltaReader) next() (any, error) {
	if r.at >= len(r.nums) {
		return nil, errCounts
	}
	v := r.nums[r.at]
	r.at++
	switch r.encoding {
	case deltaBinaryPacked:
		if r.n.typ == parquetInt32 {
			v = int64(int32(v))
		}
		return r.n.fromInt(v)
	case deltaByteArray: // the start of the value before, and a suffix
		s := r.suffixes[r.at-1]
		if v < 0 || v > int64(len(r.last)) || s < 0 || s > int64(len(r.b)) {
			return nil, errCounts
		}
		r.last = append(r.last[:v:v], r.b[:s]...)
		r.b = r.b[s:]
		if r.n.typ == parquetFixed && len(r.last) != r.n.size() {
			return nil, errCounts
		}
		return r.n.fromBytes(r.last)
	}
	if v < 0 || v > int64(len(r.b)) {
		return nil, errCounts
	}
	text := r.b[:v]
	r.b = r.b[v:]
	return r.n.fromBytes(text)
}

// decodeDelta reads one DELTA_BINARY_PACKED run of at most limit values and
// returns what follows it. See Encodings.md of the Parquet format.
func decodeDelta(b []byte, limit int64) (values []int64, rest []byte, err error) {
	t := &thriftReader{b: b} // the same varints
	block, err1 := t.uvarint()
	minis, err2 := t.uvarint()
	count, err3 := t.uvarint()
	value, err4 := t.int()
	if errors.Join(err1, err2, err3, err4) != nil || block == 0 || block > 1<<20 || block%128 != 0 || minis == 0 || minis > block/32 || block%minis != 0 || block/minis%32 != 0 || count > uint64(limit) {
		return nil, nil, errCounts
	}
	perMini := int(block / minis)
	if count > 0 {
		values = append(values, value)
	}
	for uint64(len(values)) < count {
		minDelta, err := t.int()
		if err != nil || len(t.b)-t.pos < int(minis) {
			return nil, nil, errCounts
		}
		widths := t.b[t.pos : t.pos+int(minis)]
		t.pos += int(minis)
		for _, w := range widths {
			if uint64(len(values)) >= count {
				break
			}
			n := perMini * int(w) / 8
			if w > 64 || n > len(t.b)-t.pos {
				return nil, nil, errCounts
			}
			for i := 0; i < perMini && uint64(len(values)) < count; i++ {
				value += minDelta + int64(bits(t.b[t.pos:t.pos+n], i*int(w), int(w)))
				values = append(values, value)
			}
			t.pos += n
		}
	}
	return values, t.b[t.pos:], nil
}

// bits reads width bits from bit position at on, the lowest bit first.
func bits(b []byte, at, width int) (v uint64) {
	for i := 0; i < width; {
		off := (at + i) % 8
		n := min(8-off, width-i)
		v |= uint64(b[(at+i)/8]>>off&(1<<n-1)) << i
		i += n
	}
	return v
}

// A runReader streams the RLE and bit-packing hybrid: levels, dictionary indices
// and booleans. A run's length costs nothing until its values are asked for.
type runReader struct {
	t     thriftReader // the same varints
	width int
	left  uint64 // values left in this run
	same  uint64 // value of a repeated run
	pack  []byte // bits of a packed run, or nil
	bit   int
}

func newRunReader(b []byte, width int) runReader {
	return runReader{t: thriftReader{b: b}, width: width}
}

func (r *runReader) next() (uint64, error) {
	for r.left == 0 {
		if err := r.run(); err != nil {
			return 0, err
		}
	}
	r.left--
	if r.pack == nil {
		return r.same, nil
	}
	if r.bit+r.width > 8*len(r.pack) {
		return 0, errCounts
	}
	v := bits(r.pack, r.bit, r.width)
	r.bit += r.width
	return v, nil
}

// run reads the head of the next run.
func (r *runReader) run() error {
	if r.width == 0 && r.t.pos >= len(r.t.b) { // values of no bits are all 0
		r.left, r.same, r.pack = math.MaxUint64, 0, nil
		return nil
	}
	head, err := r.t.uvarint()
	if err != nil {
		return errCounts
	}
	b := r.t.b[r.t.pos:]
	if head&1 == 1 { // groups of eight; some writers cut the last one short
		n := min(head>>1, uint64(len(b))) // as many bytes as groups at the least
		size := min(n*uint64(r.width), uint64(len(b)))
		r.left, r.pack, r.bit = 8*n, b[:size], 0
		r.t.pos += int(size)
		if r.width == 0 {
			r.left, r.pack, r.same = 8*(head>>1&0xffffffff), nil, 0
		}
		return nil
	}
	size := (r.width + 7) / 8
	if len(b) < size {
		return errCounts
	}
	r.same, r.left, r.pack = 0, head>>1, nil
	for i := range size {
		r.same |= uint64(b[i]) << (8 * i)
	}
	r.t.pos += size
	return nil
}

// fromFixed converts a value of fixed size.
func (n *parquetNode) fromFixed(b []byte) (any, error) {
	switch n.typ {
	case parquetInt32:
		return n.fromInt(int64(int32(binary.LittleEndian.Uint32(b))))
	case parquetInt64:
		return n.fromInt(int64(binary.LittleEndian.Uint64(b)))
	case parquetFloat:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), nil
	case parquetDouble:
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), nil
	case parquetInt96: // the old timestamp: nanoseconds of a Julian day
		const julianUnixEpoch = 2440588
		nanos, day := int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint32(b[8:]))
		return time.Unix((day-julianUnixEpoch)*86400, nanos).UTC().Format(isoLayout), nil
	}
	return n.fromBytes(b)
}

// fromInt converts an integer as its annotation says.
func (n *parquetNode) fromInt(v int64) (any, error) {
	switch n.logical {
	case logicalDate:
		return isoDate(v), nil
	case logicalTimestamp:
		switch n.unit {
		case 1:
			return isoTime(v, time.Millisecond), nil
		case 2:
			return isoTime(v, time.Microsecond), nil
		case 3:
			return isoTime(v, time.Nanosecond), nil
		}
	case logicalDecimal:
		return shiftDecimal(big.NewInt(v), int(n.scale))
	case logicalInteger:
		if n.unsigned && n.typ == parquetInt32 {
			return int64(uint32(v)), nil
		}
		if n.unsigned {
			return unsigned(uint64(v)), nil
		}
	}
	return v, nil
}

// fromBytes converts bytes as their annotation says.
func (n *parquetNode) fromBytes(b []byte) (any, error) {
	switch n.logical {
	case logicalString, logicalEnum, logicalJSON:
		if !utf8.Valid(b) {
			return nil, fmt.Errorf("text that is not UTF-8")
		}
		return string(b), nil
	case logicalDecimal:
		if len(b) > 64 {
			return nil, fmt.Errorf("a decimal of %d bytes", len(b))
		}
		return shiftDecimal(twosComplement(b), int(n.scale))
	case logicalFloat16:
		if len(b) == 2 {
			return halfFloat(binary.LittleEndian.Uint16(b)), nil
		}
	}
	return bytesValue(b), nil
}
