package quant

import "golang.org/x/sys/cpu"

var hasAVX512 = cpu.X86.HasAVX512F

// cells32 is a grid of 32 cells for two registers of 16, for a code that rises by
// one from level to level (NF4).
type cells32 struct {
	mids       [32]float32 // infinite where a cell has no midpoint
	codes      [32]uint32  // of a value up to the midpoint
	scale      float32     // 16
	last       uint32      // 31
	step       uint32      // 1
	abs        uint32      // masks the sign off
	tiny, unit float32
}

// newCells32 returns nil for a grid that is not like that. The cell of the value 1
// is the 33rd, and joins the last: no midpoint lies in either.
func newCells32(l *ladder, g *grid) *cells32 {
	if g.scale != 16 {
		return nil
	}
	t := &cells32{scale: g.scale, last: 31, step: 1, abs: 0x7fffffff, tiny: tiny, unit: 1}
	for i := range t.mids {
		t.mids[i], t.codes[i] = g.cells[i].mid, g.cells[i].codes&0xff
	}
	for k, c := range l.codes {
		if int(c) != k {
			return nil
		}
	}
	return t
}

// packAVX512 is [packAVX2] by cells.
//
//go:noescape
func packAVX512(dst *byte, absmax, x *float32, blocks, size int, t *cells32) (done int)
