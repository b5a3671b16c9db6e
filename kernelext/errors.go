package kernelext

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// cellError is how a cell failed, in the protocol's three parts.
type cellError struct {
	ename, evalue string
	traceback     []string // nil: "ename: evalue"
}

var (
	panicLine   = regexp.MustCompile(`(?m)^(panic: |fatal error: |unexpected fault address )`)
	exitStatus  = regexp.MustCompile(`^exit status (\d+)$`)
	endingLine  = regexp.MustCompile(`^(exit status \d+|signal: [a-z ]+)\n$`)
	signalled   = regexp.MustCompile(`^signal: (\w+)`)
	workFolder  = regexp.MustCompile(`/\S*/gonb_[0-9a-f]+/`)
	failedToRun = regexp.MustCompile(`^failed to run "[^"]*": `)
	stackLine   = regexp.MustCompile(`(?m)^\t(/\S*/gonb_[0-9a-f]+/main(?:_test)?\.go):(\d+)`)
	compilerMsg = regexp.MustCompile(`(?m)^\S*main(?:_test)?\.go:\d+(?::\d+)?: (.+)$`)
)

// panicStart is where the text of a panic starts in stderr, or -1.
func panicStart(text string) int {
	if loc := panicLine.FindStringIndex(text); loc != nil {
		return loc[0]
	}
	return -1
}

// outcome says how the cell failed, or nil. Tail is the end of its stderr, held the text of a panic.
func (c *cell) outcome(tail, held string) *cellError {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.failure
	if e == nil {
		e = fromGoNB(c.reply, tail, placeLines(held, c.source, c.count))
		if e != nil && c.interrupted {
			e = &cellError{"Interrupted", "the cell was interrupted", nil}
		}
	}
	if e != nil && e.traceback == nil {
		e.traceback = []string{red(e.ename) + ": " + e.evalue}
	}
	return e
}

// fromGoNB reads GoNB's execute_reply. With raw errors its traceback has an entry for each line of the
// compiler's output; of a program that fails it knows the exit status only.
func fromGoNB(reply json.RawMessage, tail, held string) *cellError {
	var r struct {
		Status, Evalue string
		Traceback      []string
	}
	if json.Unmarshal(reply, &r) != nil || r.Status != "error" {
		return nil
	}
	value := strings.TrimSpace(r.Evalue)
	switch {
	case exitStatus.MatchString(value) && held != "":
		return panicError(held)
	case exitStatus.MatchString(value):
		e := &cellError{"ExitError", value, []string{red(value)}}
		if s := lastParagraph(tail); s != "" {
			e.evalue = s // shown above already: not in the traceback again
		}
		return e
	case signalled.MatchString(value):
		return &cellError{"Killed", "the cell's program was ended by a " + value, nil}
	}
	return compileError(value, r.Traceback)
}

// panicError makes a panic's text the traceback.
func panicError(held string) *cellError {
	first, _, _ := strings.Cut(held, "\n")
	first = strings.TrimSuffix(strings.TrimPrefix(first, "panic: "), "\r")
	return &cellError{"panic", first, strings.Split(workFolder.ReplaceAllString(strings.TrimRight(held, "\n"), ""), "\n")}
}

// placeLines says of which line of the cell a stack line speaks, where GoNB has not: it looks at each
// write of the program for itself, and misses what is cut between two. Lines are found by their text.
func placeLines(held, source string, count int) string {
	lines := strings.Split(source, "\n")
	return stackLine.ReplaceAllStringFunc(held, func(s string) string {
		m := stackLine.FindStringSubmatch(s)
		program, err := os.ReadFile(m[1])
		n, _ := strconv.Atoi(m[2])
		text := strings.Split(string(program), "\n")
		if err != nil || n < 1 || n > len(text) {
			return s
		}
		at := 0
		for i, l := range lines {
			if strings.TrimSpace(l) == strings.TrimSpace(text[n-1]) {
				if at != 0 {
					return s // more than one could be meant
				}
				at = i + 1
			}
		}
		if at == 0 {
			return s
		}
		return fmt.Sprintf("\t \x1b[7m[[ Cell [%d] Line %d ]]\x1b[0m %s", count, at, s[1:])
	})
}

// compileError keeps the compiler's messages as the value and GoNB's lines, which say where in which
// cell, as the traceback.
func compileError(value string, traceback []string) *cellError {
	e := &cellError{ename: "Error", evalue: value}
	if m := compilerMsg.FindAllStringSubmatch(value, -1); m != nil {
		e.ename = "CompileError"
		var all []string
		for _, s := range m {
			all = append(all, s[1])
		}
		e.evalue = strings.Join(all, "; ")
	}
	e.evalue = workFolder.ReplaceAllString(failedToRun.ReplaceAllString(e.evalue, ""), "")
	for _, t := range traceback {
		if t = strings.TrimRight(workFolder.ReplaceAllString(t, ""), "\n"); t != "" && !strings.HasPrefix(t, "# gonb_") {
			e.traceback = append(e.traceback, t)
		}
	}
	return e
}

// lastParagraph is the end of a program's stderr: its last lines up to an empty one, 20 at most.
func lastParagraph(text string) string {
	lines := strings.Split(strings.TrimRight(text, " \t\r\n"), "\n")
	i := len(lines)
	for i > 0 && len(lines)-i < 20 && strings.TrimSpace(lines[i-1]) != "" {
		i--
	}
	return strings.TrimSpace(strings.Join(lines[i:], "\n"))
}

func red(s string) string { return fmt.Sprintf("\x1b[31m%s\x1b[0m", s) }
