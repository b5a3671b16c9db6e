package kernelext

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What differs between two runs of the same cell: identifiers, folders, times, addresses.
var varying = []struct {
	is   *regexp.Regexp
	said string
}{
	{regexp.MustCompile(`gonb_[0-9a-f]{6,}`), "gonb_ID"},
	{regexp.MustCompile(`gonb_websocket_\w+`), "gonb_websocket_ID"},
	{regexp.MustCompile(`\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`), "UUID"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(ns|µs|ms|s)\b`), "TIME"},
	{regexp.MustCompile(`\d+(\.\d+)? ns/op`), "N ns/op"},
	{regexp.MustCompile(`BenchmarkAdd-\d+`), "BenchmarkAdd-CORES"},
}

func (c *client) normal(s string) string {
	s = strings.ReplaceAll(s, c.dir, "DIR")
	for _, v := range varying {
		s = v.is.ReplaceAllString(s, v.said)
	}
	return s
}

// shown is what a cell shows, in order: text of the streams put together, and displays by MIME type. How a cell
// failed is left out: the kernel says it in the error's traceback, where GoNB writes to stderr.
func (c *client) shown(r ran) []string {
	var out []string
	add := func(kind, text string) {
		if n := len(out); n > 0 && strings.HasPrefix(out[n-1], kind+":") && kind != "display" {
			out[n-1] += text
			return
		}
		out = append(out, kind+":"+text)
	}
	for _, m := range r.outputs {
		o := contentOf(c.t, m)
		switch m.kind() {
		case "stream":
			add(o["name"].(string), o["text"].(string))
		case "display_data", "execute_result", "update_display_data":
			data := o["data"].(object)
			for _, mime := range sorted(data) {
				add("display", fmt.Sprintf(" %s %s %v", m.kind(), mime, data[mime]))
			}
		case "clear_output":
			add("clear", "")
		}
	}
	for i, s := range out {
		if text, ok := strings.CutPrefix(s, "stderr:"); ok && r.reply["status"] == "error" {
			if i := panicStart(text); i >= 0 {
				text = text[:i]
			}
			out[i] = "stderr:" + regexp.MustCompile(`(?m)^exit status \d+\n`).ReplaceAllString(text, "")
		}
	}
	out = slices.DeleteFunc(out, func(s string) bool { return s == "stderr:" })
	for i := range out {
		out[i] = c.normal(out[i])
	}
	return append(out, fmt.Sprint("status: ", r.reply["status"]))
}

// passThrough is cells of GoNB's own magics, in one kernel one after the other, and a part of what each shows.
var passThrough = []struct{ name, code, want string }{
	{"shell", "!echo one; sleep 0.2; echo two >&2", "stdout:one"},
	{"shell in the folder of the cell's program", "!*pwd", "gonb_ID"},
	{"shell that fails", "!echo before; exit 3", "before"},
	{"continued", "!echo a \\\n  b", "a b"},
	{"%cd", "!mkdir -p sub\n%cd sub", `"DIR/sub"`},
	{"%cd is kept", "!pwd", "DIR/sub"},
	{"%cd without a folder", "%cd", "Current directory"},
	{"%cd to nowhere", "%cd /no/such/folder", "status: error"},
	{"%cd back", "%cd ..", `"DIR"`},
	{"%env", "%env GONB_TEST=\"two words\"\n%env OTHER 1\n!echo $GONB_TEST $OTHER", "two words 1"},
	{"%env in Go", "%%\nfmt.Println(os.Getenv(\"GONB_TEST\"))", "two words"},
	{"%env without a value", "%env GONB_TEST", "status: error"},
	{"%args", "import \"flag\"\nvar name = flag.String(\"name\", \"none\", \"\")\n%args --name=Ada x\nfunc main() { flag.Parse(); fmt.Println(*name, flag.Args()) }", "Ada [x]"},
	{"arguments of %%", "%% --name=Bob\nfmt.Println(*name)", "Bob"},
	{"%main", "%main --name=Eve\nfmt.Println(*name)", "Eve"},
	{"%exec", "func greet() { fmt.Println(\"hello from greet\") }\n%exec greet", "hello from greet"},
	{"%rm", "%rm main\n%rm greet", "greet"},
	{"declarations", "type Point struct{ X, Y int }\nfunc (p Point) Add(q Point) Point { return Point{p.X + q.X, p.Y + q.Y} }\nconst answer = 42\nvar greeting = \"hi\"", "status: ok"},
	{"they are used", "%%\nfmt.Println(Point{1, 2}.Add(Point{3, 4}), answer, greeting)", "{4 6} 42 hi"},
	{"%list", "%list", "Point"},
	{"%ls", "%ls", "answer"},
	{"%remove", "%remove greeting", "greeting"},
	{"%rm of nothing", "%rm nothere", "nothere"},
	{"%test", "import \"testing\"\nfunc TestAdd(t *testing.T) {\n\tif (Point{}).Add(Point{1, 1}) != (Point{1, 1}) {\n\t\tt.Fatal(\"wrong\")\n\t}\n}\n%test", "PASS"},
	{"%test that fails", "func TestBad(t *testing.T) { t.Fatal(\"it is bad\") }\n%test", "it is bad"},
	{"%test with a benchmark", "func BenchmarkAdd(b *testing.B) { for b.Loop() { _ = answer } }\n%test -test.bench=. -test.run=Benchmark -test.benchtime=10x", "BenchmarkAdd"},
	{"%capture", "%capture out.txt\n%%\nfmt.Println(\"captured\")", "captured"},
	{"%capture -a", "%capture -a out.txt\n%%\nfmt.Println(\"more\")", "more"},
	{"what was captured", "!cat out.txt", "captured\nmore\n"},
	{"%goflags", "%goflags -cover=false -tags=special", "special"},
	{"%goflags shown", "%goflags", "special"},
	{"%goflags reset", "%goflags \"\"", "goflags=[]"},
	{"%noautoget", "%noautoget\nimport \"example.com/nix\"\n%%\nnix.Do()", "status: error"},
	{"%autoget", "%autoget\n%rm nix", "status: ok"},
	{"%track", "!mkdir -p mod && printf 'module example.com/mod\\n\\ngo 1.24\\n' >mod/go.mod && printf 'package mod\\n' >mod/mod.go\n%track mod\n%track", "mod"},
	{"%untrack", "%untrack mod\n%track", "status: ok"},
	{"%help", "%help", "%autoget"},
	{"%version", "%version", "GoNB version"},
	{"unknown magic", "%nosuchmagic", "unknown or not implemented"},
	{"%%writefile", "%%writefile note.txt\na note\n%cd /", "note.txt"},
	{"%%writefile -a", "%%writefile -a note.txt\nmore", "note.txt"},
	{"what it wrote", "!cat note.txt", "a note\n%cd /\nmore"},
	{"%%bash", "%%bash\nfor i in 1 2; do echo line $i; done", "line 2"},
	{"%%sh", "%%sh\necho $0 from sh", "from sh"},
	{"%%script", "%%script cat -n\nfirst", "first"},
	{"panic", "%%\npanic(\"boom\")", "status: error"},
	{"exit status", "%%\nos.Exit(0)", "status: ok"},
	{"%goworkfix", "%goworkfix", ""},
	{"%widgets without a browser", "%widgets", "status: error"},
	{"gonbui", "import \"github.com/janpfeifer/gonb/gonbui\"\n%%\ngonbui.DisplayHTML(\"<b>bold</b>\")\ngonbui.DisplayMarkdown(\"*em*\")\ngonbui.UpdateHTML(\"same\", \"1\")\ngonbui.UpdateHTML(\"same\", \"2\")\ngonbui.Sync()\ntime.Sleep(200 * time.Millisecond)\nfmt.Println(\"end\")", "<b>bold</b>"},
	{"%reset go.mod", "%reset go.mod", "status: ok"},
	{"after it", "%%\nfmt.Println(answer)", "42"},
	{"%reset", "%reset\n%list", "status: ok"},
	{"nothing is left", "%%\nfmt.Println(answer)", "status: error"},
}

// %wasm works with Go 1.24 and later, where plain GoNB looks for wasm_exec.js in its old place. All else of it is
// the same.
func TestWasm(t *testing.T) {
	const code = "%wasm\n%%\nfmt.Println(\"in the browser\")"
	var got [2][]string
	for i := range got {
		root := t.TempDir() // Jupyter's folder is the working folder of the kernel's parent
		c := startKernel(t, startOptions{plain: i == 1, command: []string{"/bin/sh", "-c", `cd "$1"; shift; JPY_PARENT_PID=$$ "$@"; true`, "sh", root},
			env: []string{"PATH=" + filepath.Join(cacheDir(), "bin") + string(os.PathListSeparator) + os.Getenv("PATH")}})
		r := c.wait(c.execute(code, nil))
		if i == 1 && r.reply["status"] == "error" {
			r = c.wait(c.execute(code, nil)) // it works now, but for the missing file
		}
		for _, s := range c.shown(r) {
			s = regexp.MustCompile(`(go_|jupyter_files/)[0-9a-f]{8}`).ReplaceAllString(s, "${1}ID")
			got[i] = append(got[i], regexp.MustCompile(`<div id="[0-9a-f]{8}">`).ReplaceAllString(s, `<div id="ID">`))
		}
		if files, _ := filepath.Glob(filepath.Join(root, "jupyter_files", "*", "*")); i == 0 && len(files) != 2 {
			t.Errorf("in Jupyter's folder are %q, want the program and wasm_exec.js", files)
		}
		if after := c.run("%%\nfmt.Println(\"on this machine\")"); after.text["stdout"] != "on this machine\n" {
			t.Errorf("the cell after it shows %v", c.shown(after))
		}
		c.send(c.control, "shutdown_request", object{"restart": false}) // the shell ends with it
	}
	if !slices.Equal(got[0], got[1]) || !strings.Contains(got[0][0], "wasm_exec.js") {
		t.Errorf("%%wasm shows\n%s\nand in plain GoNB\n%s", strings.Join(got[0], "\n"), strings.Join(got[1], "\n"))
	}
}

// moduleCache is a GOPROXY of what the machine's module cache holds: GoNB fetches the modules of imports.
func moduleCache(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	return "file://" + filepath.Join(strings.TrimSpace(string(out)), "cache", "download")
}

// All of GoNB's own magics do in this kernel what they do in GoNB itself.
func TestGoNBPassesThrough(t *testing.T) {
	o := startOptions{env: []string{"GOPROXY=" + moduleCache(t), "GONOSUMDB=*",
		"PATH=" + filepath.Join(cacheDir(), "bin") + string(os.PathListSeparator) + os.Getenv("PATH")}}
	ours := startKernel(t, o)
	o.plain = true
	plain := startKernel(t, o)
	for _, tt := range passThrough {
		t.Run(tt.name, func(t *testing.T) {
			a, b := ours.execute(tt.code, nil), plain.execute(tt.code, nil)
			got, want := ours.shown(ours.wait(a)), plain.shown(plain.wait(b))
			if !slices.Equal(got, want) {
				t.Errorf("%s\nshows\n%s\nand in plain GoNB\n%s", tt.code, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if !strings.Contains(strings.Join(got, "\n"), tt.want) {
				t.Errorf("%s\nshows\n%s\nwithout %q", tt.code, strings.Join(got, "\n"), tt.want)
			}
		})
	}
}

// commsOf lists the comm messages that came on iopub.
func (c *client) commsOf(kind string) (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.inbox["iopub"] {
		if strings.HasPrefix(m.kind(), kind) {
			out = append(out, m.kind()+" "+c.normal(string(encode(contentOf(c.t, m)))))
		}
	}
	return out
}

// browse plays GoNB's script in the browser, which answers heartbeats, until a message is seen that ok accepts.
func (c *client) browse(what string, ok func(*message) bool) {
	c.t.Helper()
	answered := map[string]bool{}
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); {
		m := c.find("iopub", time.Second, func(o *message) bool {
			return ok(o) || o.kind() == "comm_msg" && strings.Contains(string(o.content), "heartbeat/ping") && !answered[o.id()]
		})
		switch {
		case m == nil:
		case ok(m):
			return
		default:
			answered[m.id()] = true
			c.say("#heartbeat/pong", true)
		}
	}
	c.t.Fatalf("no %s; iopub has\n%s", what, strings.Join(c.commsOf(""), "\n"))
}

// say sends what the browser tells a program.
func (c *client) say(address string, value any) {
	c.send(c.shell, "comm_msg", object{"comm_id": "c1", "data": object{"address": address, "value": value}})
}

// Widgets: the browser's script opens a comm, a cell's program sends to it and hears of it while it runs.
func TestComms(t *testing.T) {
	var got [2][]string
	for i := range got {
		c := startKernel(t, startOptions{plain: i == 1, env: []string{"GOPROXY=" + moduleCache(t), "GONOSUMDB=*",
			"PATH=" + filepath.Join(cacheDir(), "bin") + string(os.PathListSeparator) + os.Getenv("PATH")}})
		m := c.execute("%widgets", nil)
		script := c.await("iopub", "script that connects the browser", 10*time.Second, func(o *message) bool { return o.parentID() == m.id() && strings.HasSuffix(o.kind(), "display_data") })
		if !strings.Contains(string(script.content), testKernelID) {
			t.Errorf("the script does not name the kernel: %.300s", script.content)
		}
		c.send(c.shell, "comm_open", object{"comm_id": "c1", "target_name": gonbComm, "kernel_id": testKernelID, "data": object{}})
		c.browse("acknowledgement of the comm", func(o *message) bool {
			return o.kind() == "comm_msg" && strings.Contains(string(o.content), "comm_open_ack")
		})
		if r := c.wait(m); r.reply["status"] != "ok" {
			t.Fatalf("%%widgets: %v", r.reply)
		}
		m = c.execute(`import (
	"github.com/janpfeifer/gonb/gonbui/comms"
	"github.com/janpfeifer/gonb/gonbui/widgets"
)
%%
b := widgets.Button("press").WithAddress("/button").WithHtmlId("b1").Done()
pressed, heard := b.Listen(), comms.Listen[string]("/in")
comms.Send("/out", 17.5)
fmt.Println("heard", <-heard.C)
fmt.Println("pressed", <-pressed.C)`, nil)
		c.browse("the button's script", func(o *message) bool {
			return strings.HasSuffix(o.kind(), "display_data") && strings.Contains(string(o.content), "buttonCount")
		})
		c.say("/button", 0) // as the script does at first
		c.browse("message of the program", func(o *message) bool { return o.kind() == "comm_msg" && strings.Contains(string(o.content), "17.5") })
		c.say("/in", "a word")
		c.browse("a word heard", func(o *message) bool {
			return o.kind() == "stream" && strings.Contains(string(o.content), "heard a word")
		})
		c.browse("a press of the button heard", func(o *message) bool {
			if o.kind() == "stream" && strings.Contains(string(o.content), "pressed 1") {
				return true
			}
			c.say("/button", 1) // GoNB may take the end of the first subscription for that of the second
			return false
		})
		r := c.wait(m)
		if r.reply["status"] != "ok" || !strings.Contains(r.text["stdout"], "heard a word\npressed 1\n") {
			t.Errorf("plain %v: %v, stdout %q", i == 1, r.reply, r.text["stdout"])
		}
		c.say("#heartbeat/ping", true)
		c.browse("answer to the browser's heartbeat", func(o *message) bool {
			return o.kind() == "comm_msg" && strings.Contains(string(o.content), "heartbeat/pong")
		})
		got[i] = append(c.shown(r), slices.DeleteFunc(c.commsOf("comm_"), func(s string) bool { return strings.Contains(s, "heartbeat/ping") })...)
	}
	if !slices.Equal(got[0], got[1]) {
		t.Errorf("a cell with widgets shows\n%s\nand in plain GoNB\n%s", strings.Join(got[0], "\n"), strings.Join(got[1], "\n"))
	}
}
