package dataset

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Limits of a Parquet file. A real writer stays far below all of them.
const (
	maxFooter     = 256 << 20
	maxPageBytes  = 1 << 30 // uncompressed
	maxPageValues = 1 << 24
	maxPageHeader = 1 << 20
	maxZstdWindow = 128 << 20
)

// A parquetChunk is what the footer says of a column chunk.
type parquetChunk struct {
	codec, values, compressed, uncompressed int64
	data, dict                              int64 // offsets; dict 0: none
	rep, def                                int   // largest levels
}

// checkParquet compares every size in the footer with the file, before a decoder
// sets memory aside for them: without that a few flipped bits can ask for more
// memory than the machine has, which ends the process. It returns the column
// chunks of each row group, for checkGroup. See the format's README and
// parquet.thrift.
func checkParquet(r io.ReaderAt, path string, size int64) (groups [][]parquetChunk, end int64, err error) {
	bad := func(found string) ([][]parquetChunk, int64, error) {
		return nil, 0, corrupt(path, found, "a whole Parquet file")
	}
	var tail [8]byte
	if size < 12 {
		return bad(fmt.Sprintf("%d bytes", size))
	}
	if _, err := r.ReadAt(tail[:4], 0); err != nil || string(tail[:4]) != "PAR1" {
		return bad("no PAR1 at the start")
	}
	if _, err := r.ReadAt(tail[:], size-8); err != nil || string(tail[4:]) != "PAR1" {
		return bad("no PAR1 at the end")
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if n > size-12 || n > maxFooter {
		return bad(fmt.Sprintf("a footer of %d bytes in a file of %d", n, size))
	}
	footer := make([]byte, n)
	if _, err := r.ReadAt(footer, size-8-n); err != nil {
		return bad(err.Error())
	}
	if groups, err = footerGroups(footer); err != nil {
		return bad(err.Error())
	}
	return groups, size - 8 - n, nil
}

// footerGroups walks FileMetaData and returns the column chunks of its row groups.
func footerGroups(b []byte) ([][]parquetChunk, error) {
	t := &thriftReader{b: b}
	var groups [][]parquetChunk
	var leaves []parquetChunk
	var rows, groupRows int64
	err := t.fields(0, func(id int, typ byte) (err error) {
		switch {
		case id == 2 && typ == thriftList:
			leaves, err = schemaLeaves(t)
		case id == 3 && typ == thriftI64:
			rows, err = t.int()
		case id == 4 && typ == thriftList:
			n, elem, err := t.list()
			if err != nil || (n > 0 && elem != thriftStruct) {
				return errThrift
			}
			for range n {
				var chunks []parquetChunk
				g, err := rowGroup(t, &chunks)
				if err != nil {
					return err
				}
				groups = append(groups, chunks)
				if groupRows += g; groupRows < 0 {
					return errThrift
				}
			}
			return nil
		default:
			return t.skip(typ, 0)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if rows < 0 || rows != groupRows {
		return nil, fmt.Errorf("%d rows in all and %d in its groups", rows, groupRows)
	}
	for _, g := range groups {
		if len(g) != len(leaves) {
			return nil, fmt.Errorf("%d columns in a group and %d in the schema", len(g), len(leaves))
		}
		for i := range g {
			g[i].rep, g[i].def = leaves[i].rep, leaves[i].def
		}
	}
	return groups, nil
}

// schemaLeaves walks the schema, a tree written depth first, and says of each
// leaf how large its levels can be.
func schemaLeaves(t *thriftReader) ([]parquetChunk, error) {
	n, elem, err := t.list()
	if err != nil || n == 0 || elem != thriftStruct {
		return nil, errThrift
	}
	type group struct {
		left     int64
		rep, def int
	}
	var leaves []parquetChunk
	var open []group
	for i := range n {
		var children, repetition int64
		err := t.fields(1, func(id int, typ byte) (err error) {
			switch {
			case id == 3 && typ == thriftI32:
				repetition, err = t.int()
			case id == 5 && typ == thriftI32:
				children, err = t.int()
			default:
				return t.skip(typ, 1)
			}
			return err
		})
		if err != nil || children < 0 || len(open) > maxDepth {
			return nil, errThrift
		}
		g := group{left: children}
		if i > 0 {
			if len(open) == 0 {
				return nil, errThrift
			}
			up := &open[len(open)-1]
			up.left--
			g.rep, g.def = up.rep, up.def
			if repetition != 0 { // optional or repeated
				g.def++
			}
			if repetition == 2 {
				g.rep++
			}
			if children == 0 {
				leaves = append(leaves, parquetChunk{rep: g.rep, def: g.def})
			}
		}
		if children > 0 {
			open = append(open, g)
		}
		for len(open) > 0 && open[len(open)-1].left == 0 {
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return nil, errThrift
	}
	return leaves, nil
}

// rowGroup walks one RowGroup and returns its number of rows.
func rowGroup(t *thriftReader, chunks *[]parquetChunk) (rows int64, err error) {
	err = t.fields(1, func(id int, typ byte) (err error) {
		switch {
		case id == 1 && typ == thriftList:
			n, elem, err := t.list()
			if err != nil || (n > 0 && elem != thriftStruct) {
				return errThrift
			}
			for range n {
				c, err := columnChunk(t)
				if err != nil {
					return err
				}
				*chunks = append(*chunks, c)
			}
			return nil
		case id == 3 && typ == thriftI64:
			rows, err = t.int()
			return err
		}
		return t.skip(typ, 1)
	})
	if err != nil {
		return 0, err
	}
	for _, c := range *chunks {
		if rows < 0 || c.values < rows {
			return 0, fmt.Errorf("%d values in a group of %d rows", c.values, rows)
		}
	}
	return rows, nil
}

// columnChunk walks one ColumnChunk and its ColumnMetaData.
func columnChunk(t *thriftReader) (c parquetChunk, err error) {
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
			into := map[int]*int64{4: &c.codec, 5: &c.values, 6: &c.uncompressed, 7: &c.compressed, 9: &c.data, 11: &c.dict}[id]
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

// ratio is how much a codec can expand at the most; 0 means the codec has no
// useful bound.
func (c parquetChunk) ratio() int64 {
	switch c.codec {
	case 0: // uncompressed
		return 1
	case 1: // snappy: a two-byte copy gives at most 64 bytes
		return 33
	case 2: // gzip
		return 1040
	case 5, 7: // lz4
		return 256
	}
	return 0
}

// checkGroup checks the pages of a row group before they are decoded.
func checkGroup(r io.ReaderAt, end int64, chunks []parquetChunk) error {
	var b pageBuffers
	for _, c := range chunks {
		if err := checkChunk(r, end, c, &b); err != nil {
			return err
		}
	}
	return nil
}

// checkChunk walks the pages of a column chunk: their headers, and the lengths
// and counts that the data themselves have.
func checkChunk(r io.ReaderAt, end int64, c parquetChunk, b *pageBuffers) error {
	at := c.data
	if c.dict > 0 && c.dict < at {
		at = c.dict
	}
	if at < 4 || c.compressed < 0 || c.uncompressed < 0 || c.values < 0 || c.compressed > end-at {
		return fmt.Errorf("a column chunk of %d bytes at %d in a file of %d", c.compressed, at, end)
	}
	stop := at + c.compressed
	var values int64
	buf := make([]byte, 256)
	for at < stop && values < c.values {
		p, n, err := readPageHeader(r, at, stop, &buf)
		if err != nil {
			return err
		}
		at += n
		if p.compressed < 0 || p.compressed > stop-at {
			return fmt.Errorf("a page of %d bytes at %d that ends beyond its column", p.compressed, at)
		}
		limit := int64(maxPageBytes)
		if k := c.ratio(); k > 0 {
			limit = min(limit, p.compressed*k+1024)
		}
		if p.uncompressed < 0 || p.uncompressed > limit {
			return fmt.Errorf("a page at %d that claims %d bytes from %d", at, p.uncompressed, p.compressed)
		}
		if p.values < 0 || p.values > maxPageValues || (p.dict && p.values > 8*p.uncompressed) {
			return fmt.Errorf("a page at %d that claims %d values in %d bytes", at, p.values, p.uncompressed)
		}
		if !p.dict {
			values += p.values
		}
		if p.levels < 0 || p.levels > p.compressed || p.repBytes > p.levels {
			return fmt.Errorf("a page at %d with levels of %d bytes", at, p.levels)
		}
		if err := b.checkData(r, at, c, p); err != nil {
			return err
		}
		at += p.compressed
	}
	if values != c.values {
		return fmt.Errorf("pages with %d values in a column of %d", values, c.values)
	}
	return nil
}

// A pageHeader is what bounds the memory of a page.
type pageHeader struct {
	compressed, uncompressed, values, levels int64
	dict                                     bool
	encoding                                 int64
	repBytes                                 int64 // of v2, first part of levels
	v2                                       bool
	plain                                    bool // a v2 page that says it is not compressed
}

// readPageHeader reads the header at an offset and returns its length.
func readPageHeader(r io.ReaderAt, at, stop int64, buf *[]byte) (pageHeader, int64, error) {
	for {
		b := (*buf)[:min(int64(len(*buf)), stop-at)]
		n, err := r.ReadAt(b, at)
		if err != nil && err != io.EOF {
			return pageHeader{}, 0, err
		}
		t := &thriftReader{b: b[:n]}
		p, perr := parsePageHeader(t)
		if perr == nil {
			return p, int64(t.pos), nil
		}
		if int64(len(b)) == stop-at || len(*buf) >= maxPageHeader {
			return pageHeader{}, 0, fmt.Errorf("no page header at %d: %w", at, perr)
		}
		*buf = make([]byte, 4*len(*buf)) // statistics can make a header long
	}
}

func parsePageHeader(t *thriftReader) (p pageHeader, err error) {
	err = t.fields(0, func(id int, typ byte) (err error) {
		switch {
		case id == 2 && typ == thriftI32:
			p.uncompressed, err = t.int()
		case id == 3 && typ == thriftI32:
			p.compressed, err = t.int()
		case (id == 5 || id == 7 || id == 8) && typ == thriftStruct:
			p.dict = id == 7
			v2 := id == 8
			p.v2 = v2
			return t.fields(1, func(id int, typ byte) error {
				if v2 && id == 7 && (typ == thriftTrue || typ == thriftFalse) {
					p.plain = typ == thriftFalse
					return nil
				}
				isEncoding := id == 2 && !v2 || id == 4 && v2
				if typ != thriftI32 || (id != 1 && !isEncoding && !(v2 && (id == 5 || id == 6))) {
					return t.skip(typ, 1)
				}
				n, err := t.int()
				if id == 1 {
					p.values = n
				} else if isEncoding {
					p.encoding = n
				} else if n < 0 {
					return errThrift
				} else {
					p.levels += n
					if id == 6 {
						p.repBytes = n
					}
				}
				return err
			})
		default:
			return t.skip(typ, 0)
		}
		return err
	})
	return p, err
}
