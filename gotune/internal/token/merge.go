package token

// A symbol is one token of a word being merged, in a doubly linked list.
type symbol struct {
	id         int32
	prev, next int32 // indexes into the word, -1 at its ends
	dead       bool  // joined to the symbol before it
}

// A candidate is a pair of neighbours that a merge would join. Its key orders
// by rank, then by position.
type candidate struct {
	key   uint64 // rank<<32 | index of the left symbol
	newID int32
}

// A merger joins the symbols of one word. It is kept in a pool, for its slices.
type merger struct {
	syms  []symbol
	heap  []candidate
	parts map[int32][2]int32 // for tokens that may have to be taken apart again
	undo  map[int32]bool
	start int // where the word's ids begin in the output
}

func (g *merger) reset(undo map[int32]bool) {
	g.undo = undo
	g.syms = g.syms[:0]
	g.heap = g.heap[:0]
	clear(g.parts)
}

// add appends a symbol to the word.
func (g *merger) add(id int32) {
	n := int32(len(g.syms))
	if n > 0 {
		g.syms[n-1].next = n
	}
	g.syms = append(g.syms, symbol{id: id, prev: n - 1, next: -1})
}

// run joins pairs, lowest rank first and leftmost first among equals, until no
// merge applies. A candidate whose symbols have changed since it was pushed is
// dropped when the pair now gives another token.
func (g *merger) run(merges *pairTable) {
	for i := 0; i+1 < len(g.syms); i++ {
		g.push(merges, int32(i))
	}
	for len(g.heap) > 0 {
		c := g.pop()
		i := int32(uint32(c.key))
		left := &g.syms[i]
		if left.dead || left.next < 0 {
			continue
		}
		j := left.next
		right := &g.syms[j]
		if _, id, ok := merges.get(left.id, right.id); !ok || id != c.newID {
			continue
		}
		if g.undo[c.newID] {
			if g.parts == nil {
				g.parts = map[int32][2]int32{}
			}
			g.parts[c.newID] = [2]int32{left.id, right.id}
		}
		left.id = c.newID
		left.next = right.next
		right.dead = true
		if right.next >= 0 {
			g.syms[right.next].prev = i
			g.push(merges, i)
		}
		if left.prev >= 0 {
			g.push(merges, left.prev)
		}
	}
}

// push puts the pair at symbol i on the heap if a merge joins it.
func (g *merger) push(merges *pairTable, i int32) {
	rank, id, ok := merges.get(g.syms[i].id, g.syms[g.syms[i].next].id)
	if !ok {
		return
	}
	c := candidate{key: uint64(rank)<<32 | uint64(uint32(i)), newID: id}
	h := append(g.heap, c)
	k := len(h) - 1
	for k > 0 {
		up := (k - 1) / 2
		if h[up].key <= c.key {
			break
		}
		h[k] = h[up]
		k = up
	}
	h[k] = c
	g.heap = h
}

// pop takes the smallest candidate off the heap.
func (g *merger) pop() candidate {
	h := g.heap
	top := h[0]
	n := len(h) - 1
	c := h[n]
	h = h[:n]
	g.heap = h
	k := 0
	for {
		down := 2*k + 1
		if down >= n {
			break
		}
		if down+1 < n && h[down+1].key < h[down].key {
			down++
		}
		if c.key <= h[down].key {
			break
		}
		h[k] = h[down]
		k = down
	}
	if n > 0 {
		h[k] = c
	}
	return top
}

// pairTable maps a pair of ids to its merge: an open-addressing hash table, which
// is a third faster here than a Go map. The empty key is ^0, no pair of ids.
type pairTable struct {
	keys  []uint64
	ranks []uint32
	ids   []int32
	shift uint
}

const emptyPair = ^uint64(0)

// newPairTable makes the table; of two merges of one pair the later counts.
func newPairTable(merges []merge) pairTable {
	bits := uint(4)
	for 1<<bits < 2*len(merges)+2 {
		bits++
	}
	t := pairTable{
		keys:  make([]uint64, 1<<bits),
		ranks: make([]uint32, 1<<bits),
		ids:   make([]int32, 1<<bits),
		shift: 64 - bits,
	}
	for i := range t.keys {
		t.keys[i] = emptyPair
	}
	for _, m := range merges {
		k := uint64(uint32(m.left))<<32 | uint64(uint32(m.right))
		i := t.slot(k)
		t.keys[i], t.ranks[i], t.ids[i] = k, m.rank, m.newID
	}
	return t
}

// slot returns the index of key k or of the free place for it.
func (t *pairTable) slot(k uint64) uint64 {
	i := (k * 0x9E3779B97F4A7C15) >> t.shift
	for t.keys[i] != k && t.keys[i] != emptyPair {
		i = (i + 1) & uint64(len(t.keys)-1)
	}
	return i
}

func (t *pairTable) get(left, right int32) (rank uint32, id int32, ok bool) {
	k := uint64(uint32(left))<<32 | uint64(uint32(right))
	i := t.slot(k)
	return t.ranks[i], t.ids[i], t.keys[i] == k
}
