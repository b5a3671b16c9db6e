package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func ExampleTemplate_Render() {
	t, err := Parse(`{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}`)
	if err != nil {
		panic(err)
	}
	text, err := t.Render([]Message{{Role: "user", Content: " What is a gopher? "}}, Options{EOS: "</s>", AddGenerationPrompt: true})
	if err != nil {
		panic(err)
	}
	fmt.Println(text)
	// Output: <|user|>What is a gopher?</s><|assistant|>
}

func ExamplePrompt() {
	fmt.Println(Prompt("", "What is a gopher?"))
	fmt.Println(Turn("", "What is a gopher?", "A rodent."))
	fmt.Println(Answer(Turn("", "What is a gopher?", "A rodent.")))
	// Output:
	// <s>[INST] What is a gopher? [/INST]
	// <s>[INST] What is a gopher? [/INST] A rodent. </s>
	// A rodent.
}

func TestPromptWithSystem(t *testing.T) {
	want := "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"
	if got := Prompt("Be brief.", "Hi"); got != want {
		t.Errorf("Prompt = %q, want %q", got, want)
	}
	if !HasBOS(want, "<s>") || HasBOS("hi", "<s>") || HasBOS("hi", "") {
		t.Error("HasBOS is wrong")
	}
	if got := Answer("no marks"); got != "no marks" {
		t.Errorf("Answer = %q", got)
	}
}

func writeDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	const cfg = `{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": %s}`
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
		err   string
	}{
		{"string", map[string]string{"tokenizer_config.json": fmt.Sprintf(cfg, `"{{ bos_token }}a{{ eos_token }}"`)}, "<s>a</s>", ""},
		{"list", map[string]string{"tokenizer_config.json": fmt.Sprintf(cfg, `[{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]`)}, "d", ""},
		{"file first", map[string]string{"tokenizer_config.json": fmt.Sprintf(cfg, `"a"`), "chat_template.jinja": "{{ bos_token }}f\n"}, "<s>f", ""},
		{"none", map[string]string{"tokenizer_config.json": `{}`}, "", "no chat template"},
		{"no default", map[string]string{"tokenizer_config.json": fmt.Sprintf(cfg, `[{"name": "rag", "template": "t"}]`)}, "", "it has rag"},
		{"broken", map[string]string{"chat_template.jinja": "a\n{% if %}"}, "", "line 2"},
		{"bad config", map[string]string{"tokenizer_config.json": `{"chat_template": 3}`}, "", "chat_template must be"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tm, err := Load(writeDir(t, tt.files))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one with %q", err, tt.err)
				}
				if missing := tt.name == "none" || tt.name == "no default"; missing != errors.Is(err, ErrNoTemplate) {
					t.Errorf("errors.Is(%v, ErrNoTemplate) = %v", err, !missing)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := tm.Render([]Message{{Role: "user", Content: "x"}}, Options{})
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// Tools, reasoning, further fields and names reach the template in order.
func TestFields(t *testing.T) {
	tm, err := Parse(`{{ tools | tojson }}{{ messages[0].tool_calls[0].arguments | tojson }}{{ messages[0].thinking }}{{ messages[0].reasoning_content }}{{ flag }}{{ documents }}`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tm.Render([]Message{{Role: "assistant", Extra: map[string]any{
		"tool_calls": json.RawMessage(`[{"arguments": {"z": 1, "a": 2.0}}]`), "reasoning": "hm",
	}}}, Options{Tools: json.RawMessage(`[{"b": true, "a": null}]`), Vars: map[string]any{"flag": false}})
	want := `[{"b": true, "a": null}]{"z": 1, "a": 2.0}hmhmFalseNone`
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	_, err = tm.Render([]Message{{Role: "user"}}, Options{Tools: json.RawMessage(`[1`)})
	if err == nil || !strings.Contains(err.Error(), "tools") {
		t.Errorf("error %v, want one about tools", err)
	}
}
