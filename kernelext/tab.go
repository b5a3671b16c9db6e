package kernelext

import (
	"context"
	"html"
	"slices"
	"strings"
	"time"

	"github.com/gotune/gotune/gotune"
)

// gonbMagics are the magics of GoNB, whose completion knows Go only.
var gonbMagics = []string{"%%", "%args", "%autoget", "%capture", "%cd", "%env", "%exec", "%goflags", "%goworkfix", "%help", "%list", "%ls",
	"%main", "%noautoget", "%remove", "%reset", "%rm", "%test", "%track", "%untrack", "%version", "%wasm", "%widgets", "%widgets_hb",
	"%with_inputs", "%with_password"}

// tabLine is the line that the cursor is in.
type tabLine struct {
	before string // from its start to the cursor, without a comment prefix
	whole  string
	first  bool // of the cell
	cursor int  // in the cell, in code points
}

// lineAt finds the line of a cell that the cursor, an offset in code points, is in.
func lineAt(code string, cursor int) tabLine {
	runes := []rune(code)
	from, to := cursor, cursor
	for from > 0 && runes[from-1] != '\n' {
		from--
	}
	for to < len(runes) && runes[to] != '\n' {
		to++
	}
	l := tabLine{before: string(runes[from:cursor]), whole: string(runes[from:to]), first: from == 0, cursor: cursor}
	if strings.HasPrefix(l.whole, commentPrefix) {
		l.before, l.whole = l.before[min(len(commentPrefix), len(l.before)):], l.whole[len(commentPrefix):]
	}
	return l
}

// magicTab answers completion and inspection within a line that starts with %; ok is false anywhere else.
// Runs lists the names of the engine's runs; it is asked for only where one can stand.
func magicTab(kind, code string, cursor int, runs func() []string) (content object, ok bool) {
	l := lineAt(code, cursor)
	if kind == "inspect_request" {
		text, ok := inspectMagic(l.whole)
		if !ok {
			return nil, false
		}
		return object{"status": "ok", "found": true, "metadata": object{},
			"data": object{"text/plain": text, "text/html": "<pre>" + html.EscapeString(text) + "</pre>"}}, true
	}
	if kind != "complete_request" || !strings.HasPrefix(l.before, "%") {
		return nil, false
	}
	if !strings.ContainsAny(l.before, " \t") {
		return matchesFor(magicsFor(l), l.before, cursor), true
	}
	words := strings.Fields(l.before)
	word := l.before[strings.LastIndexAny(l.before, " \t")+1:]
	if word != "" {
		words = words[:len(words)-1]
	}
	switch words[0] {
	case "%gotune":
		return matchesFor(gotuneArguments(words[1:], runs), word, cursor), true
	case "%tensorboard":
		return matchesFor(tensorboardFlags, word, cursor), true
	case "%load_ext", "%reload_ext":
		return matchesFor([]string{"tensorboard"}, word, cursor), true
	}
	return nil, false
}

// magicsFor is all magics that may stand in the line.
func magicsFor(l tabLine) []string {
	all := slices.Clone(gonbMagics)
	for _, name := range magicNames {
		all = append(all, "%"+name)
	}
	if l.first {
		all = append(all, specialCells...)
	}
	slices.Sort(all)
	return all
}

// gotuneArguments is what may follow the words after %gotune.
func gotuneArguments(words []string, runs func() []string) []string {
	if len(words) == 0 {
		var names []string
		for _, c := range magicCommands {
			names = append(names, c.name)
		}
		return names
	}
	c, ok := findCommand(words[0])
	switch {
	case !ok:
		return nil
	case strings.Contains(c.args, "RUN…"), strings.Contains(c.args, "RUN") && len(words) == 1:
		return runs()
	}
	return nil
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

// inspectMagic is the help for a line of the kernel's own magics.
func inspectMagic(line string) (text string, ok bool) {
	name, ok := strings.CutPrefix(line, "%")
	if !ok {
		return "", false
	}
	words := strings.Fields(name)
	if len(words) == 0 || !slices.Contains(magicNames, words[0]) || strings.HasPrefix(name, "%") {
		return "", false
	}
	if words[0] != "gotune" {
		return tensorboardHelp, true
	}
	if len(words) > 1 {
		if c, ok := findCommand(words[1]); ok {
			return c.usage() + "\n\n" + c.help, true
		}
	}
	return magicHelp(), true
}

// runNames asks the engine for the names of its runs, those under way first; none when it does not answer
// at once.
func (k *kernel) runNames() []string {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	s, err := k.engineStatus(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, r := range s.Runs {
		if r.State == gotune.RunRunning || r.State == gotune.RunPaused {
			names = append(names, quoteWord(r.Name))
		}
	}
	for _, r := range s.Runs {
		if n := quoteWord(r.Name); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// quoteWord is a word as splitWords reads it back.
func quoteWord(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\r\n\"'\\") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
