package token

import (
	"sync"
	"unicode/utf8"
)

// bigrams is the set of neighbouring characters inside the tokens that merges
// make. Where two neighbours of a text are not in it, no token can cross, so the
// text may be cut there without changing the result: what makes a
// sentencepiece-style model, which sees a whole text as one word, fast and its
// words worth caching.
type bigrams struct {
	ascii [128][2]uint64
	other map[[2]rune]struct{}
}

func (b *bigrams) add(s string) {
	prev := rune(-1)
	for _, r := range s {
		if prev >= 0 {
			if prev < 128 && r < 128 {
				b.ascii[prev][r>>6] |= 1 << (r & 63)
			} else {
				b.other[[2]rune{prev, r}] = struct{}{}
			}
		}
		prev = r
	}
}

func (b *bigrams) has(p, r rune) bool {
	if p < 128 && r < 128 {
		return b.ascii[p][r>>6]&(1<<(r&63)) != 0
	}
	_, ok := b.other[[2]rune{p, r}]
	return ok
}

// cutAt prepares the model for cutting words, if that can be exact: nothing may
// join across characters but merges of the characters themselves.
func (m *bpe) cutAt(texts []string) {
	fuses := m.unk >= 0 && m.fuseUnk && !(m.byteFallback && m.hasAllBytes())
	if fuses || m.ignoreMerges || m.prefix != "" || m.suffix != "" {
		return
	}
	b := &bigrams{other: map[[2]rune]struct{}{}}
	for _, s := range texts {
		b.add(s)
	}
	m.cuts = b
}

func (m *bpe) hasAllBytes() bool {
	for _, id := range m.byteTokens {
		if id < 0 {
			return false
		}
	}
	return true
}

// independent returns the length of the first part of w that can be encoded on
// its own; w is not empty.
func (m *bpe) independent(w string) int {
	prev, n := utf8.DecodeRuneInString(w)
	for n < len(w) {
		r, k := utf8.DecodeRuneInString(w[n:])
		if !m.cuts.has(prev, r) {
			return n
		}
		prev = r
		n += k
	}
	return n
}

// Words longer than maxCachedWord bytes are rare and not kept; maxCachedWords
// bounds the cache (a word and its ids take about 100 bytes: 6 MB at most).
const (
	maxCachedWord  = 64
	maxCachedWords = 1 << 16
)

// wordCache remembers the ids of words.
type wordCache struct {
	mu sync.RWMutex
	m  map[string][]int32
}

func (c *wordCache) get(w string) ([]int32, bool) {
	c.mu.RLock()
	ids, ok := c.m[w]
	c.mu.RUnlock()
	return ids, ok
}

// put keeps a copy of ids for w, until the cache is full.
func (c *wordCache) put(w string, ids []int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string][]int32{}
	}
	if len(c.m) < maxCachedWords {
		c.m[string([]byte(w))] = append([]int32(nil), ids...)
	}
}
