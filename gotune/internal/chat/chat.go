// Package chat turns conversations into the text that a chat model was trained
// on, by the Jinja template that comes with the model's tokenizer.
//
// A [Template] renders exactly what transformers' apply_chat_template does with
// tokenize=False. [Prompt] and [Turn] are the plain Llama-2 form that the
// walkthrough and its data set use, which needs no template.
package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/gotune/gotune/gotune/internal/chat/jinja"
	"github.com/gotune/gotune/gotune/internal/token"
)

// A Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"` // "system", "user", "assistant", "tool"
	Content string `json:"content"`
	// Extra are further fields that templates read, such as "tool_calls" or
	// "reasoning_content"; "content" here takes the place of Content (parts of a
	// multimodal message). Values are what encoding/json gives, or
	// json.RawMessage, which keeps the order of its keys.
	Extra map[string]any `json:"-"`
}

// Options are what a template is told beside the messages.
type Options struct {
	BOS, EOS, Pad, Unk string // the special tokens' text; "" leaves the name undefined
	// AddGenerationPrompt ends the text with the head of an assistant's turn.
	AddGenerationPrompt bool
	// Tools and Documents are JSON lists, nil for none.
	Tools, Documents json.RawMessage
	// Vars are further names, e.g. "enable_thinking".
	Vars map[string]any
}

// Template is a parsed chat template, safe for concurrent use.
type Template struct {
	// Source is the template's text.
	Source string
	// BOS, EOS, Pad and Unk are the tokenizer's, set by [Load]; they stand in for
	// empty ones of Options.
	BOS, EOS, Pad, Unk string
	t                  *jinja.Template
}

// ErrNoTemplate is returned by [Load] for a folder without a chat template, as
// base models and Llama-2's first uploads are.
var ErrNoTemplate = errors.New("no chat template")

// maxTemplateBytes bounds chat_template.jinja.
const maxTemplateBytes = 1 << 20

// An Error is a conversation that a template refuses or a template that is
// broken: see [jinja.Error].
type Error = jinja.Error

// Parse reads a template. The error is an *[Error].
func Parse(src string) (*Template, error) {
	t, err := jinja.Parse(src)
	if err != nil {
		return nil, fmt.Errorf("chat: template: %w", err)
	}
	return &Template{Source: src, t: t}, nil
}

// Load reads the chat template of a model folder: chat_template.jinja, else
// chat_template of tokenizer_config.json ("default" where that is a list). It
// returns [ErrNoTemplate] if there is neither.
func Load(dir string) (*Template, error) {
	cfg, err := token.ReadConfig(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "chat_template.jinja")
	src, err := readTemplate(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		path = filepath.Join(dir, "tokenizer_config.json")
		var ok bool
		if src, ok = cfg.ChatTemplates["default"]; !ok {
			return nil, noTemplate(dir, cfg.ChatTemplates)
		}
	case err != nil:
		return nil, fmt.Errorf("chat: %w", err)
	}
	t, err := Parse(src)
	if err != nil {
		return nil, fmt.Errorf("chat: %s: %w", path, errors.Unwrap(err))
	}
	t.BOS, t.EOS, t.Pad, t.Unk = cfg.BOS, cfg.EOS, cfg.Pad, cfg.Unk
	return t, nil
}

func readTemplate(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Size() > maxTemplateBytes || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a chat template: it has %d bytes, at most %d are read", path, info.Size(), maxTemplateBytes)
	}
	b, err := os.ReadFile(path)
	return string(b), err
}

func noTemplate(dir string, have map[string]string) error {
	if len(have) > 0 {
		names := make([]string, 0, len(have))
		for n := range have {
			names = append(names, n)
		}
		sort.Strings(names)
		return fmt.Errorf("chat: %s: %w named default: it has %s", dir, ErrNoTemplate, strings.Join(names, ", "))
	}
	return fmt.Errorf("chat: %s: %w: found neither chat_template.jinja nor chat_template in tokenizer_config.json: use the plain prompt form, or a chat model", dir, ErrNoTemplate)
}

