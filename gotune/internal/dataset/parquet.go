package dataset

import (
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/format"
)

// parquetBatch is how many rows are decoded at once; pages, not this, decide
// about memory.
const parquetBatch = 32

// parquetRows reads the rows of a Parquet file, group by group.
type parquetRows struct {
	f       *os.File
	path    string
	size    int64
	names   []string
	tree    []*parquetNode
	leaves  int
	logical []format.LogicalType // of each leaf, as the footer has it
	groups  []parquet.RowGroup
	chunks  [][]parquetChunk // of the groups
	end     int64            // of the column data
	total   int64

	rows  parquet.Rows
	batch [parquetBatch]parquet.Row
	have  int
	at    int
	row   int64
}

func openParquet(f *os.File, path string, size int64) (rows, error) {
	chunks, end, err := checkParquet(f, path, size)
	if err != nil {
		return nil, err
	}
	p, err := parquet.OpenFile(f, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, corrupt(path, err.Error(), "a Parquet file")
	}
	r := &parquetRows{f: f, path: path, size: size, groups: p.RowGroups(), chunks: chunks, end: end, total: p.NumRows()}
	if len(r.groups) != len(chunks) {
		return nil, corrupt(path, "a footer that can be read in two ways", "a Parquet file")
	}
	for i, e := range p.Metadata().Schema {
		if n, ok := e.NumChildren.V, e.NumChildren.Valid; i > 0 && (!ok || n == 0) {
			r.logical = append(r.logical, e.LogicalType)
		}
	}
	for _, c := range p.Root().Columns() {
		n, err := r.node(c, 0)
		if err != nil {
			return nil, err
		}
		r.tree = append(r.tree, n)
		r.names = append(r.names, c.Name())
	}
	return r, nil
}

// A parquetNode is a column or a group of the schema.
type parquetNode struct {
	name               string
	optional, repeated bool
	def, rep           int // maximum levels
	firstLeaf, leaves  int // leaf columns below, in order
	children           []*parquetNode
	list               bool // LIST: the one repeated child holds the elements
	convert            func(parquet.Value) (any, error)
}

func (r *parquetRows) node(c *parquet.Column, depth int) (*parquetNode, error) {
	if depth > maxDepth {
		return nil, corrupt(r.path, "columns nested too deep", fmt.Sprintf("at most %d levels", maxDepth))
	}
	n := &parquetNode{name: c.Name(), optional: c.Optional(), repeated: c.Repeated(), def: c.MaxDefinitionLevel(), rep: c.MaxRepetitionLevel(), firstLeaf: r.leaves}
	if c.Leaf() {
		n.leaves = 1
		r.leaves++
		lt := c.Type().LogicalType()
		if lt == nil && n.firstLeaf < len(r.logical) && r.logical[n.firstLeaf].Value != nil {
			lt = &r.logical[n.firstLeaf] // some annotations don't reach the decoder's types
		}
		n.convert = converter(c.Type(), lt)
		return n, nil
	}
	for _, child := range c.Columns() {
		m, err := r.node(child, depth+1)
		if err != nil {
			return nil, err
		}
		n.children = append(n.children, m)
		n.leaves += m.leaves
	}
	if n.leaves == 0 {
		return nil, corrupt(r.path, "a group without columns: "+n.name, "columns")
	}
	if len(n.children) == 1 && n.children[0].repeated && !n.repeated {
		if t := c.Type(); t != nil && t.LogicalType() != nil {
			_, n.list = t.LogicalType().Value.(*format.ListType)
		}
		if !n.list { // older writers note only the converted type
			name := n.children[0].name
			n.list = name == "list" || name == "bag" || name == "array"
		}
	}
	return n, nil
}

func (r *parquetRows) columns() []string { return r.names }

func (r *parquetRows) progress() (int64, int64) {
	if r.total == 0 {
		return r.size, r.size
	}
	return int64(float64(r.size) * float64(r.row) / float64(r.total)), r.size
}

func (r *parquetRows) close() {
	if r.rows != nil {
		r.rows.Close()
	}
	r.f.Close()
}

func (r *parquetRows) object() string { return fmt.Sprintf("%s, row %d", r.path, r.row) }

