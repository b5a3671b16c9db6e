package token

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// spaceMark is U+2581, which sentencepiece writes for a space (Kudo and
// Richardson, arXiv:1808.06226, section 3.1).
const spaceMark = "▁"

// ReadModel reads a tokenizer.model (a sentencepiece BPE model) and gives it the
// pipeline that transformers gives it: special tokens in the text are recognised,
// a "▁" goes in front of the text (with cfg.Legacy true: of each stretch between
// special tokens), and Encode with addSpecial puts a BOS in front, unless
// tokenizer_config.json says otherwise. cfg may be nil.
//
// Merges follow the pieces' scores, as in sentencepiece itself. Unigram models
// (T5, ALBERT) are refused.
func ReadModel(data []byte, cfg *Config) (*Tokenizer, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	c := *cfg
	sp, t, err := readPieces(data)
	if err != nil {
		return nil, err
	}
	if sp.removeExtraWhitespace || len(sp.charsmap) > 0 || !sp.escapeWhitespace || sp.whitespaceSuffix {
		return nil, errors.New("the sentencepiece model changes the text beforehand (precompiled_charsmap, remove_extra_whitespaces, escape_whitespaces or treat_whitespace_as_suffix): only models that keep it, as Llama's and Mistral's do, are supported; convert it to tokenizer.json with transformers")
	}
	t.config = &c
	c.fillNames(sp)
	prefix := sp.dummyPrefix && orTrue(cfg.AddPrefixSpace)
	scheme := "never"
	switch legacy := cfg.Legacy != nil && *cfg.Legacy; {
	case prefix && legacy:
		t.normalize = []normalizer{prepend(spaceMark)}
	case prefix:
		scheme = "first"
	}
	if scheme == "never" {
		t.normalize = append(t.normalize, replace{pattern{text: " "}, spaceMark})
	} else {
		t.split = []preTokenizer{metaspace{mark: spaceMark, scheme: scheme}}
	}
	t.decode = []decoder{replaceDecoder{replace{pattern{text: spaceMark}, " "}}, byteFallbackDecoder{}, fuseDecoder{}}
	if prefix {
		t.decode = append(t.decode, stripDecoder{content: ' ', start: 1})
	}
	if err := t.finish(sp.added()); err != nil {
		return nil, err
	}
	t.addNamed(true)
	return t, nil
}

// ReadSentencePiece reads a tokenizer.model and encodes and decodes exactly as the
// sentencepiece library does, which differs from [ReadModel]: special tokens in
// the text are text, the text always gets its "▁", no BOS is added, and decoding
// repairs each invalid byte by itself.
func ReadSentencePiece(data []byte) (*Tokenizer, error) {
	sp, t, err := readPieces(data)
	if err != nil {
		return nil, err
	}
	if len(sp.charsmap) > 0 {
		return nil, errors.New("the sentencepiece model has a precompiled_charsmap (Unicode normalization), which is not supported: convert it to tokenizer.json with transformers")
	}
	t.config = &Config{}
	t.config.fillNames(sp)
	t.decode = []decoder{newSPDecoder(sp)}
	var added []AddedToken
	for _, a := range sp.added() {
		if sp.pieces[a.ID].kind == pieceUserDefined {
			a.Normalized = true
			added = append(added, a)
		}
	}
	if err := t.finish(added); err != nil {
		return nil, err
	}
	// The text is normalized as a whole, and only then cut at user-defined symbols,
	// which are looked for as they are: so the normalizer comes after finish. Control
	// symbols are never looked for.
	t.raw = matcher{}
	t.normalize = []normalizer{spNormalizer{sp}}
	return t, nil
}

