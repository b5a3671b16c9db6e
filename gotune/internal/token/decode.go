package token

import (
	"strings"
	"unicode/utf8"
)

// A decoder is one step from tokens to text. Steps run as a chain of stages that
// take a token at a time, so that one implementation serves whole texts and
// streams.
type decoder interface {
	// stage starts a run; fused says that a step before made one token of all,
	// which arrives in parts.
	stage(fused bool) stage
	// fuses says whether this step makes one token of all.
	fuses() bool
}

// A stage takes tokens and appends those that it has finished to out.
type stage interface {
	push(out []string, token string) []string
	flush(out []string) []string // ends the run and readies the stage for another
}

// mapStage is a stage that changes each token by itself.
type mapStage func(string) string

func (f mapStage) push(out []string, t string) []string { return append(out, f(t)) }
func (f mapStage) flush(out []string) []string          { return out }

// wholeStage holds back the parts of a fused token and gives them to inner as one.
type wholeStage struct {
	inner stage
	parts []string
}

func (w *wholeStage) push(out []string, t string) []string {
	w.parts = append(w.parts, t)
	return out
}

func (w *wholeStage) flush(out []string) []string {
	if len(w.parts) > 0 {
		out = w.inner.push(out, strings.Join(w.parts, ""))
		w.parts = nil
	}
	return w.inner.flush(out)
}

// replaceDecoder replaces a pattern in each token.
type replaceDecoder struct{ replace }

func (d replaceDecoder) fuses() bool { return false }
func (d replaceDecoder) stage(fused bool) stage {
	s := mapStage(d.apply)
	if fused && (d.pattern.re != nil || utf8.RuneCountInString(d.pattern.text) > 1) {
		return &wholeStage{inner: s} // a match may cross parts
	}
	return s
}

// fuseDecoder makes one token of all.
type fuseDecoder struct{}

func (fuseDecoder) fuses() bool { return true }
func (fuseDecoder) stage(bool) stage {
	return mapStage(func(t string) string { return t })
}

// stripDecoder removes up to start copies of a character from the front of each
// token and up to stop from its end.
type stripDecoder struct {
	content     rune
	start, stop int
}

func (d stripDecoder) fuses() bool { return false }
func (d stripDecoder) stage(fused bool) stage {
	if fused && d.stop == 0 {
		return &stripFront{content: d.content, start: d.start, left: d.start}
	}
	if fused {
		return &wholeStage{inner: mapStage(d.strip)}
	}
	return mapStage(d.strip)
}

func (d stripDecoder) strip(t string) string {
	c := string(d.content)
	for i := 0; i < d.start && strings.HasPrefix(t, c); i++ {
		t = t[len(c):]
	}
	for i := 0; i < d.stop && strings.HasSuffix(t, c); i++ {
		t = t[:len(t)-len(c)]
	}
	return t
}

// stripFront strips the front of a token that arrives in parts.
type stripFront struct {
	content     rune
	start, left int
}

func (s *stripFront) push(out []string, t string) []string {
	c := string(s.content)
	for s.left > 0 && t != "" {
		if !strings.HasPrefix(t, c) {
			s.left = 0
			break
		}
		t = t[len(c):]
		s.left--
	}
	return append(out, t)
}

func (s *stripFront) flush(out []string) []string {
	s.left = s.start
	return out
}

// byteFallbackDecoder turns runs of "<0x41>" tokens into text: the run's UTF-8,
// or U+FFFD for each byte if the run is not UTF-8.
type byteFallbackDecoder struct{}

func (byteFallbackDecoder) fuses() bool { return false }
func (byteFallbackDecoder) stage(fused bool) stage {
	if fused {
		return &wholeStage{inner: &byteRun{}}
	}
	return &byteRun{}
}

type byteRun struct{ bytes []byte }

func (r *byteRun) push(out []string, t string) []string {
	if b, ok := parseByteToken(t); ok {
		r.bytes = append(r.bytes, b)
		return out
	}
	return append(r.flush(out), t)
}

func (r *byteRun) flush(out []string) []string {
	if len(r.bytes) == 0 {
		return out
	}
	if utf8.Valid(r.bytes) {
		out = append(out, string(r.bytes))
	} else {
		out = append(out, strings.Repeat("\uFFFD", len(r.bytes)))
	}
	r.bytes = r.bytes[:0]
	return out
}

// parseByteToken reads "<0x0A>"; either case of hex digit.
func parseByteToken(t string) (byte, bool) {
	if len(t) != 6 || t[:3] != "<0x" || t[5] != '>' {
		return 0, false
	}
	hi, lo := hexDigit(t[3]), hexDigit(t[4])
	if hi < 0 || lo < 0 {
		return 0, false
	}
	return byte(hi<<4 | lo), true
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// byteLevelDecoder turns characters back into bytes, and those into text.
type byteLevelDecoder struct{}

func (byteLevelDecoder) fuses() bool { return true }
func (byteLevelDecoder) stage(fused bool) stage {
	if fused {
		return &wholeStage{inner: &byteText{}}
	}
	return &byteText{}
}

type byteText struct{ bytes []byte }

func (s *byteText) push(out []string, t string) []string {
	s.bytes = appendBytes(s.bytes, t)
	return s.take(out, false)
}

func (s *byteText) flush(out []string) []string { return s.take(out, true) }

func (s *byteText) take(out []string, all bool) []string {
	text, rest := takeUTF8(s.bytes, all)
	s.bytes = append(s.bytes[:0], rest...)
	if text == "" {
		return out
	}
	return append(out, text)
}

// metaspaceDecoder writes "▁" as a space; the first token's are dropped.
type metaspaceDecoder struct {
	mark  string
	strip bool
}

func (d metaspaceDecoder) fuses() bool { return false }
func (d metaspaceDecoder) stage(fused bool) stage {
	s := &metaspaceText{d: d, first: true}
	if fused {
		return &wholeStage{inner: s}
	}
	return s
}

type metaspaceText struct {
	d     metaspaceDecoder
	first bool
}

func (s *metaspaceText) push(out []string, t string) []string {
	space := " "
	if s.first && s.d.strip {
		space = ""
	}
	s.first = false
	return append(out, strings.ReplaceAll(t, s.d.mark, space))
}

func (s *metaspaceText) flush(out []string) []string {
	s.first = true
	return out
}
