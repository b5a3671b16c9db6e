package layerwise

import (
	"fmt"
	"math"

	"github.com/gotune/gotune/gotune/internal/batch"
)

// geometry is the static shape of one call: B rows of S tokens, and which attention they
// take: plain, or fused, and that of whole rows where neither biased nor ragged is set.
type geometry struct {
	b, s   int
	fused  bool
	biased bool    // fused attention takes a bias: packed rows, or a window
	ragged *ragged // fused attention takes the documents of packed rows as they lie, else nil
}

func (m geometry) key() string {
	switch {
	case m.ragged != nil:
		return fmt.Sprintf("B%d S%d fused ragged %s", m.b, m.s, m.ragged.key())
	case m.biased:
		return fmt.Sprintf("B%d S%d fused bias", m.b, m.s)
	case m.fused:
		return fmt.Sprintf("B%d S%d fused", m.b, m.s)
	}
	return fmt.Sprintf("B%d S%d", m.b, m.s)
}

// masks says whether a layer takes a mask: a bias, or the places of documents.
func (m geometry) masks() bool { return !m.fused || m.biased || m.ragged != nil }

func (m geometry) tokens() int { return m.b * m.s }

// geometryOf says how a batch is laid out and which attention it takes. Causal attention
// over whole rows is that of the documents when each row is one document with padding
// behind: no token sees the padding, and what the padding sees reaches neither loss nor
// gradient, for its own gradient is zero. Other rows go by their documents where fused
// attention takes them and each is whole, whose offsets must fit into an int32; else, and
// where they are longer than a sliding window, by a bias; else by plain attention.
func (b *Base) geometryOf(bt *batch.Batch) geometry {
	m := geometry{b: bt.B, s: bt.S}
	if bt.S < fusedMinLength {
		return m
	}
	c, q := b.attention(), b.cfg.NumHeads*b.cfg.HeadDim
	windowed := b.cfg.SlidingWindow > 0 && b.cfg.SlidingWindow < bt.S
	switch {
	case c.fused == nil:
	case !windowed && oneDocumentARow(bt):
		m.fused = true
	case !windowed && c.has(packedRagged) && documentsAreWhole(bt) && bt.B*bt.S*q <= math.MaxInt32:
		m.fused, m.ragged = true, raggedOf(bt, q, b.cfg.NumKVHeads*b.cfg.HeadDim)
	case c.has(packedBias) && bt.S%biasMultiple == 0:
		m.fused, m.biased = true, true
	}
	return m
}

// oneDocumentARow says whether every row is at most one document, at its begin.
func oneDocumentARow(bt *batch.Batch) bool {
	for i, s := range bt.Segments {
		if i%bt.S > 0 && s != 0 && s != bt.Segments[i-1] {
			return false
		}
	}
	return true
}
