package kernelext

import (
	"html"
	"slices"
	"strings"
)

// commentPrefix may stand before a magic, so that other tools see a comment.
const commentPrefix = "//gonb:"

// magic is one %gotune line.
type magic struct {
	line int // from 1
	args []string
}

func (m magic) String() string { return strings.Join(append([]string{"%gotune"}, m.args...), " ") }

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

// splitMagics takes the %gotune lines out of a cell. Empty lines stay in their place, so that the line
// numbers of errors are right; a cell of nothing else becomes empty. It looks where GoNB looks for its
// own magics.
func splitMagics(source string) (magics []magic, rest string) {
	lines := strings.Split(source, "\n")
	if isSpecialCell(lines[0]) {
		return nil, source
	}
	continued := false
	for i, line := range lines {
		command := strings.TrimPrefix(line, commentPrefix)
		starts := strings.HasPrefix(command, "%") || strings.HasPrefix(command, "!")
		if words := magicWords(command); !continued && words != nil {
			magics = append(magics, magic{i + 1, words[1:]})
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

// magicWords is the words of a %gotune line, "gotune" first, or nil for any other line.
func magicWords(line string) []string {
	after, ok := strings.CutPrefix(line, "%")
	if !ok {
		return nil
	}
	words := strings.Fields(after)
	if len(words) == 0 || words[0] != "gotune" || strings.HasPrefix(after, "%") {
		return nil
	}
	return words
}

// magicTab answers completion and inspection within a %gotune line; ok is false anywhere else.
func magicTab(kind, code string, cursor int) (content object, ok bool) {
	runes := []rune(code)
	from := cursor
	for from > 0 && runes[from-1] != '\n' {
		from--
	}
	to := cursor
	for to < len(runes) && runes[to] != '\n' {
		to++
	}
	before, line := string(runes[from:cursor]), string(runes[from:to])
	start := 0
	if strings.HasPrefix(line, commentPrefix) {
		start = min(len(commentPrefix), len(before))
		before, line = before[start:], line[len(commentPrefix):]
	}
	typed, started := strings.CutPrefix(before, "%")
	switch {
	case kind == "inspect_request" && magicWords(line) != nil:
		words := magicWords(line)
		text := magicHelp()
		if len(words) > 1 {
			if c, ok := findCommand(words[1]); ok {
				text = c.usage() + "\n\n" + c.help
			}
		}
		return object{"status": "ok", "found": true, "data": object{"text/plain": text, "text/html": "<pre>" + html.EscapeString(text) + "</pre>"}, "metadata": object{}}, true
	case kind != "complete_request" || !started:
		return nil, false
	case len(typed) >= 2 && strings.HasPrefix("gotune", typed):
		return matchesFor([]string{"%gotune"}, before, cursor), true
	case !strings.HasPrefix(typed, "gotune "):
		return nil, false
	}
	word := typed[strings.LastIndexByte(typed, ' ')+1:]
	if strings.Count(strings.TrimLeft(strings.TrimPrefix(typed, "gotune"), " "), " ") > 0 {
		return matchesFor(nil, word, cursor), true // the argument of a command: names that only the engine knows
	}
	var names []string
	for _, c := range magicCommands {
		names = append(names, c.name)
	}
	return matchesFor(names, word, cursor), true
}

// matchesFor is a complete_reply with the candidates that word is the beginning of.
func matchesFor(candidates []string, word string, cursor int) object {
	matches := []string{}
	for _, c := range candidates {
		if strings.HasPrefix(c, word) {
			matches = append(matches, c)
		}
	}
	return object{"status": "ok", "matches": matches, "cursor_start": cursor - len([]rune(word)), "cursor_end": cursor, "metadata": object{}}
}
