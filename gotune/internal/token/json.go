package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// jsonFile is tokenizer.json. Truncation and padding, which it may also hold, are
// the caller's business and not read.
type jsonFile struct {
	Added         []AddedToken `json:"added_tokens"`
	Normalizer    *component   `json:"normalizer"`
	PreTokenizer  *component   `json:"pre_tokenizer"`
	PostProcessor *component   `json:"post_processor"`
	Decoder       *component   `json:"decoder"`
	Model         *jsonModel   `json:"model"`
}

// A component is any step of the pipeline: its type and the fields of all types.
type component struct {
	Type string `json:"type"`

	Normalizers   []component `json:"normalizers"`
	PreTokenizers []component `json:"pretokenizers"`
	Processors    []component `json:"processors"`
	Decoders      []component `json:"decoders"`

	Prepend          string          `json:"prepend"`
	Pattern          *jsonPattern    `json:"pattern"`
	Content          string          `json:"content"`
	Replacement      string          `json:"replacement"`
	PrependScheme    *string         `json:"prepend_scheme"`
	AddPrefixSpace   *bool           `json:"add_prefix_space"`
	Split            *bool           `json:"split"`
	Behavior         string          `json:"behavior"`
	Invert           bool            `json:"invert"`
	UseRegex         *bool           `json:"use_regex"`
	IndividualDigits bool            `json:"individual_digits"`
	StripLeft        *bool           `json:"strip_left"`
	StripRight       *bool           `json:"strip_right"`
	Start            int             `json:"start"`
	Stop             int             `json:"stop"`
	Single           []templatePart  `json:"single"`
	SpecialTokens    json.RawMessage `json:"special_tokens"`
}

// jsonPattern is {"String": …} or {"Regex": …}.
type jsonPattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

func (p *jsonPattern) compile() (pattern, error) {
	switch {
	case p == nil || p.String == nil && p.Regex == nil:
		return pattern{}, errors.New(`pattern: want {"String": …} or {"Regex": …}`)
	case p.String != nil:
		return pattern{text: *p.String}, nil
	}
	return compilePattern(*p.Regex)
}

// templatePart is {"SpecialToken": {"id": "<s>"}} or {"Sequence": {"id": "A"}}.
type templatePart struct {
	SpecialToken *struct{ ID string } `json:"SpecialToken"`
	Sequence     *struct{ ID string } `json:"Sequence"`
}

