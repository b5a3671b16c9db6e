package kernelext

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// One kernel, all of the protocol that a client sees of it.
func TestProtocol(t *testing.T) {
	c := startKernel(t, startOptions{})

	t.Run("order of a cell's messages", func(t *testing.T) {
		r := c.run("!echo one")
		if want := "busy execute_input stream idle"; r.kinds() != want {
			t.Errorf("%s, want %s", r.kinds(), want)
		}
		for _, m := range r.outputs {
			if m.header["session"] == c.session || m.header["version"] != protocolVersion {
				t.Errorf("%s has header %v, want a session of the kernel's own and version %s", m.kind(), m.header, protocolVersion)
			}
		}
	})
	t.Run("execution count", func(t *testing.T) {
		before := c.run("").reply["execution_count"].(float64)
		for i, tt := range []struct {
			extra object
			want  float64
		}{{nil, 1}, {object{"store_history": false}, 1}, {object{"silent": true}, 1}, {object{"silent": true, "store_history": true}, 1}, {nil, 2}} {
			r := c.wait(c.execute("!true", tt.extra))
			if got := r.reply["execution_count"]; got != before+tt.want {
				t.Errorf("cell %d, %v: count %v, want %v", i, tt.extra, got, before+tt.want)
			}
		}
	})
	t.Run("silent", func(t *testing.T) {
		r := c.wait(c.execute("!echo quiet", object{"silent": true}))
		if want := "busy idle"; r.kinds() != want || r.reply["status"] != "ok" {
			t.Errorf("%s, reply %v, want %s and ok", r.kinds(), r.reply, want)
		}
	})
	t.Run("user expressions", func(t *testing.T) {
		r := c.wait(c.execute("", object{"user_expressions": object{"a": "1+1"}}))
		e, _ := r.reply["user_expressions"].(object)
		if a, _ := e["a"].(object); a["status"] != "error" {
			t.Errorf("user_expressions %v, want an error for a", e)
		}
	})
	t.Run("defaults", func(t *testing.T) { // GoNB panics without these fields
		r := c.wait(c.send(c.shell, "execute_request", object{"code": "!echo default"}))
		if r.reply["status"] != "ok" || r.text["stdout"] != "default\n" {
			t.Errorf("reply %v, stdout %q", r.reply, r.text["stdout"])
		}
	})
	t.Run("requests", func(t *testing.T) { testRequests(t, c) })
	t.Run("wrong contents", func(t *testing.T) {
		for _, tt := range []struct {
			kind    string
			content any
		}{
			{"execute_request", object{"code": 1}}, {"execute_request", object{}}, {"execute_request", object{"code": "!true", "silent": "no"}},
			{"execute_request", object{"code": "!true", "user_expressions": []int{1}}},
			{"complete_request", object{"code": "a"}}, {"complete_request", object{"code": "a", "cursor_pos": 2}}, {"complete_request", object{"code": "a", "cursor_pos": -1}},
			{"inspect_request", object{"code": 5, "cursor_pos": 0}}, {"is_complete_request", object{}}, {"is_complete_request", object{"code": nil}},
			{"history_request", object{"n": "x"}},
		} {
			m := c.send(c.shell, tt.kind, tt.content)
			if r := c.reply("shell", m, 2*time.Second); r["status"] != "error" || r["ename"] != "BadRequest" {
				t.Errorf("%s %v: %v, want BadRequest", tt.kind, tt.content, r)
			}
		}
		for _, kind := range []string{"nix_request", "comm_open", "input_reply"} {
			c.send(c.shell, kind, object{"comm_id": 7})
			c.send(c.stdin, kind, object{"value": 7})
		}
		c.run("!true")
	})
	t.Run("comms", func(t *testing.T) {
		m := c.send(c.shell, "comm_open", object{"comm_id": "c1", "target_name": "nix", "data": object{}})
		o := contentOf(t, c.await("iopub", "comm_close", time.Second, func(o *message) bool { return o.kind() == "comm_close" && o.parentID() == m.id() }))
		if o["comm_id"] != "c1" {
			t.Errorf("comm_close of %v, want c1", o["comm_id"])
		}
	})
	t.Run("heartbeat", func(t *testing.T) { testHeartbeat(t, c) })
	t.Run("large message", func(t *testing.T) {
		big := strings.Repeat("x", 20<<20)
		path := filepath.Join(c.dir, "big")
		r := c.run("%%writefile " + path + "\n" + big)
		st, err := os.Stat(path)
		if err != nil || st.Size() != int64(len(big))+1 || r.reply["status"] != "ok" {
			t.Errorf("20 MiB cell: %v, %v", st, err)
		}
		r = c.run("!cat " + path)
		if len(r.text["stdout"]) != len(big)+1 {
			t.Errorf("20 MiB of output: %d bytes arrived", len(r.text["stdout"]))
		}
	})
	t.Run("many lines", func(t *testing.T) {
		r := c.run("!seq 20000")
		if n := strings.Count(r.text["stdout"], "\n"); n != 20000 {
			t.Errorf("%d lines arrived, want 20000", n)
		}
		if len(r.outputs) > 1000 {
			t.Errorf("they took %d messages: Jupyter's server drops output above 1000 a second", len(r.outputs))
		}
	})
}

