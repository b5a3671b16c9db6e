package kernelext

import (
	"slices"
	"strings"
)

// commentPrefix may stand before a magic, so that other tools see a comment.
const commentPrefix = "//gonb:"

// magicNames are the magics that this kernel handles itself; all others are GoNB's.
var magicNames = []string{"gotune", "tensorboard", "load_ext", "reload_ext"}

// magic is one line that this kernel handles.
type magic struct {
	line int    // from 1
	name string // one of magicNames
	args []string
	err  error // the line cannot be split into words
}

func (m magic) String() string { return strings.Join(append([]string{"%" + m.name}, m.args...), " ") }

// magicResult is what a magic shows: text for consoles, HTML for notebooks ("" for none).
type magicResult struct{ text, html string }

// bundle is the result by MIME type.
func (r *magicResult) bundle() object {
	b := object{"text/plain": r.text}
	if r.html != "" {
		b["text/html"] = r.html
	}
	return b
}

// specialCells are first lines by which GoNB takes the whole cell for something else.
var specialCells = []string{"%%writefile", "%%script", "%%bash", "%%sh", "%%gx"}

func isSpecialCell(first string) bool {
	word, _, _ := strings.Cut(strings.TrimPrefix(first, commentPrefix), " ")
	return slices.Contains(specialCells, word)
}

// splitMagics takes the kernel's own lines out of a cell. Empty lines stay in their place, so that the line
// numbers of errors are right; a cell of nothing else becomes empty. It looks where GoNB looks for its own
// magics.
func splitMagics(source string) (magics []magic, rest string) {
	lines := strings.Split(source, "\n")
	if isSpecialCell(lines[0]) {
		return nil, source
	}
	continued := false
	for i, line := range lines {
		command := strings.TrimPrefix(line, commentPrefix)
		starts := strings.HasPrefix(command, "%") || strings.HasPrefix(command, "!")
		if m, ok := parseMagic(command); ok && !continued {
			m.line = i + 1
			magics = append(magics, m)
			lines[i] = ""
			continue
		}
		continued = (continued || starts) && strings.HasSuffix(command, `\`)
	}
	if magics == nil {
		return nil, source
	}
	if rest = strings.Join(lines, "\n"); strings.TrimSpace(rest) == "" {
		rest = ""
	}
	return magics, rest
}

// parseMagic reads a line of this kernel's own magics; ok is false for any other line. Of Jupyter's
// %load_ext only TensorBoard's is known: there is nothing else to load.
func parseMagic(line string) (m magic, ok bool) {
	after, ok := strings.CutPrefix(line, "%")
	if !ok || strings.HasPrefix(after, "%") {
		return magic{}, false
	}
	words, err := splitWords(after)
	if len(words) == 0 || !slices.Contains(magicNames, words[0]) {
		return magic{}, false
	}
	m = magic{name: words[0], args: words[1:], err: err}
	if strings.HasSuffix(m.name, "load_ext") && !slices.Equal(m.args, []string{"tensorboard"}) {
		return magic{}, false
	}
	return m, true
}
