package token

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// maxVocab bounds token ids, maxFileBytes a tokenizer file (Llama-3's has 17 MB).
const (
	maxVocab     = 1 << 22
	maxFileBytes = 256 << 20
)

// Load reads the tokenizer of a model folder: tokenizer.json if it is there, else
// tokenizer.model, each with tokenizer_config.json and special_tokens_map.json.
//
// tokenizer.json is followed to the letter; the class that tokenizer_config.json
// names plays no part. (transformers 5 rebuilds the pipeline of a LlamaTokenizer
// instead, which changes how text behind special tokens is read.)
func Load(dir string) (*Tokenizer, error) {
	cfg, err := ReadConfig(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name  string
		parse func([]byte, *Config) (*Tokenizer, error)
	}{{"tokenizer.json", ReadJSON}, {"tokenizer.model", ReadModel}} {
		path := filepath.Join(dir, f.name)
		data, err := readFile(path, maxFileBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if f.name == "tokenizer.model" {
			if err := cfg.readAdded(dir); err != nil {
				return nil, err
			}
		}
		t, err := f.parse(data, cfg)
		if err != nil {
			return nil, fmt.Errorf("token: %s: %w", path, err)
		}
		return t, nil
	}
	return nil, fmt.Errorf("token: no tokenizer in %s: found neither tokenizer.json nor tokenizer.model: download the model's tokenizer files", dir)
}

// readAdded reads added_tokens.json, where older folders keep what was added to
// tokenizer.model: {"[PAD]": 32000}.
func (c *Config) readAdded(dir string) error {
	path := filepath.Join(dir, "added_tokens.json")
	data, err := readFile(path, maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var m map[string]int32
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("token: %s: want an object of ids by token: %w", path, err)
	}
	have := map[string]bool{}
	for _, a := range c.Added {
		have[a.Content] = true
	}
	for s, id := range m {
		if id < 0 || id >= maxVocab {
			return fmt.Errorf("token: %s: token %q has id %d: ids are 0 to %d", path, s, id, maxVocab-1)
		}
		if !have[s] {
			c.Added = append(c.Added, AddedToken{ID: id, Content: s, Special: c.names(s), Normalized: !c.names(s)})
		}
	}
	return nil
}

// names says whether s is one of the configuration's named tokens.
func (c *Config) names(s string) bool {
	return s != "" && (s == c.BOS || s == c.EOS || s == c.Pad || s == c.Unk)
}

// finish fills what follows from the parts: the table of tokens, the matchers,
// the named ids.
func (t *Tokenizer) finish(added []AddedToken) error {
	if err := t.addTokens(added); err != nil {
		return err
	}
	if err := t.fillTokens(); err != nil {
		return err
	}
	var raw, normalized []AddedToken
	for _, a := range t.added {
		if a.Normalized {
			normalized = append(normalized, a)
		} else {
			raw = append(raw, a)
		}
	}
	t.raw = newMatcher(raw, func(s string) string { return s })
	spell := func(s string) string {
		s, _ = t.normalizeText(s)
		return s
	}
	t.normalized = newMatcher(normalized, spell)
	for _, a := range normalized {
		t.tokens[a.ID] = spell(a.Content) // and so it is decoded, as by tokenizers
	}
	for _, n := range []struct {
		id   *int32
		name string
	}{{&t.bos, t.config.BOS}, {&t.eos, t.config.EOS}, {&t.pad, t.config.Pad}, {&t.unk, t.config.Unk}} {
		*n.id = -1
		if id, ok := t.ID(n.name); ok && n.name != "" {
			*n.id = id
		}
	}
	return nil
}

// addTokens keeps the added tokens: those of the file, those of
// added_tokens_decoder and, behind all ids, named tokens that are in neither, as
// transformers adds them.
func (t *Tokenizer) addTokens(added []AddedToken) error {
	t.special, t.addedIDs = map[string]bool{}, map[string]int32{}
	next := int32(0)
	for _, id := range t.model.vocab {
		if id < t.model.real {
			next = max(next, id+1)
		}
	}
	add := func(a AddedToken) {
		t.added = append(t.added, a)
		t.addedIDs[a.Content] = a.ID
		next = max(next, a.ID+1)
		if a.Special {
			t.special[a.Content] = true
		}
	}
	for _, a := range append(append([]AddedToken{}, added...), t.config.Added...) {
		if a.Content == "" {
			continue
		}
		if id, ok := t.model.vocab[a.Content]; ok && id < t.model.real {
			a.ID = id // tokenizers, too, lets the vocabulary decide
		}
		if a.ID < 0 || a.ID >= maxVocab {
			return fmt.Errorf("added token %q has id %d: ids are 0 to %d", a.Content, a.ID, maxVocab-1)
		}
		if have, dup := t.addedIDs[a.Content]; !dup {
			add(a)
		} else if have != a.ID {
			return fmt.Errorf("added token %q has two ids, %d and %d", a.Content, have, a.ID)
		}
	}
	for _, name := range []string{t.config.BOS, t.config.EOS, t.config.Unk, t.config.Pad} {
		if name == "" || t.special[name] {
			continue
		}
		if _, ok := t.addedIDs[name]; !ok {
			id, ok := t.model.vocab[name]
			if !ok || id >= t.model.real {
				id = next
			}
			add(AddedToken{ID: id, Content: name, Special: true})
		}
		t.special[name] = true
	}
	t.specialIDs = map[int32]struct{}{}
	for i, a := range t.added {
		if t.special[a.Content] {
			t.added[i].Special = true
			t.specialIDs[a.ID] = struct{}{}
		}
	}
	return nil
}

// fillTokens makes the table from ids to tokens.
func (t *Tokenizer) fillTokens() error {
	n := int32(0)
	for _, id := range t.model.vocab {
		if id < t.model.real {
			n = max(n, id+1)
		}
	}
	for _, a := range t.added {
		n = max(n, a.ID+1)
	}
	t.tokens, t.known = make([]string, n), make([]bool, n)
	set := func(id int32, s string) error {
		if t.known[id] && t.tokens[id] != s {
			return fmt.Errorf("id %d is given to two tokens, %q and %q", id, t.tokens[id], s)
		}
		t.tokens[id], t.known[id] = s, true
		return nil
	}
	for s, id := range t.model.vocab {
		if id >= t.model.real {
			continue
		}
		if err := set(id, s); err != nil {
			return err
		}
	}
	for _, a := range t.added {
		if err := set(a.ID, a.Content); err != nil {
			return err
		}
	}
	return nil
}
