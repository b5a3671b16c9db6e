package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// Config is what tokenizer_config.json says beside the pipeline itself. A token
// is "" where the file names none.
type Config struct {
	BOS, EOS, Pad, Unk string
	// AddBOS and AddEOS say what Encode with addSpecial adds, for a tokenizer
	// whose pipeline does not say so itself (tokenizer.model). nil: not given.
	AddBOS, AddEOS *bool
	// Legacy chooses for tokenizer.model how text behind a special token is read:
	// true gives each stretch its own "▁" in front, false only the text's start.
	Legacy *bool
	// AddPrefixSpace false leaves out the "▁" in front of the text.
	AddPrefixSpace *bool
	// Class is the Python class, e.g. "LlamaTokenizer".
	Class string
	// MaxLength is model_max_length, 0 where it is not given or has no meaning
	// (transformers writes 1e30 for "none").
	MaxLength int
	// ChatTemplates are the Jinja templates by name; the usual one is "default".
	ChatTemplates map[string]string
	// Added are the tokens of added_tokens_decoder, by id.
	Added []AddedToken
}

// maxConfigBytes bounds tokenizer_config.json; Llama-3's has 55 kB.
const maxConfigBytes = 16 << 20

// ReadConfig reads tokenizer_config.json of dir and, for tokens that it does not
// name, special_tokens_map.json. Files that are missing count as empty.
func ReadConfig(dir string) (*Config, error) {
	c := &Config{}
	path := filepath.Join(dir, "tokenizer_config.json")
	data, err := readFile(path, maxConfigBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if c, err = ParseConfig(data); err != nil {
			return nil, fmt.Errorf("token: %s: %w", path, err)
		}
	}
	path = filepath.Join(dir, "special_tokens_map.json")
	data, err = readFile(path, maxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("token: %s: %w", path, err)
	}
	for _, p := range [][2]*string{{&c.BOS, &m.BOS}, {&c.EOS, &m.EOS}, {&c.Pad, &m.Pad}, {&c.Unk, &m.Unk}} {
		if *p[0] == "" {
			*p[0] = *p[1]
		}
	}
	return c, nil
}

// tokenName reads "</s>" or {"content": "</s>", …} or null.
type tokenName string

func (n *tokenName) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*n = tokenName(s)
		return nil
	}
	var o struct {
		Content string `json:"content"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return errors.New(`a token must be a string or an object with "content"`)
	}
	*n = tokenName(o.Content)
	return nil
}

// templates reads chat_template: a string, or a list of {"name", "template"}.
type templates map[string]string

func (t *templates) UnmarshalJSON(b []byte) error {
	var s string
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	if json.Unmarshal(b, &s) == nil {
		*t = templates{"default": s}
		return nil
	}
	var list []struct{ Name, Template string }
	if err := json.Unmarshal(b, &list); err != nil {
		return errors.New("chat_template must be a string or a list of objects with name and template")
	}
	*t = templates{}
	for _, e := range list {
		(*t)[e.Name] = e.Template
	}
	return nil
}

// ParseConfig reads the text of a tokenizer_config.json.
func ParseConfig(data []byte) (*Config, error) {
	var f struct {
		BOS            tokenName             `json:"bos_token"`
		EOS            tokenName             `json:"eos_token"`
		Pad            tokenName             `json:"pad_token"`
		Unk            tokenName             `json:"unk_token"`
		AddBOS         *bool                 `json:"add_bos_token"`
		AddEOS         *bool                 `json:"add_eos_token"`
		Legacy         *bool                 `json:"legacy"`
		AddPrefixSpace *bool                 `json:"add_prefix_space"`
		Class          string                `json:"tokenizer_class"`
		MaxLength      float64               `json:"model_max_length"`
		ChatTemplate   templates             `json:"chat_template"`
		Added          map[string]AddedToken `json:"added_tokens_decoder"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("not a tokenizer configuration: %w", err)
	}
	c := &Config{
		BOS: string(f.BOS), EOS: string(f.EOS), Pad: string(f.Pad), Unk: string(f.Unk),
		AddBOS: f.AddBOS, AddEOS: f.AddEOS, Legacy: f.Legacy, AddPrefixSpace: f.AddPrefixSpace,
		Class: f.Class, ChatTemplates: f.ChatTemplate,
	}
	if f.MaxLength > 0 && f.MaxLength < 1e9 {
		c.MaxLength = int(f.MaxLength)
	}
	for key, a := range f.Added {
		id, err := parseID(key)
		if err != nil {
			return nil, fmt.Errorf("added_tokens_decoder: %w", err)
		}
		a.ID = id
		c.Added = append(c.Added, a)
	}
	sort.Slice(c.Added, func(i, j int) bool { return c.Added[i].ID < c.Added[j].ID })
	return c, nil
}

// parseID reads a token id written as a JSON key.
func parseID(s string) (int32, error) {
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' || n > maxVocab {
			return 0, fmt.Errorf("%q is not a token id", s)
		}
		n = n*10 + int(s[i]-'0')
	}
	if s == "" || n >= maxVocab {
		return 0, fmt.Errorf("%q is not a token id: ids are 0 to %d", s, maxVocab-1)
	}
	return int32(n), nil
}

// readFile reads a file of at most max bytes.
func readFile(path string, max int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("token: %s is not a regular file", path)
	}
	if info.Size() > max {
		return nil, fmt.Errorf("token: %s has %d bytes, at most %d are read: it is not a tokenizer file", path, info.Size(), max)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return data, nil
}
