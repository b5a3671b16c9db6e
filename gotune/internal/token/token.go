package token

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// A Tokenizer turns text into ids and back. Make one with [Load]; the zero value
// is not usable. It is safe for concurrent use.
type Tokenizer struct {
	config     *Config
	added      []AddedToken
	special    map[string]bool // by content
	specialIDs map[int32]struct{}
	addedIDs   map[string]int32
	raw        matcher // added tokens found in the text as given
	normalized matcher // added tokens found in the normalized text
	normalize  []normalizer
	split      []preTokenizer
	byteLevel  bool // the last pre-tokenizer spells bytes as characters
	model      *bpe
	prefix     []int32 // ids that the post-processor puts in front
	suffix     []int32 // ids that the post-processor puts behind
	decode     []decoder
	joinSpace  bool // without a decoder, tokens are joined by spaces
	tokens     []string
	known      []bool // known[id]: tokens[id] is a token, not a gap
	cache      wordCache

	bos, eos, pad, unk int32 // -1 for none
}

// An AddedToken is a token that is cut out of the text before the model sees it,
// such as "<s>" or "<|eot_id|>".
type AddedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // only between non-word characters
	LStrip     bool   `json:"lstrip"`      // takes the white space before it along
	RStrip     bool   `json:"rstrip"`      // takes the white space after it along
	Normalized bool   `json:"normalized"`  // is looked for in the normalized text
	Special    bool   `json:"special"`     // is left out by Decode with skipSpecial
}

// Encode returns the ids of text. With addSpecial the post-processor's tokens are
// added, for most models a BOS in front. Text of special tokens, such as "<s>",
// becomes that token in either case. Bytes of text that are not UTF-8 count as
// U+FFFD each.
func (t *Tokenizer) Encode(text string, addSpecial bool) []int32 {
	if !utf8.ValidString(text) {
		text = replaceInvalid(text)
	}
	ids := make([]int32, 0, len(text)/3+len(t.prefix)+len(t.suffix)+1)
	if addSpecial {
		ids = append(ids, t.prefix...)
	}
	ids = t.encodeText(ids, text)
	if addSpecial {
		ids = append(ids, t.suffix...)
	}
	return ids
}

// encodeText appends the ids of text without the post-processor's tokens.
func (t *Tokenizer) encodeText(ids []int32, text string) []int32 {
	if text == "" {
		return ids
	}
	for _, p := range t.raw.cut(text, true) {
		if p.id >= 0 {
			ids = append(ids, p.id)
			continue
		}
		s, moved := t.normalizeText(p.text)
		for _, q := range t.normalized.cut(s, p.first && !moved) {
			if q.id >= 0 {
				ids = append(ids, q.id)
				continue
			}
			ids = t.encodePiece(ids, q)
		}
	}
	return ids
}

// normalizeText applies the normalizers. moved says that they took characters off
// the front, so that what is left does not start where the text starts.
func (t *Tokenizer) normalizeText(s string) (out string, moved bool) {
	for _, n := range t.normalize {
		next := n.apply(s)
		if m, ok := n.(mover); ok && m.moves(s) {
			moved = true
		}
		s = next
	}
	return s, moved
}

// encodePiece appends the ids of one piece of text between added tokens.
func (t *Tokenizer) encodePiece(ids []int32, p piece) []int32 {
	words := []piece{p}
	for _, s := range t.split {
		words = s.split(words)
	}
	for _, w := range words {
		ids = t.encodeWord(ids, w.text)
	}
	return ids
}

// encodeWord appends the ids of one pre-tokenized word.
func (t *Tokenizer) encodeWord(ids []int32, w string) []int32 {
	if w == "" {
		return ids
	}
	if t.model.cuts != nil && !t.byteLevel {
		for w != "" {
			n := t.model.independent(w)
			ids = t.cached(ids, w[:n])
			w = w[n:]
		}
		return ids
	}
	return t.cached(ids, w)
}

// cached appends the ids of w, from the cache if it is there.
func (t *Tokenizer) cached(ids []int32, w string) []int32 {
	if len(w) > maxCachedWord {
		return t.model.encode(ids, t.spell(w))
	}
	if got, ok := t.cache.get(w); ok {
		return append(ids, got...)
	}
	n := len(ids)
	ids = t.model.encode(ids, t.spell(w))
	t.cache.put(w, ids[n:])
	return ids
}

