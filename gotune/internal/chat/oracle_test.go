package chat

import (
	"errors"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// Every case that transformers' apply_chat_template rendered or refused.
func TestOracle(t *testing.T) {
	var golden struct {
		Templates map[string]struct {
			Jinja string `json:"jinja"`
			BOS   string `json:"bos_token"`
			EOS   string `json:"eos_token"`
		}
		Cases []struct {
			Template string
			Messages []Message
			Prompt   bool `json:"add_generation_prompt"`
			Text     *string
			Error    *string
		}
	}
	oracle.JSON(t, &golden, "chat", "cases.json")
	if len(golden.Cases) == 0 {
		t.Fatal("the golden data has no cases")
	}
	parsed := map[string]*Template{}
	for name, s := range golden.Templates {
		tm, err := Parse(s.Jinja)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		parsed[name] = tm
	}
	texts, refused := 0, 0
	for i, c := range golden.Cases {
		src, ok := golden.Templates[c.Template]
		if !ok {
			t.Fatalf("case %d: no template %q", i, c.Template)
		}
		got, err := parsed[c.Template].Render(c.Messages, Options{BOS: src.BOS, EOS: src.EOS, AddGenerationPrompt: c.Prompt})
		switch {
		case c.Text != nil:
			texts++
			if err != nil {
				t.Errorf("case %d, %s: %v", i, c.Template, err)
			} else if got != *c.Text {
				t.Errorf("case %d, %s:\n got %q\nwant %q", i, c.Template, got, *c.Text)
			}
		case c.Error != nil:
			refused++
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("case %d, %s: error %v, want %s", i, c.Template, err, *c.Error)
			} else if e.Kind+": "+e.Message != *c.Error {
				t.Errorf("case %d, %s: error %q, want %q", i, c.Template, e.Kind+": "+e.Message, *c.Error)
			}
		default:
			t.Fatalf("case %d has neither text nor error", i)
		}
	}
	t.Logf("%d texts, %d errors", texts, refused)
}
