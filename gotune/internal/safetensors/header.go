package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxHeader is the largest header that the format allows, in bytes.
const maxHeader = 100_000_000

// entry is one tensor of a header: where its values lie after the header.
type entry struct {
	spec       Spec
	begin, end int64
}

// header is the parsed and checked JSON part of a file.
type header struct {
	size     int64 // bytes before the first value: 8 and the JSON text
	entries  []entry
	index    map[string]int
	metadata map[string]string
}

// headerSize checks the first 8 bytes of a file of the given size and returns
// the length of the JSON text that follows.
func headerSize(path string, first []byte, fileSize int64) (int64, error) {
	if bytes.HasPrefix(first, []byte("version ")) {
		return 0, &FormatError{Path: path, What: "this is a Git LFS pointer, not the weights: fetch them with 'git lfs pull' or load the model again"}
	}
	if len(first) < 8 {
		return 0, &TruncatedError{path, fileSize, 8}
	}
	n := binary.LittleEndian.Uint64(first)
	if n > maxHeader {
		return 0, &FormatError{Path: path, What: fmt.Sprintf("the header length is %d, the format allows %d: this is no safetensors file", n, maxHeader)}
	}
	if int64(n) > fileSize-8 {
		return 0, &TruncatedError{path, fileSize, int64(n) + 8}
	}
	return int64(n), nil
}

// parseHeader reads and checks a header. text is the JSON part, fileSize the
// size of the whole file, which the tensors must fill exactly.
func parseHeader(path string, text []byte, fileSize int64) (*header, error) {
	bad := func(tensor, format string, args ...any) error {
		return &FormatError{path, tensor, fmt.Sprintf(format, args...)}
	}
	if !utf8.Valid(text) {
		return nil, bad("", "the header is not UTF-8")
	}
	if len(text) == 0 || text[0] != '{' {
		return nil, bad("", "the header does not begin with '{'")
	}
	if at := loneSurrogate(text); at >= 0 {
		return nil, bad("", "the header has half a surrogate pair at byte %d", at)
	}
	h := &header{size: 8 + int64(len(text)), index: map[string]int{}}
	p := headerParser{json.NewDecoder(bytes.NewReader(text))}
	p.UseNumber()
	sawMetadata := false
	err := p.object(func(name string) error {
		if name == "__metadata__" {
			if sawMetadata {
				return fmt.Errorf("__metadata__ is given twice")
			}
			sawMetadata = true
			var err error
			h.metadata, err = p.strings()
			return err
		}
		if _, twice := h.index[name]; twice {
			return fmt.Errorf("tensor %q is given twice", name)
		}
		e, err := p.tensor(name)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		h.index[name] = len(h.entries)
		h.entries = append(h.entries, e)
		return nil
	})
	if err != nil {
		return nil, bad("", "the header is not as the format wants it: %v", err)
	}
	if rest := bytes.TrimRight(text[p.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, bad("", "%d bytes follow the header's last brace", len(rest))
	}
	return h, h.checkOffsets(path, fileSize)
}

// checkOffsets orders the tensors by place and checks that they fill the file
// without gap or overlap and that each has the bytes its shape needs.
func (h *header) checkOffsets(path string, fileSize int64) error {
	slices.SortStableFunc(h.entries, func(a, b entry) int {
		if a.begin != b.begin {
			return cmp64(a.begin, b.begin)
		}
		return cmp64(a.end, b.end)
	})
	next := int64(0)
	for i, e := range h.entries {
		h.index[e.spec.Name] = i
		if e.begin != next || e.end < e.begin {
			return &FormatError{path, e.spec.Name, fmt.Sprintf("its data_offsets are [%d, %d], but the values before it end at %d: tensors may not overlap or leave gaps", e.begin, e.end, next)}
		}
		want, err := e.spec.Bytes()
		if err != nil {
			return &FormatError{path, e.spec.Name, err.Error()}
		}
		if e.end-e.begin != want {
			return &FormatError{path, e.spec.Name, fmt.Sprintf("its data_offsets hold %d bytes, but %s%v needs %d", e.end-e.begin, e.spec.DType, e.spec.Shape, want)}
		}
		next = e.end
	}
	switch have := fileSize - h.size; {
	case next > have:
		if next > 1<<62 {
			return &FormatError{Path: path, What: fmt.Sprintf("its data_offsets end at %d", next)}
		}
		return &TruncatedError{path, fileSize, h.size + next}
	case next < have:
		return &FormatError{Path: path, What: fmt.Sprintf("%d bytes follow the last tensor: the tensors end at byte %d, the file at %d", have-next, h.size+next, fileSize)}
	}
	return nil
}

// headerParser reads the header's JSON token by token, because encoding/json
// keeps the last of two equal names and matches field names without case.
type headerParser struct{ *json.Decoder }

// object reads an object and calls value for each name, to read its value.
func (p headerParser) object(value func(name string) error) error {
	if err := p.delim('{'); err != nil {
		return err
	}
	for p.More() {
		t, err := p.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return fmt.Errorf("found %v where a name belongs", t)
		}
		if err := value(name); err != nil {
			return err
		}
	}
	return p.delim('}')
}