// readPieces reads the vocabulary and makes its model.
func readPieces(data []byte) (*spModel, *Tokenizer, error) {
	sp, err := parseModel(data)
	if err != nil {
		return nil, nil, err
	}
	if sp.modelType != modelBPE {
		kind := map[int]string{modelUnigram: "unigram", 3: "word", 4: "char"}[sp.modelType]
		return nil, nil, fmt.Errorf("the sentencepiece model is of type %d %s: only BPE (2) is supported, which Llama and Mistral use", sp.modelType, kind)
	}
	m, err := sp.build()
	if err != nil {
		return nil, nil, err
	}
	return sp, &Tokenizer{model: m}, nil
}

// fillNames sets the names that the configuration leaves open, if the model has
// such a control symbol.
func (c *Config) fillNames(sp *spModel) {
	kinds := map[string]int{}
	for _, p := range sp.pieces {
		kinds[p.text] = p.kind
		if p.kind == pieceUnknown && c.Unk == "" {
			c.Unk = p.text
		}
	}
	for _, n := range []struct {
		to   *string
		name string
	}{{&c.BOS, sp.bos}, {&c.EOS, sp.eos}, {&c.Pad, sp.pad}} {
		if *n.to == "" && kinds[n.name] == pieceControl {
			*n.to = n.name
		}
	}
}

// added returns the pieces that are looked for in the text before merging.
func (sp *spModel) added() []AddedToken {
	var out []AddedToken
	for i, p := range sp.pieces {
		switch p.kind {
		case pieceControl, pieceUnknown:
			out = append(out, AddedToken{ID: int32(i), Content: p.text, Special: true})
		case pieceUserDefined:
			out = append(out, AddedToken{ID: int32(i), Content: p.text})
		}
	}
	return out
}

// build makes the merges from the scores: two neighbours may be joined if the
// vocabulary holds the joined text; the higher its score, the earlier.
func (sp *spModel) build() (*bpe, error) {
	m := &bpe{unk: -1, fuseUnk: true, vocab: map[string]int32{}, real: int32(len(sp.pieces)), undo: map[int32]bool{}}
	mergeable := map[string]int32{}
	var scores []float32
	for i, p := range sp.pieces {
		id := int32(i)
		if have, dup := m.vocab[p.text]; dup {
			return nil, fmt.Errorf("not a sentencepiece model: piece %q has two ids, %d and %d", clip(p.text), have, id)
		}
		m.vocab[p.text] = id
		switch p.kind {
		case pieceUnknown:
			m.unk = id
		case pieceByte:
			m.byteFallback = true
		case pieceUnused:
			m.undo[id] = true
		}
		if p.kind == pieceNormal || p.kind == pieceUserDefined || p.kind == pieceUnused {
			mergeable[p.text] = id
			scores = append(scores, p.score)
		}
	}
	if m.unk < 0 {
		return nil, errors.New("not a sentencepiece model: it has no unknown piece")
	}
	ranks := rankScores(scores)
	merges, texts := sp.merges(m, mergeable, ranks)
	if _, err := newBPE(m, merges); err != nil {
		return nil, err
	}
	m.cutAt(texts)
	return m, nil
}

// rankScores numbers the scores from the highest, equal scores alike.
func rankScores(scores []float32) map[float32]uint32 {
	sort.Slice(scores, func(i, j int) bool { return scores[i] > scores[j] })
	ranks := map[float32]uint32{}
	for _, s := range scores {
		if _, ok := ranks[s]; !ok {
			ranks[s] = uint32(len(ranks))
		}
	}
	return ranks
}

// maxPieceChars bounds the pieces that merges can make; sentencepiece's trainer
// stops at 16.
const maxPieceChars = 512

