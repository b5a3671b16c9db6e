package lora

// delta computes rows of s·(B·A) for one module.
//
// A is repacked once into panels of 32 columns, [in/32][R][32], so that a panel
// (8 KiB at R = 64) stays in the nearest cache while every row of B passes over
// it. mul2 then computes 2 rows × 32 columns in registers: each value of A that
// is loaded serves two rows.
type delta struct {
	b      []float32 // [out, R]
	packed []float32 // A, in panels; columns past in are zero
	scale  float32   // applied after the sum, where PEFT applies it
	r, in  int
	stride int // in, rounded up to whole panels
}

// panel is the number of columns that mul2 computes at once.
const panel = 32

func newDelta(m *Module, cfg Config) *delta {
	r := cfg.R
	d := &delta{b: m.B, r: r, in: m.In, scale: float32(cfg.Scale()), stride: (m.In + panel - 1) / panel * panel}
	d.packed = make([]float32, d.stride*r)
	for k := range r {
		row := m.A[k*m.In : (k+1)*m.In]
		for c := 0; c < m.In; c += panel {
			copy(d.packed[c*r+k*panel:][:panel], row[c:min(c+panel, m.In)])
		}
	}
	return d
}

// rowsPerBlock is the number of rows that one call of rows should take, so that
// its buffer stays at a quarter of a megabyte. It is even.
func (d *delta) rowsPerBlock() int { return max(2, (1<<16)/d.stride&^1) }

// buffer returns room for one block of rows.
func (d *delta) buffer() []float32 { return make([]float32, d.rowsPerBlock()*d.stride) }

// rows computes the rows [from, from+n) into buf and returns a function that
// gives row i of them, [in]. n is at most rowsPerBlock.
func (d *delta) rows(buf []float32, from, n int) func(i int) []float32 {
	buf = buf[:n*d.stride]
	for c := 0; c < d.stride; c += panel {
		a := d.packed[c*d.r : (c+panel)*d.r]
		for i := 0; i < n; i += 2 {
			j := min(i+1, n-1) // an odd last row is computed twice
			mul2(buf[i*d.stride+c:][:panel], buf[j*d.stride+c:][:panel], d.row(from+i), d.row(from+j), a)
		}
	}
	if d.scale != 1 {
		for i := range buf {
			buf[i] *= d.scale
		}
	}
	return func(i int) []float32 { return buf[i*d.stride : i*d.stride+d.in] }
}

func (d *delta) row(i int) []float32 { return d.b[i*d.r : (i+1)*d.r] }

// mul2Plain is the rule of mul2: x[c] = Σ_k b0[k]·a[k, c], y[c] = Σ_k b1[k]·a[k, c]
// for the panel's columns c, a [R, 32].
func mul2Plain(x, y, b0, b1, a []float32) {
	var sx, sy [panel]float32
	for k := range b0 {
		p, q := b0[k], b1[k]
		for c, v := range a[k*panel : (k+1)*panel] {
			sx[c] += p * v
			sy[c] += q * v
		}
	}
	copy(x, sx[:])
	copy(y, sy[:])
}