// spell turns w into the model's alphabet.
func (t *Tokenizer) spell(w string) string {
	if t.byteLevel {
		return byteLevelString(w)
	}
	return w
}

// Decode returns the text of ids. With skipSpecial the special tokens are left
// out. Ids that are not in the vocabulary are left out too. Bytes that do not
// form UTF-8 come out as U+FFFD.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	s := t.Stream(skipSpecial)
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(s.Add(id))
	}
	b.WriteString(s.Flush())
	return b.String()
}

// VocabSize is the largest id plus one.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// ID returns the id of a token, given as the vocabulary spells it: "▁the",
// "Ġthe", "<0x0A>", "</s>".
func (t *Tokenizer) ID(token string) (id int32, ok bool) {
	if id, ok := t.addedIDs[token]; ok {
		return id, true
	}
	id, ok = t.model.vocab[token]
	return id, ok && id < int32(len(t.tokens))
}

// Token returns the token of id as the vocabulary spells it, and "" for an id
// that is not in the vocabulary.
func (t *Tokenizer) Token(id int32) string {
	if !t.has(id) {
		return ""
	}
	return t.tokens[id]
}

func (t *Tokenizer) has(id int32) bool {
	return id >= 0 && int(id) < len(t.tokens) && t.known[id]
}

// BOS returns the id that begins a sequence; ok is false if the tokenizer names none.
func (t *Tokenizer) BOS() (id int32, ok bool) { return t.bos, t.bos >= 0 }

// EOS returns the id that ends a sequence; ok is false if the tokenizer names none.
func (t *Tokenizer) EOS() (id int32, ok bool) { return t.eos, t.eos >= 0 }

// Pad returns the id that fills up short rows; ok is false if the tokenizer names
// none, as the Llama models' do not.
func (t *Tokenizer) Pad() (id int32, ok bool) { return t.pad, t.pad >= 0 }

// Unk returns the id of the unknown token; ok is false if the tokenizer names none.
func (t *Tokenizer) Unk() (id int32, ok bool) { return t.unk, t.unk >= 0 }

// IsSpecial says whether id is a special token, which Decode can leave out.
func (t *Tokenizer) IsSpecial(id int32) bool {
	if !t.has(id) {
		return false
	}
	_, ok := t.specialIDs[id]
	return ok
}

// Specials returns the special tokens in the order of their ids.
func (t *Tokenizer) Specials() []AddedToken {
	var out []AddedToken
	for _, a := range t.added {
		if a.Special {
			out = append(out, a)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// Config returns what tokenizer_config.json said; never nil, not to be changed.
func (t *Tokenizer) Config() *Config { return t.config }

// AddsBOS says whether Encode with addSpecial puts a BOS in front.
func (t *Tokenizer) AddsBOS() bool {
	return t.bos >= 0 && len(t.prefix) > 0 && t.prefix[0] == t.bos
}

// AddsEOS says whether Encode with addSpecial puts an EOS behind.
func (t *Tokenizer) AddsEOS() bool {
	return t.eos >= 0 && len(t.suffix) > 0 && t.suffix[len(t.suffix)-1] == t.eos
}

// spareRows is how many embedding rows more than tokens a model may have: models
// pad the vocabulary to a multiple of up to 1024.
const spareRows = 1024

// Check returns an error if a model with vocabSize embedding rows can't belong to
// this tokenizer: a token's id is past the last row, or the model has more rows
// than padding explains (over 1024 and over a tenth).
func (t *Tokenizer) Check(vocabSize int) error {
	n := t.VocabSize()
	if n > vocabSize {
		first := vocabSize
		for first < n-1 && !t.known[first] {
			first++
		}
		return fmt.Errorf("token: tokenizer and vocabulary disagree: the tokenizer has ids up to %d (first too large: %d %q), the model has %d embedding rows: use the tokenizer files that came with the model, or resize its embeddings",
			n-1, first, t.tokens[first], vocabSize)
	}
	if spare := vocabSize - n; spare > spareRows && spare > vocabSize/10 {
		return fmt.Errorf("token: tokenizer and vocabulary disagree: the tokenizer has %d ids, the model has %d embedding rows, more than padding explains: use the tokenizer files that came with the model",
			n, vocabSize)
	}
	return nil
}

// replaceInvalid replaces each byte that is not UTF-8 by U+FFFD.
func replaceInvalid(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 8)
	for _, r := range s { // range gives U+FFFD for each bad byte
		b.WriteRune(r)
	}
	return b.String()
}
