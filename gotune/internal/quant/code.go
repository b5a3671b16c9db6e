package quant

import (
	"cmp"
	"math"
	"slices"
)

// Type names a 4-bit code.
type Type string

// The two codes of bitsandbytes.
const (
	NF4 Type = "nf4"
	FP4 Type = "fp4"
)

// nf4Levels are the values of the NF4 codes 0 to 15, ascending: quantiles of the
// normal distribution, scaled so that zero and both ends are exact (QLoRA,
// appendix E).
var nf4Levels = [16]float32{
	-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
	-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
	0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
	0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
}

// fp4Levels are the values of the FP4 codes 0 to 15: the top bit is the sign, the
// others are not in the order of their values.
var fp4Levels = [16]float32{
	0, 0.0052083334885537624, 0.6666666865348816, 1,
	0.3333333432674408, 0.5, 0.1666666716337204, 0.25,
	0, -0.0052083334885537624, -0.6666666865348816, -1,
	-0.3333333432674408, -0.5, -0.1666666716337204, -0.25,
}

// Code returns the value of each of the 16 codes. An unknown type gives zeros.
func Code(typ Type) [16]float32 {
	switch typ {
	case NF4:
		return nf4Levels
	case FP4:
		return fp4Levels
	}
	return [16]float32{}
}

// ladder is a code in ascending order: level k has the code codes[k], and
// bounds[k] is the midpoint between the levels k and k+1.
type ladder struct {
	codes  [16]byte
	bounds [15]float32
}

func newLadder(levels [16]float32) *ladder {
	var l ladder
	for i := range l.codes {
		l.codes[i] = byte(i)
	}
	slices.SortStableFunc(l.codes[:], func(a, b byte) int { return cmp.Compare(levels[a], levels[b]) })
	for k := range l.bounds {
		l.bounds[k] = (levels[l.codes[k]] + levels[l.codes[k+1]]) / 2
	}
	return &l
}

// code is the plain rule: it counts the midpoints below s.
func (l *ladder) code(s float32) byte {
	k := 0
	for _, b := range l.bounds {
		if b < s {
			k++
		}
	}
	return l.codes[k]
}

// cell is a stretch of [-1, 1] that holds at most one midpoint. A value up to mid
// has the code in the low byte of codes, a value above it the code in the next.
type cell struct {
	mid   float32
	codes uint32
}

// grid finds a value's code without branches: its cell by a multiplication, its
// side of the cell's midpoint by one comparison.
//
// Why this is exact: the cell's number at(s) never falls as s grows, whatever is
// rounded on the way, and each midpoint b was put into the cell at(b). So a value
// in a lower cell lies below b, a value in a higher cell above it, and within the
// cell it is compared with b itself. No two midpoints may share a cell; newGrid
// checks that.
type grid struct {
	scale float32
	cells [2048]cell
}

// at returns the number of the cell of s, for s in [-1, 1] or a rounding error
// beyond. The mask keeps any other value inside the table.
func (g *grid) at(s float32) uint32 { return uint32(int32(float32(s*g.scale)+g.scale)) & 2047 }

// newGrid builds the table with cells of width 1/scale. Scale is a power of two
// of at most 512.
func newGrid(l *ladder, scale float32) *grid {
	g := &grid{scale: scale}
	next := 0 // the first midpoint that lies in this cell or a later one
	for i := range g.cells {
		g.cells[i] = cell{float32(math.Inf(1)), uint32(l.codes[next])}
		if next < len(l.bounds) && g.at(l.bounds[next]) == uint32(i) {
			g.cells[i] = cell{l.bounds[next], uint32(l.codes[next]) | uint32(l.codes[next+1])<<8}
			next++
			if next < len(l.bounds) && g.at(l.bounds[next]) == uint32(i) {
				panic("quant: two midpoints share a cell")
			}
		}
	}
	return g
}

// code returns the code of s; it equals ladder.code.
func (g *grid) code(s float32) byte {
	c := &g.cells[g.at(s)]
	above := uint32(0)
	if s > c.mid {
		above = 8
	}
	return byte(c.codes >> above)
}

// codec holds what packing into one code needs.
type codec struct {
	levels [16]float32
	ladder *ladder
	grid   *grid
	tree   *tree // nil where there is no kernel
}

// The narrowest gap between midpoints is 0.0798 in NF4 and 0.0026 in FP4.
var codecs = map[Type]*codec{
	NF4: newCodec(nf4Levels, 16),
	FP4: newCodec(fp4Levels, 512),
}

func newCodec(levels [16]float32, scale float32) *codec {
	l := newLadder(levels)
	g := newGrid(l, scale)
	return &codec{levels, l, g, newTree(l, g)}
}
