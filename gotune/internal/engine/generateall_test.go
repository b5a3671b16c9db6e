package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune"
)

// Prompts side by side get the answers that each gets alone, in their order, however
// many rows the last batch fills; bad ones are refused by their number.
func TestGenerateAll(t *testing.T) {
	startEngine(t)
	prompts := []string{"What does strings.TrimSpace do?", "What is a slice?", "Write a function that adds two numbers and explain each of its lines.", "What does len return?", "Hello"}
	s := gotune.Sampling{MaxNewTokens: 12}
	all, err := testBase.GenerateAll(prompts, s)
	if err != nil || len(all) != len(prompts) {
		t.Fatalf("%d answers, %v; want %d", len(all), err, len(prompts))
	}
	for i, p := range prompts {
		alone, err := testBase.Generate(p, s)
		if err != nil {
			t.Fatal(err)
		}
		if g := all[i]; g.Prompt != p || g.Text != alone.Text || g.Tokens != alone.Tokens || g.Stop != alone.Stop || g.Rendered != alone.Rendered || !g.Base {
			t.Errorf("%q: %q, %d tokens, %s; alone %q, %d, %s", p, g.Text, g.Tokens, g.Stop, alone.Text, alone.Tokens, alone.Stop)
		}
	}
	// A limit of prompt and answer together: the shorter the prompt the longer the answer.
	if all, err = testBase.GenerateAll(prompts[2:], gotune.Sampling{MaxLength: 48}); err != nil {
		t.Fatal(err)
	}
	for _, g := range all {
		if n := g.PromptTokens + g.Tokens; n > 48 || g.Stop == "length" && n != 48 {
			t.Errorf("%q: %d tokens, %s; want 48 at most", g.Prompt, n, g.Stop)
		}
	}
	var e *gotune.Error
	if _, err = testBase.GenerateAll(nil, s); !errors.As(err, &e) || e.Kind != gotune.KindInvalid || e.Found != "none" {
		t.Errorf("no prompts: %v", err)
	}
	long := []string{"short", strings.Repeat("word ", 3000)}
	if _, err = testBase.GenerateAll(long, s); !errors.As(err, &e) || e.Object != "prompt 2 of 2" || !strings.Contains(e.Next, "shorten") {
		t.Errorf("a prompt that is too long: %v", err)
	}
}

// Rows are a power of two that the free memory has room for.
func TestRowsSideBySide(t *testing.T) {
	_, e := startEngine(t)
	if _, err := testBase.Load(); err != nil {
		t.Fatal(err)
	}
	l, err := e.models.find(t.Context(), testBase.Name)
	if err != nil {
		t.Fatal(err)
	}
	c := l.files.Config
	each := 2 * int64(c.NumLayers*c.NumKVHeads*c.HeadDim*100*l.elementSize())
	var got []int
	for _, free := range []int64{0, 64 * each, 16 * each, 5 * each, 1} {
		got = append(got, l.rowsSideBySide(100, 100, free))
	}
	if want := []int{32, 32, 8, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}
	if n := l.rowsSideBySide(3, 100, 0); n != 4 {
		t.Errorf("%d rows for 3 prompts, want 4", n)
	}
}
