package batch

import (
	"fmt"
	"slices"
)

// A Collator pads examples on the right into batches of a closed set of shapes.
type Collator struct {
	// Buckets are the lengths a batch may have, ascending. A batch takes the
	// first that holds its longest row.
	Buckets []int

	// Pad is the id written on padding. Any valid id will do: padding is masked
	// by segment, never by id.
	Pad int32
}

// Shape returns the length in tokens of the batch that holds rows of at most
// longest tokens.
func (c Collator) Shape(longest int) (int, error) {
	for _, s := range c.Buckets {
		if longest <= s {
			return s, nil
		}
	}
	return 0, fmt.Errorf("batch: a row has %d tokens, the buckets %v hold at most %d: clip rows or choose buckets from all lengths", longest, c.Buckets, c.limit())
}

func (c Collator) limit() int {
	if len(c.Buckets) == 0 {
		return 0
	}
	return c.Buckets[len(c.Buckets)-1]
}

// Collate lays the examples out as the first rows of a batch with the given
// number of rows; the rest are padding. It fails for more examples than rows,
// rows longer than the last bucket, and pieces that don't sum to their row.
func (c Collator) Collate(examples []Example, rows int) (*Batch, error) {
	if len(examples) == 0 || len(examples) > rows {
		return nil, fmt.Errorf("batch: %d examples for a batch of %d rows: wanted between 1 and %d", len(examples), rows, rows)
	}
	s, err := c.Shape(slices.Max(Lengths(examples)))
	if err != nil {
		return nil, err
	}
	n := rows * s
	b := &Batch{B: rows, S: s, IDs: make([]int32, n), Labels: make([]int32, n), Positions: make([]int32, n), Segments: make([]int32, n)}
	for i := range n {
		b.IDs[i], b.Labels[i] = c.Pad, Ignore
	}
	for r := range examples {
		if err := b.fill(r, &examples[r]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *Batch) fill(row int, e *Example) error {
	if len(e.Labels) != len(e.IDs) {
		return fmt.Errorf("batch: row %d has %d ids but %d labels", row, len(e.IDs), len(e.Labels))
	}
	at := row * b.S
	copy(b.IDs[at:], e.IDs)
	copy(b.Labels[at:], e.Labels)
	pieces := e.Pieces
	if pieces == nil {
		pieces = []int{len(e.IDs)}
	}
	end := at + len(e.IDs)
	for k, n := range pieces {
		if n < 0 || at+n > end {
			return fmt.Errorf("batch: row %d: pieces %v don't fit its %d tokens", row, pieces, len(e.IDs))
		}
		for i := range n {
			b.Positions[at+i], b.Segments[at+i] = int32(i), int32(k+1)
		}
		if n > 0 {
			b.Labels[at] = Ignore
		}
		at += n
	}
	if at != end {
		return fmt.Errorf("batch: row %d: pieces %v don't sum to its %d tokens", row, pieces, len(e.IDs))
	}
	return nil
}

// BucketOptions bound the shapes that [Buckets] chooses.
type BucketOptions struct {
	// Multiple rounds lengths up to a multiple of it, which keeps matrix units
	// busy. Default 32.
	Multiple int

	// Most is the greatest number of buckets: each is compiled once. Default 4, and 16
	// with a Price.
	Most int

	// Gain is the share of all tokens that one more bucket must save to be worth
	// its compilation. Default 0.03. A Price stands before it.
	Gain float64

	// Price is what the compilation of one more bucket costs, in tokens that the device
	// trains on meanwhile: on a slow device many lengths are worth it, on a fast one
	// few. 0: Gain decides.
	Price int
}

// Buckets chooses lengths for batches whose longest rows have the given
// lengths, so that the tokens computed, Σ bucket(length), are fewest with at
// most o.Most buckets; a further bucket is taken only if it saves o.Gain of
// them, or o.Price. The last bucket holds the longest. It is exact (dynamic programming over
// the rounded lengths) and returns nil for no lengths.
func Buckets(lengths []int, o BucketOptions) []int {
	o = o.withDefaults()
	if len(lengths) == 0 {
		return nil
	}
	sizes, counts := histogram(lengths, o.Multiple)
	cost, cut := bucketTable(sizes, counts, min(o.Most, len(sizes)))
	last := len(sizes)
	k := 1
	worth := func(k int) bool {
		saved := float64(cost[k][last] - cost[k+1][last])
		if o.Price > 0 {
			return saved >= float64(o.Price)
		}
		return saved >= o.Gain*float64(cost[k][last])
	}
	for k+1 < len(cost) && worth(k) {
		k++
	}
	out := make([]int, k)
	for j := last; k > 0; k-- {
		out[k-1] = sizes[j-1]
		j = cut[k][j]
	}
	return out
}

func (o BucketOptions) withDefaults() BucketOptions {
	if o.Multiple <= 0 {
		o.Multiple = 32
	}
	if o.Most <= 0 {
		o.Most = 4
		if o.Price > 0 {
			o.Most = 16
		}
	}
	if o.Gain <= 0 {
		o.Gain = 0.03
	}
	return o
}

// histogram rounds lengths up and counts them: sizes ascending, counts alike.
func histogram(lengths []int, multiple int) (sizes, counts []int) {
	seen := map[int]int{}
	for _, n := range lengths {
		seen[(max(n, 1)+multiple-1)/multiple*multiple]++
	}
	for n := range seen {
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	for _, n := range sizes {
		counts = append(counts, seen[n])
	}
	return sizes, counts
}

// bucketTable solves cost[k][j] = min over i < j of cost[k-1][i] +
// sizes[j-1]·Σ counts[i:j]: the fewest tokens for the j smallest sizes in k
// buckets. cut[k][j] is the best i.
func bucketTable(sizes, counts []int, most int) (cost [][]int, cut [][]int) {
	const inf = 1 << 60
	n := len(sizes)
	sum := make([]int, n+1)
	for j, c := range counts {
		sum[j+1] = sum[j] + c
	}
	cost, cut = make([][]int, most+1), make([][]int, most+1)
	for k := range cost {
		cost[k], cut[k] = make([]int, n+1), make([]int, n+1)
		for j := range cost[k] {
			cost[k][j] = inf
		}
	}
	cost[0][0] = 0
	for k := 1; k <= most; k++ {
		for j := k; j <= n; j++ {
			for i := k - 1; i < j; i++ {
				if cost[k-1][i] == inf {
					continue
				}
				if c := cost[k-1][i] + sizes[j-1]*(sum[j]-sum[i]); c < cost[k][j] {
					cost[k][j], cut[k][j] = c, i
				}
			}
		}
	}
	return cost, cut
}