func (r *parquetRows) next() (Row, error) {
	for r.at >= r.have {
		if err := r.fill(); err != nil {
			return Row{}, err
		}
	}
	row := r.batch[r.at]
	r.at++
	out, err := r.assemble(row)
	if err != nil {
		return Row{}, err
	}
	r.row++
	return out, nil
}

// fill decodes the next batch.
func (r *parquetRows) fill() error {
	if r.rows == nil {
		if len(r.groups) == 0 {
			if r.row != r.total {
				return corrupt(r.object(), "no more rows", fmt.Sprintf("%d, as the footer says", r.total))
			}
			return io.EOF
		}
		if err := checkGroup(r.f, r.end, r.chunks[0]); err != nil {
			return corrupt(r.object(), err.Error(), "a whole Parquet file")
		}
		r.rows = r.groups[0].Rows()
		r.groups, r.chunks = r.groups[1:], r.chunks[1:]
	}
	n, err := r.rows.ReadRows(r.batch[:])
	r.have, r.at = n, 0
	if err == io.EOF {
		r.rows.Close()
		r.rows = nil
		return nil
	}
	if err != nil {
		return corrupt(r.object(), err.Error(), "rows")
	}
	if n == 0 {
		return corrupt(r.object(), "no rows where some should be", "rows")
	}
	return nil
}

// A levelCursor walks the values that one leaf column has in a row.
type levelCursor struct{ values []parquet.Value }

// assembler puts nested values together from repetition and definition levels.
// See Melnik et al., "Dremel", section 4.2.
type assembler struct{ leaves []levelCursor }

func (r *parquetRows) assemble(row parquet.Row) (Row, error) {
	a := assembler{leaves: make([]levelCursor, r.leaves)}
	bad := false
	next := 0
	row.Range(func(column int, values []parquet.Value) bool {
		if column != next || column >= r.leaves {
			bad = true
			return false
		}
		a.leaves[column].values = values
		next++
		return true
	})
	if bad || next != r.leaves {
		return Row{}, corrupt(r.object(), fmt.Sprintf("values of %d columns", next), fmt.Sprintf("%d", r.leaves))
	}
	out := Row{Columns: r.names, Values: make([]any, len(r.tree))}
	for i, n := range r.tree {
		v, err := a.value(n)
		if err != nil {
			return Row{}, corrupt(r.object()+", column "+strconv.Quote(n.name), err.Error(), "a value of its type")
		}
		out.Values[i] = v
	}
	for i := range a.leaves {
		if len(a.leaves[i].values) != 0 {
			return Row{}, corrupt(r.object(), "more values than the levels say", "as many")
		}
	}
	return out, nil
}

var errLevels = fmt.Errorf("levels that contradict each other")

// peek is the next value of a node's first leaf.
func (a *assembler) peek(n *parquetNode) (parquet.Value, bool) {
	vs := a.leaves[n.firstLeaf].values
	if len(vs) == 0 {
		return parquet.Value{}, false
	}
	return vs[0], true
}

// drop takes one value from each leaf of a node that is null or empty here.
func (a *assembler) drop(n *parquetNode) error {
	for i := n.firstLeaf; i < n.firstLeaf+n.leaves; i++ {
		if len(a.leaves[i].values) == 0 {
			return errLevels
		}
		a.leaves[i].values = a.leaves[i].values[1:]
	}
	return nil
}

func (a *assembler) value(n *parquetNode) (any, error) {
	v, ok := a.peek(n)
	if !ok {
		return nil, errLevels
	}
	if n.repeated {
		list := []any{}
		if v.DefinitionLevel() < n.def {
			return list, a.drop(n)
		}
		for {
			e, err := a.single(n)
			if err != nil {
				return nil, err
			}
			list = append(list, e)
			if v, ok := a.peek(n); !ok || v.RepetitionLevel() != n.rep {
				return list, nil
			}
		}
	}
	if n.optional && v.DefinitionLevel() < n.def {
		return nil, a.drop(n)
	}
	return a.single(n)
}

// single reads one value of a node that is there.
func (a *assembler) single(n *parquetNode) (any, error) {
	if n.convert != nil {
		vs := a.leaves[n.firstLeaf].values
		if len(vs) == 0 || vs[0].IsNull() {
			return nil, errLevels
		}
		a.leaves[n.firstLeaf].values = vs[1:]
		return n.convert(vs[0])
	}
	if n.list {
		return a.list(n)
	}
	row := Row{Columns: make([]string, len(n.children)), Values: make([]any, len(n.children))}
	for i, c := range n.children {
		v, err := a.value(c)
		if err != nil {
			return nil, err
		}
		row.Columns[i], row.Values[i] = c.name, v
	}
	return row, nil
}