func testRequests(t *testing.T, c *client) {
	c.run("!echo for the history")
	for _, ch := range []string{"shell", "control"} {
		z := c.shell
		if ch == "control" {
			z = c.control
		}
		info := c.reply(ch, c.send(z, "kernel_info_request", object{}), time.Second)
		language, _ := info["language_info"].(object)
		if info["status"] != "ok" || info["implementation"] != "gotune" || language["name"] != "go" || language["version"] == "" {
			t.Errorf("kernel_info on %s: %v", ch, info)
		}
	}
	if r := c.reply("shell", c.send(c.shell, "comm_info_request", object{}), time.Second); fmt.Sprint(r["comms"]) != "map[]" {
		t.Errorf("comm_info: %v", r)
	}
	m := c.send(c.shell, "is_complete_request", object{"code": "func f() {"})
	if r := c.reply("shell", m, time.Second); r["status"] != "incomplete" || r["indent"] != "\t" {
		t.Errorf("is_complete: %v", r)
	}
	m = c.send(c.shell, "history_request", object{"hist_access_type": "search", "pattern": "*for the hist*", "n": 1, "output": true})
	h := c.reply("shell", m, time.Second)["history"].([]any)
	if len(h) != 1 || h[0].([]any)[2].([]any)[0] != "!echo for the history" {
		t.Errorf("history: %v", h)
	}
	m = c.send(c.shell, "complete_request", object{"code": "😀\n%gotune sta", "cursor_pos": 13})
	r := c.reply("shell", m, time.Second)
	if fmt.Sprint(r["matches"]) != "[status]" || r["cursor_start"] != 10.0 || r["cursor_end"] != 13.0 {
		t.Errorf("completion of a magic: %v", r)
	}
	m = c.send(c.shell, "inspect_request", object{"code": "%gotune free", "cursor_pos": 10})
	if r := c.reply("shell", m, time.Second); r["found"] != true || !strings.Contains(fmt.Sprint(r["data"]), "out of memory") {
		t.Errorf("inspection of a magic: %v", r)
	}
	c.reply("control", c.send(c.control, "interrupt_request", object{}), time.Second) // of nothing
}

func testHeartbeat(t *testing.T, c *client) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.conn.HBPort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	// A REQ client by hand: greeting, READY, then an empty frame and the body.
	greeting := make([]byte, 64)
	copy(greeting, []byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0})
	copy(greeting[12:], "NULL")
	ready := []byte("\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ")
	conn.Write(append(greeting, append([]byte{4, byte(len(ready))}, ready...)...))
	io.ReadFull(conn, make([]byte, 64))
	header := make([]byte, 2)
	io.ReadFull(conn, header)
	io.ReadFull(conn, make([]byte, header[1]))
	for _, body := range []string{"ping", ""} {
		conn.Write(append([]byte{1, 0, 0, byte(len(body))}, body...))
		got := make([]byte, 4+len(body))
		if _, err := io.ReadFull(conn, got); err != nil || string(got[4:]) != body {
			t.Errorf("heartbeat %q came back as %q, %v", body, got, err)
		}
	}
}

