package dataset

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Encodings of a page's values whose own counts decide about memory
// (parquet.thrift, enum Encoding).
const (
	plainDictionary   = 2
	runLength         = 3
	deltaBinaryPacked = 5
	deltaLengths      = 6
	deltaByteArray    = 7
	rleDictionary     = 8
)

// pageBuffers are used again from page to page.
type pageBuffers struct {
	packed []byte
	plain  bytes.Buffer
}

// checkData decompresses a page, at most to the length its header announces, and
// checks the counts inside. The decoders trust lengths in the data, or go on for
// as long as the data do.
func (b *pageBuffers) checkData(r io.ReaderAt, at int64, c parquetChunk, p pageHeader) error {
	bad := func(err error) error { return fmt.Errorf("a page at %d: %w", at, err) }
	want := p.uncompressed - p.levels // levels of a v2 page are not compressed
	if want < 0 {
		return bad(errCounts)
	}
	if int64(cap(b.packed)) < p.compressed {
		b.packed = make([]byte, p.compressed)
	}
	data := b.packed[:p.compressed]
	if _, err := r.ReadAt(data, at); err != nil {
		return err
	}
	levels, data := data[:p.levels], data[p.levels:]
	if c.codec != 0 && !p.plain && len(data) > 0 {
		b.plain.Reset()
		got, err := unpack(&b.plain, c.codec, data, want)
		if err != nil || got != want {
			return fmt.Errorf("a page at %d whose data are not the %d bytes it announces (%d, %v)", at, want, got, err)
		}
		data = b.plain.Bytes()
	}
	if p.dict {
		return nil // plain values: the decoder's memory is that of the data
	}
	data, err := checkLevels(levels, data, c, p)
	if err == nil && len(data) > 0 {
		err = checkValues(data, p)
	}
	if err != nil {
		return bad(err)
	}
	return nil
}

var errCounts = errors.New("counts in the data that contradict the page's header")

// checkLevels checks a page's levels and returns the data after them. In a v1
// page they come first in the data, each with its length.
func checkLevels(levels, data []byte, c parquetChunk, p pageHeader) ([]byte, error) {
	if p.v2 {
		if err := checkRuns(levels[:p.repBytes], c.rep, p.values); err != nil {
			return nil, err
		}
		return data, checkRuns(levels[p.repBytes:], c.def, p.values)
	}
	for _, most := range []int{c.rep, c.def} {
		if most == 0 {
			continue
		}
		runs, rest, ok := lengthPrefixed(data)
		if !ok {
			return nil, errCounts
		}
		if err := checkRuns(runs, most, p.values); err != nil {
			return nil, err
		}
		data = rest
	}
	return data, nil
}

