package jinja

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// What Jinja2 in transformers' environment gives for small templates: texts, and
// the kind of each error. testdata/make.py wrote the file.
func TestJinja2(t *testing.T) {
	data, err := os.ReadFile("testdata/jinja2.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Vars  json.RawMessage
		Cases []struct {
			Src     string
			Text    *string
			Error   string
			Message string
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	vars, err := FromJSON(golden.Vars)
	if err != nil {
		t.Fatal(err)
	}
	same := 0
	for _, c := range golden.Cases {
		got, err := renderSource(c.Src, vars.(*Dict))
		var e *Error
		switch {
		case c.Text != nil && err != nil:
			t.Errorf("%q: %v, want %q", c.Src, err, *c.Text)
		case c.Text != nil && got != *c.Text:
			t.Errorf("%q = %q, want %q", c.Src, got, *c.Text)
		case c.Text == nil && !errors.As(err, &e):
			t.Errorf("%q = %q, want %s: %s", c.Src, got, c.Error, c.Message)
		case c.Text == nil && e.Kind != c.Error:
			t.Errorf("%q: %v, want %s: %s", c.Src, err, c.Error, c.Message)
		case c.Text == nil && e.Message == c.Message:
			same++
		}
	}
	t.Logf("%d templates; %d errors with the same message too", len(golden.Cases), same)
}

func renderSource(src string, vars *Dict) (string, error) {
	t, err := Parse(src)
	if err != nil {
		return "", err
	}
	text, _, err := t.Render(vars)
	return text, err
}
