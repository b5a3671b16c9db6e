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
			Args struct {
				Name, Prompt string
				LearningRate float64
			}
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
			case "run.stop", "run.pause", "run.resume", "run.setlr", "run.sample":
				run := &status.Runs[0]
				if q.Args.Name != run.Name {
					reply = map[string]any{"error": gotune.Error{Kind: gotune.KindNotFound, Op: "stop", Object: `run "` + q.Args.Name + `"`, Found: "run1", Wanted: "a run's name", Next: "take one of those"}}
					break
				}
				run.Controls = nil
				switch q.Verb {
				case "run.stop":
					run.State = gotune.RunStopped
				case "run.pause":
					run.State = gotune.RunPaused
				case "run.resume":
					run.State = gotune.RunRunning
				case "run.setlr":
					run.Controls = []gotune.Control{{What: gotune.ControlRate, Step: run.Step, Old: 2e-4, New: q.Args.LearningRate}}
				}
				reply = map[string]any{"reply": run}
				if q.Verb == "run.sample" {
					reply = map[string]any{"reply": gotune.Generation{Text: "an answer to <" + q.Args.Prompt + ">", Tokens: 5, Seconds: 0.25}}
				}
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
		{"runs", "%gotune runs", "ok", []string{"run1", "3 of 9", "1.2500"}},
		{"pause", "%gotune pause run1", "ok", []string{"run1 is paused at step 3 of 9"}},
		{"resume", "%gotune resume", "ok", []string{"run1 is running at step 3 of 9"}},
		{"rate", "%gotune lr run1 1e-4", "ok", []string{"run1, after step 3: learning rate 0.0002 → 0.0001."}},
		{"rate of the only run", "%gotune lr 5e-5", "ok", []string{"learning rate 0.0002 → 5e-05."}},
		{"no rate", "%gotune lr", "error", []string{"%gotune lr [RUN] X", "such as 1e-4"}},
		{"wrong rate", "%gotune lr run1 fast", "error", []string{"above 0 and below 1", `"fast"`}},
		{"too many words", "%gotune pause run1 run2", "error", []string{"takes one run"}},
		{"pause unknown", "%gotune pause nix", "error", []string{"nix", "run1"}},
		{"sample", `%gotune sample run1 "What is <Go>?"`, "ok", []string{"What is <Go>?", "→ an answer to <What is <Go>?>", "run1, 5 tokens in 0.2 s"}},
		{"sample without quotes", "%gotune sample What's a slice", "ok", []string{"an answer to <What's a slice>"}},
		{"sample of nothing", "%gotune sample", "error", []string{"takes a prompt"}},
		{"quote left open", `%gotune sample "What`, "error", []string{"a quotation mark is not closed"}},
		{"stop", "%gotune stop", "ok", []string{"run1 is stopped at step 3 of 9"}},
		{"stop again", "%gotune stop", "ok", []string{"No run trains"}},
		{"pause of nothing", "%gotune pause", "error", []string{"needs a run under way", "%gotune runs"}},
		{"stop unknown", "%gotune stop nix", "error", []string{"%gotune stop nix", "nix", "run1"}},
		{"free", "%gotune free", "ok", []string{"Freed 3.0 MiB", "0 B are held"}},
		{"restart", "%gotune restart-engine", "ok", []string{"Engine test runs as process"}},
		{"unknown", "%gotune nix\n%%\nfmt.Println(\"not run\")", "error", []string{"nix", "restart-engine"}},
		{"misspelt", "%gotune statsu", "error", []string{"did you mean %gotune status?"}},
		{"wrong argument", "%gotune free all", "error", []string{"takes no argument"}},
		{"log", "%gotune log 5", "ok", []string{"engine.log"}},
		{"log of letters", "%gotune log x", "error", []string{"number of lines"}},
		{"help", "%gotune help", "ok", []string{"%gotune status", "%gotune lr [RUN] X", "restart-engine", "%tensorboard --logdir DIR"}},
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
