package kernelext

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune"
)

// testEngine is an engine process for the tests: the real protocol on a real socket, with one model, and
// a run that trains until it is stopped.
func testEngine() int {
	l, err := net.Listen("unix", socketPath())
	if err != nil {
		return 1
	}
	time.AfterFunc(15*time.Minute, func() { os.Exit(0) }) // no test takes so long: it was killed
	status := gotune.StatusInfo{Version: "test", PID: os.Getpid(), Backend: "xla:cpu", DeviceBytes: 3 << 20, DevicePeak: 4 << 20,
		Models: []gotune.ModelInfo{{Model: gotune.Model{Name: "base <7B>"}, Architecture: "LlamaForCausalLM", Params: 7e6, DeviceBytes: 3 << 20, Backend: "xla:cpu"}},
		Runs:   []gotune.RunInfo{{Name: "run1", State: gotune.RunRunning, Step: 3, TotalSteps: 9, Loss: 1.25}}}
	for {
		c, err := l.Accept()
		if err != nil {
			return 0
		}
		line, _ := bufio.NewReader(c).ReadBytes('\n')
		var q struct {
			V    int
			Verb string
			Args struct{ Name string }
		}
		var reply any = map[string]any{"error": gotune.Error{Kind: gotune.KindInvalid, Op: q.Verb, Found: string(line)}}
		if json.Unmarshal(line, &q) == nil && q.V == wireVersion {
			switch q.Verb {
			case "ping", "shutdown":
				reply = map[string]any{"reply": pong{"test", wireVersion, os.Getpid()}}
			case "status":
				reply = map[string]any{"reply": &status}
			case "free":
				status.Models, status.DeviceBytes = nil, 0
				reply = map[string]any{"reply": &status}
			case "run.stop":
				if q.Args.Name != "run1" {
					reply = map[string]any{"error": gotune.Error{Kind: gotune.KindNotFound, Op: "stop", Object: `run "` + q.Args.Name + `"`, Found: "run1", Wanted: "a run's name", Next: "take one of those"}}
					break
				}
				status.Runs[0].State = gotune.RunStopped
				reply = map[string]any{"reply": &status.Runs[0]}
			}
		}
		b, err := json.Marshal(reply)
		if err != nil {
			b = []byte(`{"error":{"kind":"internal","op":"` + err.Error() + `"}}`)
		}
		c.Write(append([]byte(`{"event":"log","data":{"text":"working"}}`+"\n"), append(b, '\n')...))
		c.Close()
		if q.Verb == "shutdown" {
			l.Close()
		}
	}
}

func endTestEngine(socket string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var p pong
	_ = (&engine{socket: socket}).call(ctx, "shutdown", nil, &p)
}

func TestMagics(t *testing.T) {
	c := startKernel(t, startOptions{})
	waitEngine(t, c.socket)
	for _, tt := range []struct {
		name, code, status string
		want               []string // in order, somewhere in the text/plain of results, the streams and the error
	}{
		{"status", "%gotune status", "ok", []string{"Engine test", "3.0 MiB held", "base <7B>", "run1", "step 3 of 9, loss 1.2500"}},
		{"before the Go code", "%%\nfmt.Println(\"after\")\n%gotune version", "ok", []string{"engine: test", "after"}},
		{"behind a comment", "//gonb:%gotune version", "ok", []string{"engine: test"}},
		{"line numbers", "%gotune version\n%%\n\nfmt.Println(nix)", "error", []string{"Line 4", "undefined: nix"}},
		{"not in files", "%%writefile magic.txt\n%gotune status", "ok", []string{"written to"}},
		{"not in scripts", "%%bash\necho '\n%gotune status'", "ok", []string{"%gotune status"}},
		{"not in continued commands", "!echo a \\\n%gotune status", "ok", []string{"a %gotune status"}},
		{"stop", "%gotune stop", "ok", []string{"run1 is stopped at step 3 of 9"}},
		{"stop again", "%gotune stop", "ok", []string{"No run trains"}},
		{"stop unknown", "%gotune stop nix", "error", []string{"%gotune stop nix", "nix", "run1"}},
		{"free", "%gotune free", "ok", []string{"Freed 3.0 MiB", "0 B are held"}},
		{"restart", "%gotune restart-engine", "ok", []string{"Engine test runs as process"}},
		{"unknown", "%gotune nix\n%%\nfmt.Println(\"not run\")", "error", []string{"nix", "restart-engine"}},
		{"wrong argument", "%gotune free all", "error", []string{"takes no argument"}},
		{"log", "%gotune log 5", "ok", []string{"engine.log"}},
		{"log of letters", "%gotune log x", "error", []string{"number of lines"}},
		{"help", "%gotune help", "ok", []string{"%gotune status", "restart-engine"}},
		{"nothing", "%gotune", "ok", []string{"%gotune status"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := c.wait(c.execute(tt.code, nil))
			if r.reply["status"] != tt.status {
				t.Errorf("status %v, want %s: %v", r.reply["status"], tt.status, r.reply)
			}
			var shown strings.Builder
			for _, m := range r.outputs {
				o := contentOf(t, m)
				switch m.kind() {
				case "execute_input":
					if o["code"] != tt.code {
						t.Errorf("execute_input shows %q, want the user's source %q", o["code"], tt.code)
					}
				case "display_data", "execute_result":
					data := o["data"].(object)
					shown.WriteString(data["text/plain"].(string) + "\n")
					if h, _ := data["text/html"].(string); strings.Contains(h, "<7B>") {
						t.Errorf("text/html is not escaped: %s", h)
					}
				case "stream":
					shown.WriteString(o["text"].(string))
				case "error":
					for _, l := range o["traceback"].([]any) {
						shown.WriteString(l.(string) + "\n")
					}
				}
			}
			rest := shown.String()
			for _, w := range tt.want {
				_, after, ok := strings.Cut(rest, w)
				if !ok {
					t.Fatalf("no %q in this order in %q", w, shown.String())
				}
				rest = after
			}
			if strings.Contains(shown.String(), "not run") {
				t.Error("the Go code ran although the magic before it failed")
			}
		})
	}
	if b, err := os.ReadFile(c.dir + "/magic.txt"); err != nil || string(b) != "%gotune status\n" {
		t.Errorf("%%%%writefile wrote %q, %v", b, err)
	}
}

func waitEngine(t *testing.T, socket string) int {
	t.Helper()
	e := &engine{socket: socket}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if p, err := e.ping(context.Background()); err == nil {
			return p.PID
		}
	}
	t.Fatal("no engine answers within 10 s of the kernel's start")
	return 0
}

// A kernel finds the engine that another one started, and its end does not end it.
func TestEngineOutlivesKernels(t *testing.T) {
	c := startKernel(t, startOptions{})
	first := waitEngine(t, c.socket)
	c.reply("control", c.send(c.control, "shutdown_request", object{"restart": false}), 5*time.Second)
	c.cmd.Wait()
	if again := waitEngine(t, c.socket); again != first {
		t.Errorf("engine %d after the kernel's end, want still %d", again, first)
	}
}

func TestEngineBinaryThatFails(t *testing.T) {
	c := startKernel(t, startOptions{env: []string{"GOTUNE_BIN=/bin/false"}})
	r := c.wait(c.execute("%gotune restart-engine", nil))
	if r.reply["status"] != "error" || !strings.Contains(r.reply["evalue"].(string), "engine.log") {
		t.Errorf("reply %v, want an error that names the log", r.reply)
	}
}
