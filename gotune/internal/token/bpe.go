package token

import (
	"fmt"
	"sync"
	"unicode/utf8"
)

// bpe is a byte-pair-encoding model: a vocabulary and an ordered list of merges.
type bpe struct {
	vocab        map[string]int32
	merges       pairTable
	prefix       string // continuing_subword_prefix: before each character but the first
	suffix       string // end_of_word_suffix: behind the last character
	unk          int32  // -1: characters that are not in the vocabulary are dropped
	fuseUnk      bool   // a run of unknown characters is one unknown token
	byteFallback bool
	ignoreMerges bool           // a word that is in the vocabulary is one token
	byteTokens   [256]int32     // ids of <0x00>…<0xFF>, -1 where missing
	cuts         *bigrams       // nil: words can't be cut
	real         int32          // ids from here on are pseudo tokens that encode must resolve
	pseudo       []string       // their texts (sentencepiece only)
	undo         map[int32]bool // ids to take apart again after merging (sentencepiece's UNUSED)
	pools        sync.Pool      // *merger
}

// A merge joins a pair of neighbours to the token newID; lower ranks go first.
type merge struct {
	left, right, newID int32
	rank               uint32
}

// newBPE checks the parts of a model and prepares it for encoding.
func newBPE(m *bpe, merges []merge) (*bpe, error) {
	if m.byteFallback {
		for b := range m.byteTokens {
			m.byteTokens[b] = -1
			if id, ok := m.vocab[fmt.Sprintf("<0x%02X>", b)]; ok {
				m.byteTokens[b] = id
			}
		}
	}
	m.merges = newPairTable(merges)
	m.pools.New = func() any { return new(merger) }
	return m, nil
}

// encode appends the ids of the word w.
func (m *bpe) encode(ids []int32, w string) []int32 {
	if w == "" {
		return ids
	}
	if m.ignoreMerges {
		if id, ok := m.vocab[w]; ok && id < m.real {
			return append(ids, id)
		}
	}
	g := m.pools.Get().(*merger)
	g.reset(m.undo)
	g.start = len(ids)
	m.symbols(g, w)
	g.run(&m.merges)
	for i := int32(0); i >= 0 && int(i) < len(g.syms); i = g.syms[i].next {
		ids = m.emit(ids, g, i)
	}
	m.pools.Put(g)
	return ids
}

// symbols fills g with the characters of w as tokens: the character itself, its
// bytes, or the unknown token.
func (m *bpe) symbols(g *merger, w string) {
	unk := false // an unknown token is held back, to be fused with the next
	for i := 0; i < len(w); {
		_, n := utf8.DecodeRuneInString(w[i:])
		c := w[i : i+n]
		if m.prefix != "" && i > 0 {
			c = m.prefix + c
		}
		if m.suffix != "" && i+n == len(w) {
			c += m.suffix
		}
		if id, ok := m.vocab[c]; ok {
			if unk {
				g.add(m.unk)
				unk = false
			}
			g.add(id)
		} else if m.byteFallback && m.hasBytes(c) {
			for k := 0; k < len(c); k++ {
				g.add(m.byteTokens[c[k]])
			}
		} else if m.unk >= 0 {
			if unk && !m.fuseUnk {
				g.add(m.unk)
			}
			unk = true
		}
		i += n
	}
	if unk {
		g.add(m.unk)
	}
}

func (m *bpe) hasBytes(s string) bool {
	for i := 0; i < len(s); i++ {
		if m.byteTokens[s[i]] < 0 {
			return false
		}
	}
	return true
}

// emit appends symbol i of g. Pseudo tokens and unused pieces of a sentencepiece
// model are spelled out first.
func (m *bpe) emit(ids []int32, g *merger, i int32) []int32 {
	return m.emitPart(ids, g, g.syms[i].id, 0)
}

// maxUndo bounds how deep unused pieces are taken apart.
const maxUndo = 100

func (m *bpe) emitPart(ids []int32, g *merger, id int32, depth int) []int32 {
	if id >= m.real {
		return m.emitPseudo(ids, g, m.pseudo[id-m.real])
	}
	if id == m.unk && len(m.pseudo) > 0 {
		return m.emitUnk(ids, g)
	}
	if p, ok := g.parts[id]; ok && m.undo[id] && depth < maxUndo {
		ids = m.emitPart(ids, g, p[0], depth+1)
		return m.emitPart(ids, g, p[1], depth+1)
	}
	return append(ids, id)
}

// emitPseudo appends a character that is no token of its own.
func (m *bpe) emitPseudo(ids []int32, g *merger, c string) []int32 {
	if m.byteFallback && m.hasBytes(c) {
		for k := 0; k < len(c); k++ {
			ids = append(ids, m.byteTokens[c[k]])
		}
		return ids
	}
	return m.emitUnk(ids, g)
}

// emitUnk appends the unknown token, unless the word has just had it.
func (m *bpe) emitUnk(ids []int32, g *merger) []int32 {
	if m.unk < 0 || m.fuseUnk && len(ids) > g.start && ids[len(ids)-1] == m.unk {
		return ids
	}
	return append(ids, m.unk)
}