// lengthPrefixed cuts off a part that starts with its length in four bytes.
func lengthPrefixed(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

// checkValues checks the counts of the encodings that have their own.
func checkValues(data []byte, p pageHeader) error {
	switch p.encoding {
	case plainDictionary, rleDictionary:
		if data[0] > 32 {
			return errCounts
		}
		return checkRunsOf(data[1:], int(data[0]), p.values)
	case runLength: // booleans
		runs, _, ok := lengthPrefixed(data)
		if !ok {
			return errCounts
		}
		return checkRunsOf(runs, 1, p.values)
	case deltaBinaryPacked, deltaLengths, deltaByteArray:
		return checkDelta(data, p)
	}
	return nil
}

// checkRuns checks levels of 0 to most.
func checkRuns(b []byte, most int, values int64) error {
	width := 0
	for ; most > 0; most >>= 1 {
		width++
	}
	return checkRunsOf(b, width, values)
}

// checkRunsOf walks the runs of the RLE and bit-packing hybrid: together they may
// be as many as the page's values, and some to fill the last group. See
// Encodings.md of the Parquet format.
func checkRunsOf(b []byte, width int, values int64) error {
	const fill = 512
	t := &thriftReader{b: b} // the same varints
	var count uint64
	for t.pos < len(b) && count < uint64(values) {
		head, err := t.uvarint()
		if err != nil {
			return errCounts
		}
		n, size := head>>1, uint64(width+7)/8
		if head&1 == 1 { // groups of eight
			if n > uint64(len(b)) && width > 0 || n > maxPageValues {
				return errCounts
			}
			n, size = 8*n, n*uint64(width)
		}
		if size > uint64(len(b)-t.pos) {
			size = uint64(len(b) - t.pos) // some writers cut the last group short
		}
		t.pos += int(size)
		if count += n; n > uint64(values)+fill || count > uint64(values)+fill {
			return errCounts
		}
	}
	if t.pos < len(b) { // more runs than values: let no decoder follow them
		return checkTail(b[t.pos:])
	}
	return nil
}

// checkTail allows only zero bytes after the last run.
func checkTail(b []byte) error {
	for _, c := range b {
		if c != 0 {
			return errCounts
		}
	}
	return nil
}

// unpack writes the plain bytes of compressed data, and at most one more than
// limit, and returns their number.
func unpack(to io.Writer, codec int64, data []byte, limit int64) (int64, error) {
	var in io.Reader = bytes.NewReader(data)
	switch codec {
	case 1: // its decoder trusts the length at the start
		n, err := snappy.DecodedLen(data)
		if err != nil || int64(n) != limit {
			return int64(n), err
		}
		b, err := snappy.Decode(nil, data)
		if err != nil {
			return 0, err
		}
		in = bytes.NewReader(b)
	case 2:
		z, err := gzip.NewReader(in)
		if err != nil {
			return 0, err
		}
		in = z
	case 4:
		in = brotli.NewReader(in)
	case 6:
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return 0, err
		}
		defer z.Close()
		in = z
	case 7: // lz4 without frame
		b := make([]byte, limit)
		n, err := lz4.UncompressBlock(data, b)
		if err != nil {
			return 0, err
		}
		in = bytes.NewReader(b[:n])
	default:
		return 0, fmt.Errorf("the codec %d, which is not supported", codec)
	}
	return io.Copy(to, io.LimitReader(in, limit+1))
}

// checkDelta decodes the counts and lengths of a delta-encoded page: they, and
// not the header, decide how much memory the decoder sets aside.
func checkDelta(data []byte, p pageHeader) error {
	first, rest, err := decodeDelta(data, p.values)
	if err != nil || p.encoding == deltaBinaryPacked {
		return err
	}
	if p.encoding == deltaLengths {
		_, err := sumLengths(first, int64(len(rest)))
		return err
	}
	suffixes, rest, err := decodeDelta(rest, p.values)
	if err != nil || len(suffixes) != len(first) {
		return errCounts
	}
	if _, err := sumLengths(suffixes, int64(len(rest))); err != nil {
		return err
	}
	var last, total int64 // a value is the start of the one before and a suffix
	for i, prefix := range first {
		if prefix < 0 || prefix > last {
			return errCounts
		}
		last = prefix + suffixes[i]
		if total += last; total > maxPageBytes {
			return errCounts
		}
	}
	return nil
}

// sumLengths adds lengths that may not be negative or more than limit in all.
func sumLengths(lengths []int64, limit int64) (sum int64, err error) {
	for _, n := range lengths {
		if n < 0 || n > limit-sum {
			return 0, errCounts
		}
		sum += n
	}
	return sum, nil
}

// decodeDelta reads one DELTA_BINARY_PACKED run of at most limit values and
// returns what follows it. See Encodings.md of the Parquet format.
func decodeDelta(b []byte, limit int64) (values []int64, rest []byte, err error) {
	t := &thriftReader{b: b} // the same varints
	block, err1 := t.uvarint()
	minis, err2 := t.uvarint()
	count, err3 := t.uvarint()
	value, err4 := t.int()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, nil, errCounts
	}
	if block == 0 || block > 1<<20 || block%128 != 0 || minis == 0 || minis > block/32 || block%minis != 0 || block/minis%32 != 0 || count > uint64(limit) {
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
