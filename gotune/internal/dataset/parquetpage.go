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
	deltaBinaryPacked = 5
	deltaLengths      = 6
	deltaByteArray    = 7
)

// checkPageData decompresses a page, at most to the length its header announces,
// and checks the counts inside. The decoders trust lengths in the data, or go on
// for as long as the data do.
func checkPageData(r io.ReaderAt, at int64, c parquetChunk, p pageHeader, page *[]byte) error {
	n, want := p.compressed-p.levels, p.uncompressed-p.levels // levels of a v2 page are not compressed
	delta := p.encoding >= deltaBinaryPacked && p.encoding <= deltaByteArray && !p.dict
	packed := c.codec != 0 && !p.plain
	if n == 0 || (!packed && !delta) {
		return nil
	}
	if want < 0 {
		return fmt.Errorf("a page at %d with %d bytes and levels of %d", at, p.uncompressed, p.levels)
	}
	if int64(cap(*page)) < n {
		*page = make([]byte, n)
	}
	data := (*page)[:n]
	if _, err := r.ReadAt(data, at+p.levels); err != nil {
		return err
	}
	var plain bytes.Buffer
	if packed {
		var to io.Writer = io.Discard
		if delta {
			to = &plain
		}
		got, err := unpack(to, c.codec, data, want)
		if err != nil || got != want {
			return fmt.Errorf("a page at %d whose data are not the %d bytes it announces (%d, %v)", at, want, got, err)
		}
		data = plain.Bytes()
	}
	if !delta {
		return nil
	}
	if err := checkDelta(data, c, p); err != nil {
		return fmt.Errorf("a page at %d: %w", at, err)
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
		if err != nil || int64(n) != limit || to == io.Discard {
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

var errDelta = errors.New("delta-encoded values that contradict the page's header")

// checkDelta decodes the counts and lengths of a delta-encoded page: they, and
// not the header, decide how much memory the decoder sets aside.
func checkDelta(data []byte, c parquetChunk, p pageHeader) error {
	if !p.v2 { // the levels come first, each with its length
		for _, has := range []bool{c.rep, c.def} {
			if !has {
				continue
			}
			if len(data) < 4 {
				return errDelta
			}
			n := int64(binary.LittleEndian.Uint32(data))
			if n > int64(len(data)-4) {
				return errDelta
			}
			data = data[4+n:]
		}
	}
	if len(data) == 0 {
		return nil // all null
	}
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
		return errDelta
	}
	if _, err := sumLengths(suffixes, int64(len(rest))); err != nil {
		return err
	}
	var last, total int64 // a value is the start of the one before and a suffix
	for i, prefix := range first {
		if prefix < 0 || prefix > last {
			return errDelta
		}
		last = prefix + suffixes[i]
		if total += last; total > maxPageBytes {
			return errDelta
		}
	}
	return nil
}

// sumLengths adds lengths that may not be negative or more than limit in all.
func sumLengths(lengths []int64, limit int64) (sum int64, err error) {
	for _, n := range lengths {
		if n < 0 || n > limit-sum {
			return 0, errDelta
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
		return nil, nil, errDelta
	}
	if block == 0 || block > 1<<20 || block%128 != 0 || minis == 0 || minis > block/32 || block%minis != 0 || block/minis%32 != 0 || count > uint64(limit) {
		return nil, nil, errDelta
	}
	perMini := int(block / minis)
	if count > 0 {
		values = append(values, value)
	}
	for uint64(len(values)) < count {
		minDelta, err := t.int()
		if err != nil || len(t.b)-t.pos < int(minis) {
			return nil, nil, errDelta
		}
		widths := t.b[t.pos : t.pos+int(minis)]
		t.pos += int(minis)
		for _, w := range widths {
			if uint64(len(values)) >= count {
				break
			}
			n := perMini * int(w) / 8
			if w > 64 || n > len(t.b)-t.pos {
				return nil, nil, errDelta
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