// A subscriber's first message is its welcome, and goes to nobody else.
func TestWelcome(t *testing.T) {
	c := startKernel(t, startOptions{})
	first := func(c *client) (object, string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		m := c.inbox["iopub"][0]
		return contentOf(t, m), m.kind()
	}
	for range 3 {
		second := &client{t: t, dir: c.dir, log: c.log, cmd: c.cmd, session: newID(), inbox: map[string][]*message{}, conn: c.conn, codec: newCodec(c.conn.Key)}
		second.arrived = sync.NewCond(&second.mu)
		busy := c.execute("!for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.05; done", nil) // output under way meanwhile
		second.connect("")
		c.wait(busy)
		for _, who := range []*client{c, second} {
			if content, kind := first(who); kind != "iopub_welcome" || content["subscription"] != "" {
				t.Errorf("the first message on iopub is %s %v, want iopub_welcome to all topics", kind, content)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, m := range c.inbox["iopub"] {
		if m.kind() == "iopub_welcome" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d welcomes came to one subscriber, want 1", n)
	}
}

// No message that is not signed, fresh and well-formed has an effect, and none ends the kernel.
func TestBadMessagesAreDropped(t *testing.T) {
	c := startKernel(t, startOptions{})
	valid := func(code string) [][]byte {
		return c.codec.frames(newMessage(c.session, "execute_request", nil, object{"code": code, "silent": false, "store_history": true, "allow_stdin": false, "stop_on_error": true, "user_expressions": object{}}))
	}
	resign := func(f [][]byte) [][]byte { f[1] = c.codec.sign(f[2:6]...); return f }
	for i, tt := range []struct {
		name   string
		change func([][]byte) [][]byte
	}{
		{"wrong signature", func(f [][]byte) [][]byte { f[1] = []byte(strings.Repeat("0", 64)); return f }},
		{"signature cut short", func(f [][]byte) [][]byte { f[1] = f[1][:63]; return f }},
		{"no signature", func(f [][]byte) [][]byte { f[1] = nil; return f }},
		{"upper case signature", func(f [][]byte) [][]byte { f[1] = []byte(strings.ToUpper(string(f[1]))); return f }},
		{"another key", func(f [][]byte) [][]byte { f[1] = newCodec("nix").sign(f[2:6]...); return f }},
		{"content of another message", func(f [][]byte) [][]byte { f[5] = append(f[5], ' '); return f }},
		{"no delimiter", func(f [][]byte) [][]byte { return f[1:] }},
		{"other delimiter", func(f [][]byte) [][]byte { f[0] = []byte("<IDS|MSG"); return f }},
		{"three parts", func(f [][]byte) [][]byte { return f[:5] }},
		{"delimiter only", func(f [][]byte) [][]byte { return f[:1] }},
		{"one empty frame", func([][]byte) [][]byte { return [][]byte{{}} }},
		{"empty frames", func(f [][]byte) [][]byte { return resign([][]byte{f[0], nil, {}, {}, {}, {}}) }},
		{"header is a list", func(f [][]byte) [][]byte { f[2] = []byte("[]"); return resign(f) }},
		{"header is null", func(f [][]byte) [][]byte { f[2] = []byte("null"); return resign(f) }},
		{"header without msg_id", func(f [][]byte) [][]byte { f[2] = []byte(`{"msg_type":"execute_request"}`); return resign(f) }},
		{"msg_type is a number", func(f [][]byte) [][]byte { f[2] = []byte(`{"msg_type":1,"msg_id":"1"}`); return resign(f) }},
		{"parent is a string", func(f [][]byte) [][]byte { f[3] = []byte(`""`); return resign(f) }},
		{"metadata is cut", func(f [][]byte) [][]byte { f[4] = []byte(`{`); return resign(f) }},
		{"content is cut", func(f [][]byte) [][]byte { f[5] = f[5][:len(f[5])-1]; return resign(f) }},
		{"content is not UTF-8 JSON", func(f [][]byte) [][]byte { f[5] = []byte{0xff, 0xfe}; return resign(f) }},
	} {
		code, path := c.markCode(fmt.Sprintf("bad%d", i))
		f := tt.change(valid(code))
		c.raw(c.shell, f)
		c.raw(c.control, f)
		c.raw(c.stdin, f)
		c.run("!true")
		if exists(path) {
			t.Errorf("%s: the cell ran", tt.name)
		}
	}
	// A replayed message: it ran once.
	log := filepath.Join(c.dir, "replay")
	f := valid("!echo x >>" + log)
	for range 3 {
		c.raw(c.shell, f)
		c.raw(c.control, f)
	}
	c.run("!true")
	if b, err := os.ReadFile(log); err != nil || string(b) != "x\n" {
		t.Errorf("a message sent six times ran %d times, want once", len(b)/2)
	}
}

// Peers that do not speak ZeroMQ, or speak it badly, keep nobody else out.
func TestBadPeers(t *testing.T) {
	c := startKernel(t, startOptions{})
	greeting := make([]byte, 64)
	copy(greeting, []byte{0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0})
	copy(greeting[12:], "NULL")
	ready := []byte("\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER")
	hello := append(slices.Clone(greeting), append([]byte{4, byte(len(ready))}, ready...)...)
	huge := binary.BigEndian.AppendUint64([]byte{2}, 1<<49)
	for _, say := range [][]byte{nil, []byte("GET / HTTP/1.0\r\n\r\n"), greeting[:10], greeting, append(slices.Clone(hello), huge...), append(slices.Clone(hello), 0xff, 0xff)} {
		for _, port := range []int{c.conn.ShellPort, c.conn.ControlPort, c.conn.StdinPort, c.conn.IOPubPort, c.conn.HBPort} {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Write(say)
		}
	}
	second := &client{t: t, dir: c.dir, log: c.log, cmd: c.cmd, session: newID(), inbox: map[string][]*message{}, conn: c.conn, codec: newCodec(c.conn.Key)}
	second.arrived = sync.NewCond(&second.mu)
	second.connect("")
	if r := second.run("!echo in"); r.text["stdout"] != "in\n" {
		t.Errorf("a client after the bad peers: %v", r.text)
	}
}

func TestErrors(t *testing.T) {
	c := startKernel(t, startOptions{})
	for _, tt := range []struct {
		name, code, ename, evalue string
		trace                     []string
	}{
		{"compiler", "%%\nvar a int = \"x\"\nnix()", "CompileError", "undefined: nix", []string{"Line 2", "cannot use", "Line 3", "undefined: nix"}},
		{"syntax", "%%\nif {", "CompileError", "missing condition", []string{"missing condition"}},
		{"panic", "func f(a []int) int { return a[5] }\n%%\nf(nil)", "panic", "runtime error: index out of range [5] with length 0", []string{"goroutine 1", "Line 1", "Line 3"}},
		{"panic with an error", "import \"errors\"\n%%\npanic(errors.New(\"boom\"))", "panic", "boom", []string{"boom", "Line 3"}},
		{"exit", "%%\nfmt.Fprintln(os.Stderr, \"first\\n\\nthe reason\")\nos.Exit(3)", "ExitError", "the reason", []string{"exit status 3"}},
		{"killed", "import \"syscall\"\n%%\nsyscall.Kill(os.Getpid(), syscall.SIGKILL)", "Killed", "signal: killed", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := c.wait(c.execute(tt.code, nil))
			if r.reply["status"] != "error" || r.reply["ename"] != tt.ename || !strings.Contains(r.reply["evalue"].(string), tt.evalue) {
				t.Errorf("reply %v, want %s: %s", r.reply, tt.ename, tt.evalue)
			}
			var n int
			var trace string
			for _, m := range r.outputs {
				if m.kind() == "error" {
					n++
					for _, l := range contentOf(t, m)["traceback"].([]any) {
						trace += l.(string) + "\n"
					}
				}
				if m.kind() == "display_data" {
					t.Errorf("an error is also shown as display_data: %s", m.content)
				}
			}
			if n != 1 {
				t.Errorf("%d error messages, want 1 (%s)", n, r.kinds())
			}
			for _, w := range tt.trace {
				if !strings.Contains(trace, w) {
					t.Errorf("no %q in the traceback\n%s", w, trace)
				}
			}
			if strings.Contains(trace, "/gonb_") || strings.Contains(r.text["stderr"], "exit status") || strings.Contains(r.text["stderr"], "goroutine") {
				t.Errorf("traceback with a temporary folder, or text said twice\n%s\n%s", trace, r.text["stderr"])
			}
		})
	}
	// What only looks like a panic is shown.
	r := c.run("%%\nfmt.Fprintln(os.Stderr, \"panic: not really\")")
	if r.text["stderr"] != "panic: not really\n" {
		t.Errorf("stderr %q, want what the cell wrote", r.text["stderr"])
	}
}

func TestStopOnError(t *testing.T) {
	for _, stop := range []bool{true, false} {
		c := startKernel(t, startOptions{})
		first := c.execute("!sleep 0.3\n%%\nnix()", object{"stop_on_error": stop})
		code, path := c.markCode("later")
		second := c.execute(code, nil)
		c.wait(first)
		r := c.reply("shell", second, 20*time.Second)
		if want := map[bool]string{true: "aborted", false: "ok"}[stop]; r["status"] != want || exists(path) == stop {
			t.Errorf("stop_on_error %v: the cell behind a failed one is %v (ran: %v), want %s", stop, r["status"], exists(path), want)
		}
		c.run("!true")
	}
}

func TestInput(t *testing.T) {
	c := startKernel(t, startOptions{})
	code := "%with_inputs\n!read -p name? x; echo got $x"
	m := c.execute(code, nil)
	ask := c.await("stdin", "input_request", 10*time.Second, func(o *message) bool { return o.kind() == "input_request" && o.parentID() == m.id() })
	reply := newMessage(c.session, "input_reply", ask.header, object{"value": "Ada", "status": "ok"})
	c.raw(c.stdin, c.codec.frames(reply))
	if r := c.wait(m); !strings.Contains(r.text["stdout"], "got Ada") {
		t.Errorf("stdout %q, want the answer", r.text["stdout"])
	}
	began := time.Now()
	r := c.wait(c.execute(code, object{"allow_stdin": false}))
	if r.reply["status"] != "error" || r.reply["ename"] != "StdinNotImplementedError" || time.Since(began) > 5*time.Second {
		t.Errorf("allow_stdin=false: %v after %v, want an error at once", r.reply, time.Since(began))
	}
	c.run("!true")
}

func FuzzCodecRead(f *testing.F) {
	good := newCodec("k").frames(newMessage("s", "execute_request", nil, object{"code": "1"}))
	f.Add(good[0], good[1], good[2], good[3], good[4], good[5])
	f.Add([]byte("a"), []byte(delimiter), []byte{}, []byte("{}"), []byte("{}"), []byte("null"))
	f.Fuzz(func(t *testing.T, a, b, c, d, e, g []byte) {
		for _, key := range []string{"", "k"} {
			m, err := newCodec(key).read([][]byte{a, b, c, d, e, g})
			if err == nil && (m.id() == "" || m.kind() == "" || !json.Valid(m.content) || !json.Valid(m.metadata)) {
				t.Errorf("a bad message was read: %q", []([]byte){a, b, c, d, e, g})
			}
		}
	})
}