// jsonModel is the model of tokenizer.json.
type jsonModel struct {
	Type         string          `json:"type"`
	Dropout      *float64        `json:"dropout"`
	Unk          *string         `json:"unk_token"`
	Prefix       *string         `json:"continuing_subword_prefix"`
	Suffix       *string         `json:"end_of_word_suffix"`
	FuseUnk      bool            `json:"fuse_unk"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
	Vocab        json.RawMessage `json:"vocab"`
	Merges       []jsonMerge     `json:"merges"`
}

// jsonMerge is "a b" or ["a", "b"].
type jsonMerge [2]string

func (m *jsonMerge) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var pair []string
		if err := json.Unmarshal(b, &pair); err != nil || len(pair) != 2 {
			return fmt.Errorf("merge %s: want two strings", clip(string(b)))
		}
		*m = jsonMerge{pair[0], pair[1]}
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("merge %s: want a string or two", clip(string(b)))
	}
	left, right, ok := strings.Cut(s, " ")
	if !ok || strings.Contains(right, " ") {
		return fmt.Errorf("merge %q: want two tokens with one space between", clip(s))
	}
	*m = jsonMerge{left, right}
	return nil
}

// ReadJSON reads the text of a tokenizer.json. cfg may be nil.
func ReadJSON(data []byte, cfg *Config) (*Tokenizer, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	c := *cfg
	var f jsonFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("not a tokenizer: %w", err)
	}
	if f.Model == nil {
		return nil, errors.New(`not a tokenizer: "model" is missing: the file may be cut short or of another kind; download it again`)
	}
	t := &Tokenizer{config: &c}
	var err error
	if t.model, err = f.Model.build(); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if t.normalize, err = buildNormalizers(f.Normalizer); err != nil {
		return nil, fmt.Errorf("normalizer: %w", err)
	}
	if err = t.buildPreTokenizers(f.PreTokenizer); err != nil {
		return nil, fmt.Errorf("pre_tokenizer: %w", err)
	}
	if t.decode, err = buildDecoders(f.Decoder); err != nil {
		return nil, fmt.Errorf("decoder: %w", err)
	}
	t.joinSpace = f.Decoder == nil
	if c.BOS == "" {
		c.BOS = f.PostProcessor.firstSpecial()
	}
	if err = t.finish(f.Added); err != nil {
		return nil, err
	}
	if err = t.buildPostProcessor(f.PostProcessor); err != nil {
		return nil, fmt.Errorf("post_processor: %w", err)
	}
	if f.PostProcessor == nil {
		t.addNamed(false)
	}
	return t, nil
}

// addNamed sets BOS and EOS as tokenizer_config.json asks.
func (t *Tokenizer) addNamed(addBOS bool) {
	addEOS := false
	if t.config.AddBOS != nil {
		addBOS = *t.config.AddBOS
	}
	if t.config.AddEOS != nil {
		addEOS = *t.config.AddEOS
	}
	if addBOS && t.bos >= 0 {
		t.prefix = []int32{t.bos}
	}
	if addEOS && t.eos >= 0 {
		t.suffix = []int32{t.eos}
	}
}

// build makes the model.
func (j *jsonModel) build() (*bpe, error) {
	if j.Type != "BPE" && !(j.Type == "" && j.Merges != nil) {
		return nil, fmt.Errorf("type %q is not supported: only BPE is (Llama, Mistral and Qwen use it)", j.Type)
	}
	if j.Dropout != nil && *j.Dropout != 0 {
		return nil, fmt.Errorf("dropout is %g: random merges are not supported; set it to null", *j.Dropout)
	}
	m := &bpe{
		unk: -1, fuseUnk: j.FuseUnk, byteFallback: j.ByteFallback, ignoreMerges: j.IgnoreMerges,
		prefix: deref(j.Prefix), suffix: deref(j.Suffix), real: maxVocab,
	}
	if err := json.Unmarshal(j.Vocab, &m.vocab); err != nil {
		return nil, fmt.Errorf("vocab: want an object of ids by token: %w", err)
	}
	for s, id := range m.vocab {
		if id < 0 || id >= maxVocab {
			return nil, fmt.Errorf("vocab: token %q has id %d: ids are 0 to %d", clip(s), id, maxVocab-1)
		}
	}
	if u := deref(j.Unk); u != "" {
		id, ok := m.vocab[u]
		if !ok {
			return nil, fmt.Errorf("unk_token %q is not in the vocabulary", u)
		}
		m.unk = id
	}
	merges, made, err := j.merges(m)
	if err != nil {
		return nil, err
	}
	if _, err := newBPE(m, merges); err != nil {
		return nil, err
	}
	if !mergesBytes(m, merges) {
		m.cutAt(made)
	}
	return m, nil
}

// merges resolves the merge list; made are the tokens it makes.
func (j *jsonModel) merges(m *bpe) (merges []merge, made []string, err error) {
	merges = make([]merge, 0, len(j.Merges))
	made = make([]string, 0, len(j.Merges))
	for rank, p := range j.Merges {
		joined := p[0] + strings.TrimPrefix(p[1], m.prefix)
		left, ok1 := m.vocab[p[0]]
		right, ok2 := m.vocab[p[1]]
		id, ok3 := m.vocab[joined]
		for _, c := range []struct {
			ok bool
			s  string
		}{{ok1, p[0]}, {ok2, p[1]}, {ok3, joined}} {
			if !c.ok {
				return nil, nil, fmt.Errorf("merge %d (%q, %q): token %q is not in the vocabulary", rank, clip(p[0]), clip(p[1]), clip(c.s))
			}
		}
		merges = append(merges, merge{left, right, id, uint32(rank)})
		made = append(made, joined)
	}
	return merges, made, nil
}

// mergesBytes says whether a merge joins byte tokens or unknown tokens, whose
// text is not the text that they stand for.
func mergesBytes(m *bpe, merges []merge) bool {
	odd := map[int32]bool{}
	if m.byteFallback {
		for _, id := range m.byteTokens {
			odd[id] = true
		}
	}
	if m.unk >= 0 {
		odd[m.unk] = true
	}
	for _, g := range merges {
		if odd[g.left] || odd[g.right] {
			return true
		}
	}
	return false
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// clip shortens s for a message.
func clip(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

// isNull says whether a raw field is absent or null.
func isNull(b json.RawMessage) bool {
	return len(b) == 0 || bytes.Equal(bytes.TrimSpace(b), []byte("null"))
}
