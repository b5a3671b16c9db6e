package dataset

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// maxRowValues bounds the elements of a row's lists: a few bytes of run lengths
// can stand for very many.
const maxRowValues = 1 << 22

// parquetRows reads the rows of a Parquet file. It decodes the pages by itself:
// the memory it needs is a page of each column, whatever counts the file claims.
type parquetRows struct {
	f     *os.File
	path  string
	size  int64
	meta  *parquetMeta
	names []string
	u     unpacker

	group   int // next group
	left    int64
	values  int // of the row at hand
	readers []*columnReader
	row     int64
}

func openParquet(f *os.File, path string, size int64) (rows, error) {
	meta, err := readParquetMeta(f, size)
	if err != nil {
		return nil, corrupt(path, err.Error(), "a whole Parquet file")
	}
	r := &parquetRows{f: f, path: path, size: size, meta: meta}
	for _, n := range meta.root.children {
		r.names = append(r.names, n.name)
	}
	return r, nil
}

func (r *parquetRows) columns() []string { return r.names }

func (r *parquetRows) progress() (int64, int64) {
	if r.meta.rows == 0 {
		return r.size, r.size
	}
	return int64(float64(r.size) * float64(r.row) / float64(r.meta.rows)), r.size
}

func (r *parquetRows) close() {
	r.u.close()
	r.f.Close()
}

func (r *parquetRows) corrupt(column string, err error) error {
	object := fmt.Sprintf("%s, row %d", r.path, r.row)
	if column != "" {
		object += ", column " + strconv.Quote(column)
	}
	return corrupt(object, err.Error(), "a whole Parquet file")
}

func (r *parquetRows) next() (Row, error) {
	for r.left == 0 {
		for i, c := range r.readers {
			if c.have {
				return Row{}, r.corrupt(r.meta.leaves[i].name, errors.New("more values than rows"))
			}
		}
		if r.group == len(r.meta.groups) {
			return Row{}, io.EOF
		}
		if err := r.open(r.meta.groups[r.group]); err != nil {
			return Row{}, err
		}
		r.group++
	}
	r.values = 0
	row := Row{Columns: r.names, Values: make([]any, len(r.names))}
	for i, n := range r.meta.root.children {
		c := r.readers[n.leaf]
		if !c.have || c.rep != 0 {
			return Row{}, r.corrupt(n.name, errLevels)
		}
		v, err := r.value(n)
		if err != nil {
			return Row{}, r.corrupt(n.name, err)
		}
		row.Values[i] = v
	}
	r.left--
	r.row++
	return row, nil
}

// open starts a row group.
func (r *parquetRows) open(g parquetGroup) error {
	r.left, r.readers = g.rows, make([]*columnReader, len(g.chunks))
	for i, c := range g.chunks {
		var err error
		if r.readers[i], err = newColumnReader(r.f, &r.u, r.meta.leaves[i], c); err != nil {
			return r.corrupt(r.meta.leaves[i].name, err)
		}
	}
	return nil
}

var errLevels = errors.New("levels that contradict each other")

// value puts together the value of a node from the entries of its leaves. See
// Melnik et al., "Dremel: Interactive Analysis of Web-Scale Datasets", section 4.2.
func (r *parquetRows) value(n *parquetNode) (any, error) {
	c := r.readers[n.leaf]
	if !c.have {
		return nil, errLevels
	}
	if n.repetition != 2 {
		if c.def < n.def {
			return nil, r.drop(n)
		}
		return r.single(n)
	}
	list := []any{}
	if c.def < n.def {
		return list, r.drop(n)
	}
	for {
		e, err := r.single(n)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
		if r.values++; r.values > maxRowValues {
			return nil, fmt.Errorf("more than %d values in a row", maxRowValues)
		}
		if !c.have || c.rep != n.rep {
			return list, nil
		}
	}
}

// drop takes one entry from each leaf of a node that is null or empty here.
func (r *parquetRows) drop(n *parquetNode) error {
	for _, c := range r.readers[n.leaf : n.leaf+n.leaves] {
		if !c.have || c.def >= n.def {
			return errLevels
		}
		if err := c.next(); err != nil {
			return err
		}
	}
	return nil
}

// single reads one value of a node that is there.
func (r *parquetRows) single(n *parquetNode) (any, error) {
	if len(n.children) == 0 {
		c := r.readers[n.leaf]
		if !c.have || c.def < n.def {
			return nil, errLevels
		}
		v := c.value
		return v, c.next()
	}
	if n.isList {
		return r.list(n)
	}
	row := Row{Columns: make([]string, len(n.children)), Values: make([]any, len(n.children))}
	for i, child := range n.children {
		v, err := r.value(child)
		if err != nil {
			return nil, err
		}
		row.Columns[i], row.Values[i] = child.name, v
	}
	return row, nil
}

// list reads a LIST group: its repeated child is the list itself, and that
// child's only field the element (three-level form), unless the child is the
// element (two-level form of old writers).
func (r *parquetRows) list(n *parquetNode) (any, error) {
	rep := n.children[0]
	v, err := r.value(rep)
	if err != nil {
		return nil, err
	}
	elems, ok := v.([]any)
	if !ok || len(rep.children) != 1 || rep.name == "array" || rep.name == n.name+"_tuple" {
		return v, nil
	}
	for i, e := range elems {
		if row, ok := e.(Row); ok && len(row.Values) == 1 {
			elems[i] = row.Values[0]
		}
	}
	return elems, nil
}
