package hub

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

func TestSecretNeverPrints(t *testing.T) {
	s := NewSecret("hf_secret")
	c := Client{Token: s}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", s)
	j, err := json.Marshal(map[string]any{"t": s, "p": &s})
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{
		fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q %x %X %d", s, s, s, s, s, s, s, s), fmt.Sprintf("%v %+v", &c.Token, struct{ T Secret }{s}), string(j), log.String(),
	} {
		if strings.Contains(out, "hf_secret") || strings.Contains(out, fmt.Sprintf("%x", "hf_secret")) {
			t.Errorf("printed: %s", out)
		}
	}
	if s.Reveal() != "hf_secret" || s.IsZero() || !NewSecret("").IsZero() || NewSecret("").String() != "" {
		t.Error("the value is not kept")
	}
}

func TestFromEnv(t *testing.T) {
	home := t.TempDir()
	file := filepath.Join(home, "token")
	if err := os.WriteFile(file, []byte("  hf_file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name                   string
		env                    map[string]string
		endpoint, cache, token string
		offline                bool
	}{
		{"nothing", map[string]string{"HOME": "/h"}, DefaultEndpoint, "/h/.cache/huggingface/hub", "", false},
		{"XDG", map[string]string{"HOME": "/h", "XDG_CACHE_HOME": "/x"}, DefaultEndpoint, "/x/huggingface/hub", "", false},
		{"HF_HOME and its token", map[string]string{"HF_HOME": home}, DefaultEndpoint, home + "/hub", "hf_file", false},
		{"token variable wins", map[string]string{"HF_HOME": home, "HF_TOKEN": "hf_env\n"}, DefaultEndpoint, home + "/hub", "hf_env", false},
		{"token path", map[string]string{"HOME": "/h", "HF_TOKEN_PATH": file}, DefaultEndpoint, "/h/.cache/huggingface/hub", "hf_file", false},
		{"cache", map[string]string{"HF_HOME": "/x", "HF_HUB_CACHE": "/c"}, DefaultEndpoint, "/c", "", false},
		{"old cache", map[string]string{"HF_HOME": "/x", "HUGGINGFACE_HUB_CACHE": "/c"}, DefaultEndpoint, "/c", "", false},
		{"endpoint and offline", map[string]string{"HF_HOME": "~/hf", "HOME": "/h", "HF_ENDPOINT": "http://localhost:1/", "HF_HUB_OFFLINE": "yes"}, "http://localhost:1", "/h/hf/hub", "", true},
		{"not offline", map[string]string{"HF_HOME": "/x", "HF_HUB_OFFLINE": "0"}, DefaultEndpoint, "/x/hub", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := FromEnv(func(k string) string { return tt.env[k] })
			if c.endpoint() != tt.endpoint || c.cacheDir() != tt.cache || c.Token.Reveal() != tt.token || c.Offline != tt.offline {
				t.Errorf("%s %s %q %v", c.endpoint(), c.cacheDir(), c.Token.Reveal(), c.Offline)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for v, want := range map[string]time.Duration{"": -1, "0": 0, "7": 7 * time.Second, "x": -1, "-1": -1, "Mon, 02 Jan 2006 15:04:05 GMT": 0} {
		if got := retryAfter(map[string][]string{"Retry-After": {v}}); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

// Python's urllib.parse.quote and fnmatch are the models.
func TestQuoteAndPatterns(t *testing.T) {
	if got := quote("sub/notes é+ä&~.txt", "/"); got != "sub/notes%20%C3%A9%2B%C3%A4%26~.txt" {
		t.Error(got)
	}
	if got := quote("refs/pr/1", ""); got != "refs%2Fpr%2F1" {
		t.Error(got)
	}
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"*.json", "config.json", true}, {"*.json", "sub/config.json", true}, {"*.json", "config.jsonl", false}, {"sub/", "sub/a/b", true},
		{"model-0000[1-3]*", "model-00002-of-3.safetensors", true}, {"[!a]*", "abc", false}, {"a?c", "abc", true}, {"é*", "été", true}, {"a[", "a[", true},
	} {
		if got := matchAny([]string{tt.pattern}, tt.path); got != tt.want {
			t.Errorf("%q on %q: %v", tt.pattern, tt.path, got)
		}
	}
}

func TestCard(t *testing.T) {
	c := Card{BaseModel: "NousResearch/Llama-2-7b-chat-hf", Library: "peft", Datasets: []string{"mlabonne/guanaco-llama2-1k", "./local.jsonl"}, Languages: []string{"en", "no"},
		Tags: []string{"llama-2", "a: b", "gotune"}, License: "llama2", Summary: "Text.", Training: []Pair{{"learning rate", "2e-4"}, {"a|b", "c\nd"}}}
	text := c.Markdown("tester/x")
	_, rest, ok := strings.Cut(text, "---\n")
	head, body, ok2 := strings.Cut(rest, "\n---\n")
	if !ok || !ok2 {
		t.Fatal(text)
	}
	var v map[string]any
	if err := yaml.Unmarshal([]byte(head), &v); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"license": "llama2", "base_model": "NousResearch/Llama-2-7b-chat-hf", "base_model_relation": "adapter", "library_name": "peft", "pipeline_tag": "text-generation",
		"datasets": []any{"mlabonne/guanaco-llama2-1k"}, "language": []any{"en", "no"}, "tags": []any{"gotune", "llama-2", "a: b", "lora"}}
	if fmt.Sprint(v) != fmt.Sprint(want) {
		t.Errorf("front matter\ngot  %v\nwant %v", v, want)
	}
	for _, s := range []string{"# x\n", "| learning rate | 2e-4 |", `| a\|b | c d |`, `PeftModel.from_pretrained(base, "tester/x")`} {
		if !strings.Contains(body, s) {
			t.Errorf("%q is missing in\n%s", s, body)
		}
	}
	dir := t.TempDir()
	if err := c.Write(dir, "tester/x", false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte("by hand"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Write(dir, "tester/x", false); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "README.md")); err != nil || string(b) != "by hand" {
		t.Errorf("%q, %v", b, err)
	}
	if err := (Card{BaseModel: "/local/path", Title: "T"}).Write(dir, "a/b", true); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "README.md")); strings.Contains(string(b), "/local/path") || !strings.Contains(string(b), "# T\n") {
		t.Errorf("%s", b)
	}
}

func ExampleCard_Markdown() {
	c := Card{BaseModel: "meta-llama/Llama-2-7b-hf", Library: "transformers", Training: []Pair{{"epochs", "1"}}, Usage: "See the notebook."}
	fmt.Println(c.Markdown("owner/name"))
	// Output:
	// ---
	// base_model: meta-llama/Llama-2-7b-hf
	// library_name: transformers
	// pipeline_tag: text-generation
	// tags:
	// - gotune
	// ---
	//
	// # name
	//
	// ## Training
	//
	// | parameter | value |
	// |---|---|
	// | epochs | 1 |
	//
	// ## Use
	//
	// See the notebook.
	//
	// Made with gotune.
}
