package kernelext

import (
	"strings"
	"testing"
	"time"
)

func TestAskedName(t *testing.T) {
	for source, want := range map[string]string{
		"fmt.Println?": "fmt.Println", "?fmt": "fmt", " strings.Builder??\n": "strings.Builder", "größe?": "größe", "%gotune lr?": "%gotune lr",
		"%gotune?": "%gotune", "?%tensorboard": "%tensorboard", "%cd?": "%cd", "?": "", "??": "", "": "", "a b?": "", "x + y?": "", "fmt.?": "",
		"a?\nb": "", "// why?": "", "!ls ?": "", "?a?": "", "f()?": "", "%%bash": "", "9a?": "", "%gotune sample what?": "",
	} {
		if got := askedName(source); got != want {
			t.Errorf("askedName(%q) = %q, want %q", source, got, want)
		}
	}
}

func TestPager(t *testing.T) {
	c := startKernel(t, startOptions{})
	c.run("// Gopher digs for the given time.\nfunc Gopher(seconds int) {}")
	for _, tt := range []struct{ code, want string }{
		{"fmt.Println?", "Println formats using the default formats"},
		{"?strings.Builder", "A Builder is used to efficiently build a string"},
		{"Gopher?", "Gopher digs for the given time"},
		{"%gotune lr?", "peak learning rate"},
		{"%tensorboard?", "--logdir DIR"},
		{"%cd?", "Change current directory"},
	} {
		r := c.run(tt.code)
		pages, _ := r.reply["payload"].([]any)
		if len(pages) != 1 {
			t.Errorf("%s: payload %v, want one page", tt.code, r.reply["payload"])
			continue
		}
		page := pages[0].(object)
		text, _ := page["data"].(object)["text/plain"].(string)
		if page["source"] != "page" || !strings.Contains(text, tt.want) {
			t.Errorf("%s: %v, want a page with %q", tt.code, page, tt.want)
		}
	}
	m := c.send(c.shell, "inspect_request", object{"code": "%%\nnix.Nowhere", "cursor_pos": 14})
	if r := c.reply("shell", m, 20*time.Second); r["found"] != false || r["status"] != "ok" {
		t.Errorf("inspection of an unknown name: %v", r)
	}
	before := c.run("!true").reply["execution_count"].(float64)
	r := c.wait(c.execute("nix.Nowhere?", nil))
	if r.reply["status"] != "error" || !strings.Contains(r.reply["evalue"].(string), "nothing is known of nix.Nowhere") || r.reply["execution_count"] != before+1 {
		t.Errorf("an unknown name: %v", r.reply)
	}
	r = c.wait(c.execute("%%\nnix()", nil))
	if !strings.Contains(textOf(t, r), "nix") || r.reply["execution_count"] != before+2 {
		t.Errorf("the cell after it: %v", r.reply)
	}
}

func TestCleared(t *testing.T) {
	for _, tt := range []struct {
		text, rest string
		clear      bool
	}{
		{"plain\x1b[31mred\x1b[0m\x1b[K", "plain\x1b[31mred\x1b[0m\x1b[K", false},
		{"\x1b[H\x1b[2J\x1b[3J", "", true}, // clear of ncurses
		{"a\x1b[2J\x1b[Hb", "b", true},
		{"a\x1b[2J\x1b[1;1Hb", "b", true},
		{"\x1bcnew", "new", true},
		{"a\x1b[2Jb\x1b[2Jc\n", "c\n", true},
		{"\x1b[3J", "\x1b[3J", false}, // what was scrolled out only
		{"\x1b[Hx", "\x1b[Hx", false},
	} {
		if rest, ok := cleared(tt.text); rest != tt.rest || ok != tt.clear {
			t.Errorf("cleared(%q) = %q, %v, want %q, %v", tt.text, rest, ok, tt.rest, tt.clear)
		}
	}
}

func TestClearOutput(t *testing.T) {
	c := startKernel(t, startOptions{})
	for _, tt := range []struct{ name, code, want, last string }{
		{"redraw", `!echo one; sleep 0.2; printf '\033[H\033[2J'; sleep 0.2; echo two`, "busy execute_input stream clear_output stream idle", `{"wait":true}`},
		{"in one write", `!printf 'one\033[2Jtwo'`, "busy execute_input clear_output stream idle", `{"wait":true}`},
		{"at the end", `!echo one; sleep 0.2; printf '\033[H\033[2J'`, "busy execute_input stream clear_output idle", `{"wait":false}`},
		{"stderr", `!printf '\033[2Jno' >&2`, "busy execute_input stream idle", ""},
	} {
		r := c.run(tt.code)
		if r.kinds() != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, r.kinds(), tt.want)
		}
		last := ""
		for _, m := range r.outputs {
			if m.kind() == "clear_output" {
				last = string(m.content)
			}
		}
		if last != tt.last || strings.Contains(r.text["stdout"], "\x1b") {
			t.Errorf("%s: the last clear_output is %s, want %s; stdout %q", tt.name, last, tt.last, r.text["stdout"])
		}
	}
	// A display that draws as fast as it can does not flood the clients.
	r := c.run(`%%bash
for i in $(seq 3000); do printf '\033[H\033[2J%d\n' $i; done`)
	if n := len(r.outputs); n > 300 || !strings.HasSuffix(r.text["stdout"], "3000\n") {
		t.Errorf("%d messages, last text %.20q", n, r.text["stdout"])
	}
}