// list reads a LIST group: its repeated child is the list itself, and that
// child's only field the element (three-level form), unless the child is the
// element (two-level form of old writers).
func (a *assembler) list(n *parquetNode) (any, error) {
	rep := n.children[0]
	v, err := a.value(rep)
	if err != nil {
		return nil, err
	}
	elems, ok := v.([]any)
	if !ok {
		return nil, errLevels
	}
	if len(rep.children) != 1 || rep.name == "array" || rep.name == n.name+"_tuple" {
		return elems, nil
	}
	for i, e := range elems {
		if row, ok := e.(Row); ok && len(row.Values) == 1 {
			elems[i] = row.Values[0]
		}
	}
	return elems, nil
}

// converter picks how the values of a leaf become Go values.
func converter(t parquet.Type, lt *format.LogicalType) func(parquet.Value) (any, error) {
	if lt == nil {
		if ct := t.ConvertedType(); ct != nil && *ct == deprecated.UTF8 {
			return textValue
		}
		return plainValue
	}
	switch a := lt.Value.(type) {
	case *format.StringType, *format.EnumType, *format.JsonType:
		return textValue
	case *format.DateType:
		return func(v parquet.Value) (any, error) { return isoDate(int64(v.Int32())), nil }
	case *format.TimestampType:
		if a.Unit.Value == nil {
			return plainValue
		}
		unit := a.Unit.Value.Duration()
		return func(v parquet.Value) (any, error) { return isoTime(v.Int64(), unit), nil }
	case *format.DecimalType:
		scale := int(a.Scale)
		return func(v parquet.Value) (any, error) { return decimalText(v, scale) }
	case *format.Float16Type:
		return func(v parquet.Value) (any, error) {
			b := v.ByteArray()
			if len(b) != 2 {
				return nil, fmt.Errorf("a 16-bit number of %d bytes", len(b))
			}
			return halfFloat(uint16(b[0]) | uint16(b[1])<<8), nil
		}
	case *format.IntType:
		if !a.IsSigned {
			return unsignedValue
		}
	}
	return plainValue
}

func unsignedValue(v parquet.Value) (any, error) {
	switch v.Kind() {
	case parquet.Int32:
		return int64(v.Uint32()), nil
	case parquet.Int64:
		return unsigned(v.Uint64()), nil
	}
	return nil, fmt.Errorf("an unsigned integer of kind %v", v.Kind())
}

func textValue(v parquet.Value) (any, error) {
	b := v.ByteArray()
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("text that is not UTF-8")
	}
	return string(b), nil
}

func plainValue(v parquet.Value) (any, error) {
	switch v.Kind() {
	case parquet.Boolean:
		return v.Boolean(), nil
	case parquet.Int32:
		return int64(v.Int32()), nil
	case parquet.Int64:
		return v.Int64(), nil
	case parquet.Float:
		return float64(v.Float()), nil
	case parquet.Double:
		return v.Double(), nil
	case parquet.ByteArray, parquet.FixedLenByteArray:
		return bytesValue(v.ByteArray()), nil
	case parquet.Int96:
		return int96Time(v.Int96()), nil
	}
	return nil, fmt.Errorf("a value of kind %v", v.Kind())
}

// int96Time reads the old timestamp: nanoseconds of a Julian day.
func int96Time(v deprecated.Int96) string {
	nanos := int64(uint64(v[1])<<32 | uint64(v[0]))
	const julianUnixEpoch = 2440588
	return time.Unix((int64(v[2])-julianUnixEpoch)*86400, nanos).UTC().Format(isoLayout)
}

func decimalText(v parquet.Value, scale int) (any, error) {
	n := new(big.Int)
	switch v.Kind() {
	case parquet.Int32:
		n.SetInt64(int64(v.Int32()))
	case parquet.Int64:
		n.SetInt64(v.Int64())
	default:
		b := v.ByteArray()
		if len(b) > 64 {
			return nil, fmt.Errorf("a decimal of %d bytes", len(b))
		}
		n = twosComplement(b)
	}
	return shiftDecimal(n, scale)
}
