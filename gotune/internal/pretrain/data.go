package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/gotune/gotune/gotune/internal/token"
)

// A token file is a run of little-endian uint16 ids. Each document is
// <s> text </s>, so the ids themselves say where documents begin.
const tokenSuffix = ".u16"

// heldOutFile is the token file that the held-out loss is measured on.
const heldOutFile = "heldout" + tokenSuffix

// prepare writes the token files of the corpus.
func prepare(corpus, tokenizer, out string) error {
	tok, err := token.Load(tokenizer)
	if err != nil {
		return err
	}
	if n := tok.VocabSize(); n > 1<<16 {
		return fmt.Errorf("prepare: the tokenizer has %d tokens, but token files hold at most %d", n, 1<<16)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"train", "second", "heldout"} {
		to := name + tokenSuffix
		ids, bytes, err := tokenize(tok, filepath.Join(corpus, name+".jsonl"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, to), ids, 0o644); err != nil {
			return err
		}
		fmt.Printf("%s: %d tokens, %.2f bytes of text a token\n", to, len(ids)/2, 2*float64(bytes)/float64(len(ids)))
	}
	return nil
}

func tokenize(tok *token.Tokenizer, path string) (ids []byte, bytes int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	eos, ok := tok.EOS()
	if !ok || !tok.AddsBOS() {
		return nil, 0, fmt.Errorf("prepare: the tokenizer must add <s> and know </s>")
	}
	for dec := json.NewDecoder(bufio.NewReader(f)); dec.More(); {
		var doc struct{ Text string }
		if err := dec.Decode(&doc); err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", path, err)
		}
		bytes += len(doc.Text)
		for _, id := range append(tok.Encode(doc.Text, true), eos) {
			ids = binary.LittleEndian.AppendUint16(ids, uint16(id))
		}
	}
	return ids, bytes, nil
}

// documents reads a token file and cuts it after each end token.
func documents(path string, eos int32) ([][]int32, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: run `pretrain prepare` first", err)
	}
	var docs [][]int32
	var doc []int32
	for i := 0; i+1 < len(b); i += 2 {
		id := int32(binary.LittleEndian.Uint16(b[i:]))
		doc = append(doc, id)
		if id == eos {
			docs, doc = append(docs, doc), nil
		}
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("read %s: no document ends with token %d: it was made with another tokenizer", path, eos)
	}
	return docs, nil
}

// rowsOf is one batch: rows × length tokens, each array flat. Labels are aligned
// with ids; -100 marks what nothing precedes.
type rowsOf struct {
	ids, positions, segments, labels []int32
}

// A packer lays documents end to end into rows, reshuffled every epoch.
// A document that does not fit continues in the next row as a segment of its own.
type packer struct {
	docs         [][]int32
	rows, length int
	seed         int64
	epoch        int
	shuffled     bool
	order        []int
	at           int // documents of the epoch that are used up
	rest         []int32
}

func newPacker(docs [][]int32, rows, length int, seed int64, shuffled bool) *packer {
	p := &packer{docs: docs, rows: rows, length: length, seed: seed, shuffled: shuffled, epoch: -1}
	p.turn()
	return p
}

// turn begins the next epoch.
func (p *packer) turn() {
	p.epoch, p.at = p.epoch+1, 0
	p.order = make([]int, len(p.docs))
	for i := range p.order {
		p.order[i] = i
	}
	if p.shuffled {
		r := rand.New(rand.NewPCG(uint64(p.seed), uint64(p.epoch)))
		r.Shuffle(len(p.order), func(i, j int) { p.order[i], p.order[j] = p.order[j], p.order[i] })
	}
}

// next fills the following batch.
func (p *packer) next() rowsOf {
	n := p.rows * p.length
	b := rowsOf{make([]int32, 0, n), make([]int32, 0, n), make([]int32, 0, n), make([]int32, 0, n)}
	for range p.rows {
		segment := int32(0)
		for room := p.length; room > 0; {
			if len(p.rest) == 0 {
				if p.at == len(p.order) {
					p.turn()
				}
				p.rest, p.at = p.docs[p.order[p.at]], p.at+1
			}
			part := p.rest[:min(room, len(p.rest))]
			p.rest = p.rest[len(part):]
			room -= len(part)
			segment++
			for i, id := range part {
				b.ids = append(b.ids, id)
				b.positions = append(b.positions, int32(i))
				b.segments = append(b.segments, segment)
				if i == 0 {
					id = -100
				}
				b.labels = append(b.labels, id)
			}
		}
	}
	return b
}
