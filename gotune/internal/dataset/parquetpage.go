package dataset

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

const (
	maxPageHeader = 1 << 20
	maxZstdWindow = 128 << 20
)

// A pageHeader is a PageHeader of parquet.thrift with what this reader needs.
type pageHeader struct {
	kind                     int64 // 0 data, 2 dictionary, 3 data v2
	plain, packed            int64 // bytes without and with compression
	values, encoding         int64
	defEncoding, repEncoding int64 // of v1
	defBytes, repBytes       int64 // of v2, before the data and not compressed
	crc                      int64
	hasCRC, notCompressed    bool
}

// readPageHeader reads the header at an offset and returns its length.
func readPageHeader(r io.ReaderAt, at, stop int64) (p pageHeader, n int64, err error) {
	for size := int64(256); ; size *= 4 {
		b := make([]byte, min(size, stop-at))
		k, err := r.ReadAt(b, at)
		if err != nil && err != io.EOF {
			return p, 0, err
		}
		t := &thriftReader{b: b[:k]}
		p, err := parsePageHeader(t)
		if err == nil {
			return p, int64(t.pos), nil
		}
		if int64(len(b)) == stop-at || size >= maxPageHeader { // statistics can make a header long
			return p, 0, fmt.Errorf("no page header at %d: %w", at, err)
		}
	}
}

func parsePageHeader(t *thriftReader) (p pageHeader, err error) {
	p.defEncoding, p.repEncoding = runLength, runLength
	err = t.fields(0, func(id int, typ byte) (err error) {
		into := map[int]*int64{1: &p.kind, 2: &p.plain, 3: &p.packed, 4: &p.crc}[id]
		if into != nil && typ == thriftI32 {
			p.hasCRC = p.hasCRC || id == 4
			*into, err = t.int()
			return err
		}
		var inner map[int]*int64
		switch id {
		case 5:
			inner = map[int]*int64{1: &p.values, 2: &p.encoding, 3: &p.defEncoding, 4: &p.repEncoding}
		case 7:
			inner = map[int]*int64{1: &p.values, 2: &p.encoding}
		case 8:
			inner = map[int]*int64{1: &p.values, 4: &p.encoding, 5: &p.defBytes, 6: &p.repBytes}
		}
		if inner == nil || typ != thriftStruct {
			return t.skip(typ, 0)
		}
		return t.fields(1, func(id2 int, typ byte) (err error) {
			if id == 8 && id2 == 7 && (typ == thriftTrue || typ == thriftFalse) {
				p.notCompressed = typ == thriftFalse
				return nil
			}
			if inner[id2] == nil || typ != thriftI32 {
				return t.skip(typ, 1)
			}
			*inner[id2], err = t.int()
			return err
		})
	})
	if err == nil && (p.plain < 0 || p.packed < 0 || p.values < 0 || p.defBytes < 0 || p.repBytes < 0) {
		err = errThrift
	}
	return p, err
}

// An unpacker decompresses pages, each to exactly the length its header
// announces, and never further: the data can't ask for memory.
type unpacker struct {
	zstd   *zstd.Decoder
	gzip   *gzip.Reader
	brotli *brotli.Reader
}

var errLength = errors.New("data that are not as long as the page's header says")

// unpack fills out with the plain bytes of data.
func (u *unpacker) unpack(codec int64, data, out []byte) error {
	var in io.Reader = bytes.NewReader(data)
	var err error
	switch codec {
	case 0:
		if copy(out, data) != len(out) || len(data) != len(out) {
			return errLength
		}
		return nil
	case 1: // the decoder trusts the length at the start
		if n, err := snappy.DecodedLen(data); err != nil || n != len(out) {
			return errLength
		}
		_, err := snappy.Decode(out, data)
		return err
	case 2:
		if u.gzip == nil {
			u.gzip, err = gzip.NewReader(in)
		} else {
			err = u.gzip.Reset(in)
		}
		in = u.gzip
	case 4:
		if u.brotli == nil {
			u.brotli = brotli.NewReader(in)
		} else {
			err = u.brotli.Reset(in)
		}
		in = u.brotli
	case 6:
		if u.zstd == nil {
			u.zstd, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		} else {
			err = u.zstd.Reset(in)
		}
		in = u.zstd
	case 7: // lz4 without frame
		n, err := lz4.UncompressBlock(data, out)
		if err == nil && n != len(out) {
			err = errLength
		}
		return err
	default:
		return fmt.Errorf("the codec %d, which is not supported (snappy, gzip, brotli, zstd, lz4_raw are)", codec)
	}
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(in, out); err != nil {
		return errLength
	}
	var more [1]byte
	if n, err := in.Read(more[:]); n != 0 || (err != nil && err != io.EOF) {
		return errLength
	}
	return nil
}

func (u *unpacker) close() {
	if u.zstd != nil {
		u.zstd.Close()
	}
}

// ratio is how much a codec can expand at the most; 0: there is no useful bound.
func ratio(codec int64) int64 {
	return map[int64]int64{0: 1, 1: 33, 2: 1040, 7: 256}[codec]
}

