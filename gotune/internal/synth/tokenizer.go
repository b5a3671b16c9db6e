package main

import "fmt"

// space is how the vocabulary writes a blank.
const space = "▁"

// vocabulary builds a byte-fallback BPE of exactly V tokens without a corpus: special
// tokens, 256 bytes, the printable ASCII characters and the blank, then all pairs, triples
// and quadruples of small letters, those that begin a word first. It cuts
// English into about three characters a token, near a real tokenizer's four, and
// every id can be produced and decoded.
type vocabulary struct {
	tokens []string
	merges [][2]string
	limit  int
}

// vocabulary returns the tokens by id.
func (s shape) vocabulary() (*vocabulary, error) {
	special := s.specials()
	v := &vocabulary{limit: s.vocab}
	ordinary := &vocabulary{limit: s.vocab - len(special)}
	ordinary.fill()
	if len(ordinary.tokens) != ordinary.limit {
		return nil, fmt.Errorf("tokenizer: the vocabulary of %s has %d tokens, but there are only %d to make", s.name, s.vocab, len(ordinary.tokens)+len(special))
	}
	v.tokens = append(v.tokens, ordinary.tokens[:s.specialsAt]...)
	v.tokens = append(v.tokens, special...)
	v.tokens = append(v.tokens, ordinary.tokens[s.specialsAt:]...)
	v.merges = ordinary.merges
	return v, nil
}

// specials are the special tokens in the order of their ids.
func (s shape) specials() []string {
	list := make([]string, s.specialsTo-s.specialsAt)
	for i := range list {
		list[i] = fmt.Sprintf("<|reserved_special_token_%d|>", i)
	}
	if s.unk != "" {
		list[0] = s.unk
	}
	list[s.bosID-s.specialsAt], list[s.eosID-s.specialsAt] = s.bos, s.eos
	return list
}

func (v *vocabulary) fill() {
	for i := range 256 {
		v.add(fmt.Sprintf("<0x%02X>", i))
	}
	v.add(space)
	for c := rune('!'); c <= '~'; c++ {
		v.add(string(c))
	}
	pairs, triples := 26*26, 26*26*26
	for i := range 26 {
		v.join(space, letters(i, 1))
	}
	for i := range pairs {
		v.join(letters(i/26, 1), letters(i%26, 1))
	}
	for i := range pairs {
		v.join(space+letters(i/26, 1), letters(i%26, 1))
	}
	for i := range triples {
		v.join(letters(i/26, 2), letters(i%26, 1))
	}
	for i := range triples {
		v.join(space+letters(i/26, 2), letters(i%26, 1))
	}
	for i := range pairs * pairs {
		v.join(letters(i/pairs, 2), letters(i%pairs, 2))
	}
}

// letters writes i with n digits of the small letters.
func letters(i, n int) string {
	b := make([]byte, n)
	for k := n - 1; k >= 0; k-- {
		b[k] = byte('a' + i%26)
		i /= 26
	}
	return string(b)
}

func (v *vocabulary) add(token string) bool {
	if len(v.tokens) >= v.limit {
		return false
	}
	v.tokens = append(v.tokens, token)
	return true
}

// join adds a token and the merge that makes it.
func (v *vocabulary) join(left, right string) {
	if v.add(left + right) {
		v.merges = append(v.merges, [2]string{left, right})
	}
}

// tokenizerFiles returns tokenizer.json and tokenizer_config.json.
func (s shape) tokenizerFiles() (tokenizer, config map[string]any, err error) {
	v, err := s.vocabulary()
	if err != nil {
		return nil, nil, err
	}
	ids := make(map[string]int, len(v.tokens))
	for id, t := range v.tokens {
		ids[t] = id
	}
	var added []map[string]any
	decoder := map[string]any{}
	for id := s.specialsAt; id < s.specialsTo; id++ {
		entry := map[string]any{"content": v.tokens[id], "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
		decoder[fmt.Sprint(id)] = entry
		withID := map[string]any{"id": id}
		for k, x := range entry {
			withID[k] = x
		}
		added = append(added, withID)
	}
	first := func(kind, id string) map[string]any {
		return map[string]any{kind: map[string]any{"id": id, "type_id": 0}}
	}
	tokenizer = map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": added, "normalizer": nil,
		"pre_tokenizer": map[string]any{"type": "Metaspace", "replacement": space, "prepend_scheme": "first", "split": false},
		"post_processor": map[string]any{"type": "TemplateProcessing",
			"single":         []any{first("SpecialToken", s.bos), first("Sequence", "A")},
			"pair":           []any{first("SpecialToken", s.bos), first("Sequence", "A"), first("Sequence", "B")},
			"special_tokens": map[string]any{s.bos: map[string]any{"id": s.bos, "ids": []int{s.bosID}, "tokens": []string{s.bos}}}},
		"decoder": map[string]any{"type": "Sequence", "decoders": []any{
			map[string]any{"type": "Replace", "pattern": map[string]any{"String": space}, "content": " "},
			map[string]any{"type": "ByteFallback"}, map[string]any{"type": "Fuse"},
			map[string]any{"type": "Strip", "content": " ", "start": 1, "stop": 0}}},
		"model": map[string]any{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
			"fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": ids, "merges": v.merges},
	}
	config = map[string]any{
		"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": true, "add_eos_token": false, "added_tokens_decoder": decoder,
		"pad_token": nil, "model_max_length": s.positions, "clean_up_tokenization_spaces": false, "padding_side": "right",
	}
	for kind, t := range s.specialTokensMap() {
		config[kind] = t
	}
	return tokenizer, config, nil
}

// specialTokensMap is special_tokens_map.json: what the published base models have.
// Llama 2 and TinyLlama name <unk>, Llama 3 has no such token, and none of them has one
// for padding. Trainers that need one choose it by what is named here: Unsloth takes
// <unk> for Llama 2 and a reserved token for Llama 3, and refuses a model with neither.
func (s shape) specialTokensMap() map[string]string {
	m := map[string]string{"bos_token": s.bos, "eos_token": s.eos}
	if s.unk != "" {
		m["unk_token"] = s.unk
	}
	return m
}