// SetClock sets the clock of strftime_now, which some templates put into the
// system prompt; the default is time.Now.
func (t *Template) SetClock(now func() time.Time) { t.t.Now = now }

// Render returns the text of a conversation. The content of messages is not
// escaped: the text of a special token in it becomes that token when encoded. An
// empty conversation is an error, as in transformers; the error is an *[Error].
func (t *Template) Render(messages []Message, o Options) (string, error) {
	text, _, err := t.RenderSpans(messages, o)
	return text, err
}

// RenderSpans is Render, with the parts of the text that the template marks as
// the assistant's by {% generation %}, in bytes: what a loss on answers only is
// computed on.
func (t *Template) RenderSpans(messages []Message, o Options) (string, []jinja.Span, error) {
	if len(messages) == 0 {
		return "", nil, fmt.Errorf("chat: %w", &Error{Kind: "ValueError",
			Message: "Cannot apply chat template to an empty conversation. Provide at least one message."})
	}
	vars, err := t.vars(messages, o)
	if err != nil {
		return "", nil, err
	}
	text, spans, err := t.t.Render(vars)
	if err != nil {
		return "", nil, fmt.Errorf("chat: the template refuses the conversation: %w", err)
	}
	return text, spans, nil
}

// vars are the names that the template sees.
func (t *Template) vars(messages []Message, o Options) (*jinja.Dict, error) {
	list := &jinja.List{}
	for i, m := range messages {
		d, err := m.dict()
		if err != nil {
			return nil, fmt.Errorf("chat: message %d: %w", i, err)
		}
		list.Items = append(list.Items, d)
	}
	vars := jinja.NewDict()
	for _, s := range []struct{ name, value, def string }{
		{"bos_token", o.BOS, t.BOS}, {"eos_token", o.EOS, t.EOS}, {"pad_token", o.Pad, t.Pad}, {"unk_token", o.Unk, t.Unk},
	} {
		if s.value == "" {
			s.value = s.def
		}
		if s.value != "" {
			vars.Set(s.name, s.value)
		}
	}
	for name, v := range o.Vars {
		value, err := toValue(v)
		if err != nil {
			return nil, fmt.Errorf("chat: option %q: %w", name, err)
		}
		vars.Set(name, value)
	}
	vars.Set("messages", list)
	vars.Set("add_generation_prompt", o.AddGenerationPrompt)
	for name, raw := range map[string]json.RawMessage{"tools": o.Tools, "documents": o.Documents} {
		var v jinja.Value
		if raw != nil {
			var err error
			if v, err = jinja.FromJSON(raw); err != nil {
				return nil, fmt.Errorf("chat: %s: %w", name, err)
			}
		}
		vars.Set(name, v)
	}
	return vars, nil
}

// dict is the message as a template sees it. As in transformers, reasoning under
// any of its three names is given under all that templates read.
func (m Message) dict() (*jinja.Dict, error) {
	d := jinja.NewDict()
	var reasoning jinja.Value
	for _, name := range []string{"reasoning", "thinking", "reasoning_content"} {
		if v, ok := m.Extra[name]; ok && v != nil {
			var err error
			if reasoning, err = toValue(v); err != nil {
				return nil, fmt.Errorf("field %q: %w", name, err)
			}
		}
	}
	if reasoning != nil {
		d.Set("thinking", reasoning)
	}
	d.Set("role", m.Role)
	d.Set("content", m.Content)
	names := make([]string, 0, len(m.Extra))
	for n := range m.Extra {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		v, err := toValue(m.Extra[n])
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", n, err)
		}
		d.Set(n, v)
	}
	if reasoning != nil {
		d.Set("reasoning_content", reasoning)
	}
	return d, nil
}

func toValue(v any) (jinja.Value, error) {
	if raw, ok := v.(json.RawMessage); ok {
		return jinja.FromJSON(raw)
	}
	return jinja.FromGo(v), nil
}
