package token

import "strings"

// A Stream decodes ids one by one, for text that is shown while it is made. What
// may still change is held back: bytes that are not yet a character, and runs of
// byte tokens, which are a text only if the whole run is UTF-8. The pieces and
// Flush's rest, joined, equal [Tokenizer.Decode] of all ids.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	stages      []stage
	started     bool
}

// Stream starts a streaming decoder.
func (t *Tokenizer) Stream(skipSpecial bool) *Stream {
	s := &Stream{t: t, skipSpecial: skipSpecial}
	fused := false
	for _, d := range t.decode {
		s.stages = append(s.stages, d.stage(fused))
		fused = fused || d.fuses()
	}
	return s
}

// Add returns the text that id completes, often "".
func (s *Stream) Add(id int32) string {
	if !s.t.has(id) {
		return ""
	}
	tok := s.t.tokens[id]
	if s.skipSpecial && s.t.special[tok] {
		return ""
	}
	if s.t.joinSpace {
		if s.started {
			return " " + tok
		}
		s.started = true
		return tok
	}
	return strings.Join(s.feed(0, []string{tok}), "")
}

// feed pushes tokens through the stages from k on.
func (s *Stream) feed(k int, toks []string) []string {
	for _, st := range s.stages[k:] {
		var out []string
		for _, t := range toks {
			out = st.push(out, t)
		}
		toks = out
	}
	return toks
}

// Flush returns what was held back and ends the text; the Stream may then be
// used for another.
func (s *Stream) Flush() string {
	var b strings.Builder
	for k, st := range s.stages {
		for _, t := range s.feed(k+1, st.flush(nil)) {
			b.WriteString(t)
		}
	}
	s.started = false
	return b.String()
}