// merges lists, for each piece, the pairs of pieces that it can be made of. A
// character that only occurs inside pieces gets a pseudo id.
func (sp *spModel) merges(m *bpe, mergeable map[string]int32, ranks map[float32]uint32) (merges []merge, texts []string) {
	part := func(s string) (int32, bool) {
		id, ok := mergeable[s]
		return id, ok
	}
	for _, p := range sp.pieces {
		if _, ok := mergeable[p.text]; !ok || utf8.RuneCountInString(p.text) < 2 {
			continue
		}
		for _, r := range p.text {
			if c := string(r); m.vocab[c] == 0 && c != sp.pieces[0].text {
				if _, ok := m.vocab[c]; !ok {
					id := m.real + int32(len(m.pseudo))
					m.vocab[c], mergeable[c] = id, id
					m.pseudo = append(m.pseudo, c)
				}
			}
		}
	}
	for i, p := range sp.pieces {
		if _, ok := mergeable[p.text]; !ok || utf8.RuneCountInString(p.text) > maxPieceChars {
			continue
		}
		made := false
		for k := range p.text {
			left, ok1 := part(p.text[:k])
			right, ok2 := part(p.text[k:])
			if k > 0 && ok1 && ok2 {
				merges = append(merges, merge{left, right, int32(i), ranks[p.score]})
				made = true
			}
		}
		if made {
			texts = append(texts, p.text)
		}
	}
	return merges, texts
}

// spNormalizer is sentencepiece's normalizer without a character map.
type spNormalizer struct{ sp *spModel }

func (n spNormalizer) apply(s string) string {
	if n.sp.removeExtraWhitespace {
		s = strings.Trim(s, " ")
		for strings.Contains(s, "  ") {
			s = strings.ReplaceAll(s, "  ", " ")
		}
	}
	if s == "" {
		return s
	}
	if n.sp.dummyPrefix {
		if n.sp.whitespaceSuffix {
			s += " "
		} else {
			s = " " + s
		}
	}
	if n.sp.escapeWhitespace {
		s = strings.ReplaceAll(s, " ", spaceMark)
	}
	return s
}

// spDecoder is sentencepiece's own decoding: control symbols vanish, the unknown
// token has a surface of its own, byte tokens form characters one by one, and the
// space of the dummy prefix is dropped from the first piece that has text.
type spDecoder struct {
	sp   *spModel
	kind map[string]int
}

func newSPDecoder(sp *spModel) spDecoder {
	d := spDecoder{sp, map[string]int{}}
	for _, p := range sp.pieces {
		if p.kind != pieceNormal {
			d.kind[p.text] = p.kind
		}
	}
	return d
}

func (d spDecoder) fuses() bool      { return true }
func (d spDecoder) stage(bool) stage { return &spText{d: d, first: true} }

type spText struct {
	d     spDecoder
	bytes []byte
	first bool // no text yet
}

func (s *spText) push(out []string, t string) []string {
	kind := s.d.kind[t]
	if b, ok := parseByteToken(t); ok && kind == pieceByte {
		s.bytes = append(s.bytes, b)
		return s.take(out, false)
	}
	out = s.take(out, true)
	switch kind {
	case pieceControl:
		return out
	case pieceUnknown:
		t = s.d.sp.unkSurface
	default:
		if s.first && (s.d.sp.dummyPrefix || s.d.sp.removeExtraWhitespace) {
			trimmed := strings.TrimPrefix(t, spaceMark)
			seen := trimmed != t && !s.d.sp.removeExtraWhitespace
			t = trimmed
			s.first = !seen
		}
		t = strings.ReplaceAll(t, spaceMark, " ")
	}
	if t != "" {
		s.first = false
	}
	return append(out, t)
}

// take moves the complete characters of the byte run to out, with U+FFFD for each
// byte of no character.
func (s *spText) take(out []string, all bool) []string {
	n := 0
	var b strings.Builder
	for n < len(s.bytes) && (all || utf8.FullRune(s.bytes[n:])) {
		r, k := utf8.DecodeRune(s.bytes[n:])
		b.WriteRune(r)
		n += k
	}
	if n > 0 {
		s.bytes = append(s.bytes[:0], s.bytes[n:]...)
		s.first = false
		out = append(out, b.String())
	}
	return out
}

func (s *spText) flush(out []string) []string {
	out = s.take(out, true)
	s.first = true
	return out
}