func (p headerParser) delim(want json.Delim) error {
	t, err := p.Token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("found %v where %v belongs", t, want)
	}
	return nil
}

// strings reads an object of strings, or null.
func (p headerParser) strings() (map[string]string, error) {
	var raw json.RawMessage
	if err := p.Decode(&raw); err != nil || string(raw) == "null" {
		return nil, err
	}
	m := map[string]string{}
	q := headerParser{json.NewDecoder(bytes.NewReader(raw))}
	return m, q.object(func(key string) error {
		t, err := q.Token()
		if err != nil {
			return err
		}
		s, ok := t.(string)
		if !ok {
			return fmt.Errorf("__metadata__ %q is no string", key)
		}
		if _, twice := m[key]; twice {
			return fmt.Errorf("__metadata__ %q is given twice", key)
		}
		m[key] = s
		return nil
	})
}

// tensor reads {"dtype": …, "shape": […], "data_offsets": [begin, end]}.
func (p headerParser) tensor(name string) (entry, error) {
	e := entry{spec: Spec{Name: name}}
	seen := map[string]bool{}
	err := p.object(func(field string) error {
		if seen[field] {
			return fmt.Errorf("%q is given twice", field)
		}
		seen[field] = true
		switch field {
		case "dtype":
			t, err := p.Token()
			if err != nil {
				return err
			}
			s, ok := t.(string)
			if !ok || DType(s).Size() == 0 {
				return fmt.Errorf("its dtype is %v; known are %v", t, knownTypes())
			}
			e.spec.DType = DType(s)
		case "shape":
			dims, err := p.ints()
			if err != nil {
				return fmt.Errorf("shape: %w", err)
			}
			e.spec.Shape = make([]int, len(dims))
			for i, d := range dims {
				if int64(int(d)) != d {
					return fmt.Errorf("shape: the dimension %d does not fit this machine's int", d)
				}
				e.spec.Shape[i] = int(d)
			}
		case "data_offsets":
			at, err := p.ints()
			if err != nil {
				return fmt.Errorf("data_offsets: %w", err)
			}
			if len(at) != 2 {
				return fmt.Errorf("data_offsets has %d numbers, wanted 2", len(at))
			}
			e.begin, e.end = at[0], at[1]
		default:
			var skip json.RawMessage
			return p.Decode(&skip)
		}
		return nil
	})
	if err != nil {
		return e, err
	}
	for _, field := range []string{"dtype", "shape", "data_offsets"} {
		if !seen[field] {
			return e, fmt.Errorf("%q is missing", field)
		}
	}
	return e, nil
}

// ints reads a list of whole numbers from 0 to the largest int64.
func (p headerParser) ints() ([]int64, error) {
	if err := p.delim('['); err != nil {
		return nil, err
	}
	var list []int64
	for p.More() {
		t, err := p.Token()
		if err != nil {
			return nil, err
		}
		s, ok := t.(json.Number)
		if !ok {
			return nil, fmt.Errorf("found %v where a number belongs", t)
		}
		n, err := strconv.ParseUint(string(s), 10, 63)
		if err != nil {
			return nil, fmt.Errorf("%s is no whole number that fits 63 bits", s)
		}
		list = append(list, int64(n))
	}
	return list, p.delim(']')
}

// loneSurrogate returns the place of a \uXXXX escape that is half of a surrogate
// pair without the other half, or -1. encoding/json would read it as U+FFFD, so
// that two names could become one.
func loneSurrogate(text []byte) int {
	unit := func(at int) (uint64, bool) {
		if at+6 > len(text) || text[at] != '\\' || text[at+1] != 'u' {
			return 0, false
		}
		u, err := strconv.ParseUint(string(text[at+2:at+6]), 16, 16)
		return u, err == nil
	}
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		u, ok := unit(i)
		switch {
		case !ok:
			i++ // skip the escaped character, which may be a backslash
		case u&0xfc00 == 0xd800:
			if low, ok := unit(i + 6); !ok || low&0xfc00 != 0xdc00 {
				return i
			}
			i += 11
		case u&0xfc00 == 0xdc00:
			return i
		default:
			i += 5
		}
	}
	return -1
}

func cmp64(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