// A columnReader walks the entries of one column in one row group: repetition
// and definition level, and a value where the definition level is the largest.
type columnReader struct {
	r        io.ReaderAt
	u        *unpacker
	n        *parquetNode
	c        parquetChunk
	at, stop int64
	left     int64 // entries not yet in a page
	page     int64 // entries left in this page
	packed   []byte
	data     []byte
	reps     runReader
	defs     runReader
	values   valueReader
	dict     []any

	// The entry at hand; have is false after the last one.
	have     bool
	rep, def int
	value    any
}

func newColumnReader(r io.ReaderAt, u *unpacker, n *parquetNode, c parquetChunk) (*columnReader, error) {
	k := &columnReader{r: r, u: u, n: n, c: c, at: c.start(), left: c.values}
	k.stop = k.at + c.compressed
	return k, k.next()
}

// next moves on to the next entry.
func (k *columnReader) next() error {
	for k.page == 0 {
		if k.left == 0 {
			k.have = false
			return nil
		}
		if err := k.nextPage(); err != nil {
			return err
		}
	}
	k.page--
	k.have, k.rep, k.def, k.value = true, 0, 0, nil
	if k.n.rep > 0 {
		v, err := k.reps.next()
		if err != nil || v > uint64(k.n.rep) {
			return errCounts
		}
		k.rep = int(v)
	}
	if k.n.def > 0 {
		v, err := k.defs.next()
		if err != nil || v > uint64(k.n.def) {
			return errCounts
		}
		k.def = int(v)
	}
	if k.def < k.n.def {
		return nil
	}
	var err error
	k.value, err = k.values.next()
	return err
}

// nextPage reads pages up to the next one with data.
func (k *columnReader) nextPage() error {
	if k.at >= k.stop {
		return fmt.Errorf("%d values fewer than the footer says", k.left)
	}
	p, n, err := readPageHeader(k.r, k.at, k.stop)
	if err != nil {
		return err
	}
	k.at += n
	if err := k.checkPage(p); err != nil {
		return err
	}
	if err := k.load(p); err != nil {
		return fmt.Errorf("the page at %d: %w", k.at, err)
	}
	k.at += p.packed
	switch p.kind {
	case 2:
		if k.dict != nil || k.left != k.c.values {
			return fmt.Errorf("a second dictionary")
		}
		k.dict, err = readDictionary(k.n, k.data, p)
		return err
	case 0, 3:
		return k.startPage(p)
	}
	return nil // an index page
}

// checkPage compares the header's sizes with the chunk and what the codec can do.
func (k *columnReader) checkPage(p pageHeader) error {
	most := int64(maxPageBytes)
	if p.kind == 2 {
		most = maxDictBytes
	}
	levels := int64(0)
	if p.kind == 3 {
		levels = p.defBytes + p.repBytes
	}
	if r := ratio(k.c.codec); r > 0 {
		most = min(most, p.packed*r+1024)
	}
	if p.packed > k.stop-k.at || p.plain > most || levels > p.packed || levels > p.plain || (p.kind != 2 && p.values > k.left) {
		return fmt.Errorf("a page at %d that claims %d values and %d bytes from %d, with %d values and %d bytes left", k.at, p.values, p.plain, p.packed, k.left, k.stop-k.at)
	}
	return nil
}

// load reads a page's plain bytes into data.
func (k *columnReader) load(p pageHeader) error {
	k.packed = resize(k.packed, p.packed)
	if _, err := k.r.ReadAt(k.packed, k.at); err != nil {
		return err
	}
	if p.hasCRC && crc32.ChecksumIEEE(k.packed) != uint32(p.crc) {
		return fmt.Errorf("a checksum that is not %08x", uint32(p.crc))
	}
	levels := int64(0)
	if p.kind == 3 {
		levels = p.defBytes + p.repBytes
	}
	k.data = resize(k.data, p.plain)
	copy(k.data, k.packed[:levels])
	codec := k.c.codec
	if p.notCompressed || p.packed == levels {
		codec = 0
	}
	return k.u.unpack(codec, k.packed[levels:], k.data[levels:])
}

func resize(b []byte, n int64) []byte {
	if int64(cap(b)) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// startPage splits a data page into levels and values.
func (k *columnReader) startPage(p pageHeader) error {
	data := k.data
	if p.kind == 3 {
		k.reps = newRunReader(data[:p.repBytes], width(k.n.rep))
		k.defs = newRunReader(data[p.repBytes:p.repBytes+p.defBytes], width(k.n.def))
		data = data[p.repBytes+p.defBytes:]
	} else {
		for _, l := range []struct {
			runs     *runReader
			most     int
			encoding int64
		}{{&k.reps, k.n.rep, p.repEncoding}, {&k.defs, k.n.def, p.defEncoding}} {
			if l.most == 0 {
				continue
			}
			if l.encoding != runLength {
				return fmt.Errorf("levels of encoding %d, which is not supported", l.encoding)
			}
			if len(data) < 4 || uint64(binary.LittleEndian.Uint32(data)) > uint64(len(data)-4) {
				return errCounts
			}
			n := binary.LittleEndian.Uint32(data)
			*l.runs = newRunReader(data[4:4+n], width(l.most))
			data = data[4+n:]
		}
	}
	var err error
	if k.values, err = newValueReader(k.n, k.dict, data, p); err != nil {
		return err
	}
	k.page = p.values
	k.left -= p.values
	return nil
}

// width is the number of bits of levels from 0 to most.
func width(most int) int {
	n := 0
	for ; most > 0; most >>= 1 {
		n++
	}
	return n
}
