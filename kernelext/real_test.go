package kernelext

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune"
)

// buildGotune builds the real program. With another protocol its engine and client are of another version than
// this package's kernel.
func buildGotune(t *testing.T, protocol string) string {
	t.Helper()
	if p := builtPrograms[protocol]; p != "" {
		return p
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "gotune-test-")
	if err != nil {
		t.Fatal(err)
	}
	builtFolders = append(builtFolders, dir)
	args := []string{"build", "-o", filepath.Join(dir, "gotune")}
	if protocol != "" {
		path := filepath.Join(root, "gotune", "internal", "wire", "message.go")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		const line = "const Version = 1\n"
		if strings.Count(string(text), line) != 1 {
			t.Fatalf("%s has no line %q", path, line)
		}
		other := filepath.Join(dir, "message.go")
		overlay := filepath.Join(dir, "overlay.json")
		b, err := json.Marshal(map[string]any{"Replace": map[string]string{path: other}})
		if err == nil {
			err = os.WriteFile(other, []byte(strings.Replace(string(text), line, "const Version = "+protocol+"\n", 1)), 0o600)
		}
		if err == nil {
			err = os.WriteFile(overlay, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "-overlay", overlay)
	}
	c := exec.Command("go", append(args, "./gotune/cmd/gotune")...)
	c.Dir = root
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build gotune: %v\n%s", err, out)
	}
	builtPrograms[protocol] = filepath.Join(dir, "gotune")
	return builtPrograms[protocol]
}

// What buildGotune has made, by protocol; TestMain removes it.
var (
	builtPrograms = map[string]string{}
	builtFolders  []string
)

// engineAt is where the kernels of a test find one engine, in folders of the test's own.
func engineAt(t *testing.T, binary string) (socket string, env []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gt") // short, for the socket
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "run", "engine.sock")
	t.Cleanup(func() {
		endTestEngine(socket)
		os.RemoveAll(dir)
	})
	return socket, []string{"GOTUNE_BIN=" + binary, "GOTUNE_SOCKET=" + socket, "XDG_STATE_HOME=" + filepath.Join(dir, "state")}
}

// Two kernels, as of two notebooks, share one engine and one loaded model.
func TestKernelsShareEngine(t *testing.T) {
	socket, env := engineAt(t, buildGotune(t, ""))
	first := startKernel(t, startOptions{env: env})
	pid := waitEngine(t, socket)
	second := startKernel(t, startOptions{env: env})
	const load = "import \"github.com/gotune/gotune/gotune\"\n\nvar base = gotune.Model{Name: \"gopher\", Source: \"embedded\"}\n%%\ninfo := gotune.Must(base.Load())\nfmt.Println(info.Params)"
	text, _ := shownText(t, first.run("%gotune status"))
	if !strings.Contains(text, "holds nothing") {
		t.Fatalf("a new engine: %s", text)
	}
	a := first.run(load)
	began := time.Now()
	b := second.run(load)
	t.Logf("the second kernel's cell took %v", time.Since(began))
	if x, y := a.text["stdout"], b.text["stdout"]; x == "" || x != y {
		t.Errorf("parameters %q in one kernel and %q in the other", x, y)
	}
	model := regexp.MustCompile(`(?m)^model +gopher`)
	for _, c := range []*client{first, second} {
		text, _ := shownText(t, c.run("%gotune status"))
		if n := len(model.FindAllString(text, -1)); n != 1 {
			t.Errorf("%d models in\n%s\nwant the one of both", n, text)
		}
		if p, err := (&engine{socket: socket}).ping(t.Context()); err != nil || p.PID != pid {
			t.Errorf("engine %d, %v, want still %d", p.PID, err, pid)
		}
	}
	for path, want := range map[string]os.FileMode{filepath.Dir(socket): 0o700, socket: 0o600, socket + ".lock": 0o600, filepath.Join(filepath.Dir(socket), "engine.log"): 0o600} {
		if i, err := os.Stat(path); err != nil || i.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %v", path, i.Mode(), err, want)
		}
	}
	second.run("%gotune free")
	if text, _ := shownText(t, first.run("%gotune status")); model.MatchString(text) {
		t.Errorf("freed in one kernel, still in the other:\n%s", text)
	}
	// A sentence, and no engine, where somebody else could put a socket of his.
	if err := os.Chmod(filepath.Dir(socket), 0o777); err != nil {
		t.Fatal(err)
	}
	r := first.wait(first.execute("%gotune restart-engine", nil))
	if e, _ := r.reply["evalue"].(string); r.reply["status"] != "error" || !strings.Contains(e, "other users can write") || !strings.Contains(e, "chmod 700") {
		t.Errorf("an engine in a folder of everybody: %v", r.reply)
	}
	r = first.wait(first.execute(load, nil))
	if e, _ := r.reply["evalue"].(string); r.reply["status"] != "error" || !strings.Contains(e, "other users can write") {
		t.Errorf("a cell with an engine in a folder of everybody: %v", r.reply)
	}
}

// An engine of another version is refused in plain words by the kernel and by a cell, and can be restarted.
func TestEngineOfAnotherVersion(t *testing.T) {
	newer := buildGotune(t, "2")
	link := filepath.Join(t.TempDir(), "gotune")
	if err := os.Symlink(newer, link); err != nil {
		t.Fatal(err)
	}
	socket, env := engineAt(t, link)
	c := startKernel(t, startOptions{env: env})
	old := waitEngine(t, socket)
	for _, code := range []string{"%gotune status", "%gotune stop", "import \"github.com/gotune/gotune/gotune\"\n%%\ngotune.Must(gotune.Doctor())"} {
		r := c.wait(c.execute(code, nil))
		e, _ := r.reply["evalue"].(string)
		if r.reply["status"] != "error" || !strings.Contains(e, "the client is older than the engine") || !strings.Contains(e, "%gotune restart-engine") {
			t.Errorf("%s: %v, want both versions and what to do", code, r.reply)
		}
	}
	if text, _ := shownText(t, c.run("%gotune version")); !strings.Contains(text, "The engine speaks protocol 2 and this kernel 1") {
		t.Errorf("%%gotune version: %s", text)
	}
	os.Remove(link)
	if err := os.Symlink(buildGotune(t, ""), link); err != nil {
		t.Fatal(err)
	}
	c.run("%gotune restart-engine")
	if now := waitEngine(t, socket); now == old {
		t.Errorf("engine %d is still the same", now)
	}
	if text, _ := shownText(t, c.run("%gotune status")); !strings.Contains(text, "holds nothing") {
		t.Errorf("the new engine: %s", text)
	}
}

// An engine of another user is not spoken to, although its socket would let us.
func TestForeignEngine(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start a program as another user")
	}
	dir, err := os.MkdirTemp("", "gt")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "engine"), program, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "engine.sock")
	foreign := exec.Command(filepath.Join(dir, "engine"), "engine")
	foreign.Dir, foreign.Env = "/", []string{"GOTUNE_SOCKET=" + socket}
	foreign.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	if err := foreign.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { foreign.Process.Kill(); foreign.Wait() }()
	for end := time.Now().Add(10 * time.Second); !exists(socket) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	c := startKernel(t, startOptions{env: []string{"GOTUNE_SOCKET=" + socket}})
	r := c.wait(c.execute("%gotune status", nil))
	if e, _ := r.reply["evalue"].(string); r.reply["status"] != "error" || !strings.Contains(e, "user 12345 listens there") {
		t.Errorf("reply %v, want that another user listens", r.reply)
	}
	r = c.wait(c.execute("import \"github.com/gotune/gotune/gotune\"\n%%\ngotune.Must(gotune.Doctor())", nil))
	if e, _ := r.reply["evalue"].(string); r.reply["status"] != "error" || !strings.Contains(e, "runs as user 12345") {
		t.Errorf("a cell: %v, want that another user listens", r.reply)
	}
}

// A restart leaves the run of a cell going, and the cell run again is attached to it; an interrupt stops it after
// the step under way, with a checkpoint, and the cell says so.
func TestRunOutlivesRestart(t *testing.T) {
	socket, env := engineAt(t, buildGotune(t, ""))
	out := filepath.Join(filepath.Dir(socket), "out")
	code := fmt.Sprintf(`import "github.com/gotune/gotune/gotune"

var run = gotune.Trainer{Name: "long", Model: gotune.Model{Name: "gopher", Source: "embedded"}, Dataset: gotune.Dataset{Name: "docs", Source: "embedded"},
	OutputDir: %q, MaxSteps: 100000, BatchSize: 1, MaxSeqLength: 48, LoRA: gotune.LoRA{Rank: 4}}
%%%%
gotune.Must(run.Train())`, out)
	state := func() gotune.RunInfo {
		var s gotune.StatusInfo
		if err := (&engine{socket: socket}).call(t.Context(), "status", nil, &s); err != nil {
			t.Fatal(err)
		}
		if len(s.Runs) != 1 {
			return gotune.RunInfo{}
		}
		return s.Runs[0]
	}
	awaitStep := func(c *client, m *message, n int) {
		t.Helper()
		for end := time.Now().Add(3 * time.Minute); state().Step < n; time.Sleep(50 * time.Millisecond) {
			if m != nil {
				if r := c.find("shell", 0, func(o *message) bool { return o.parentID() == m.id() }); r != nil {
					t.Fatalf("the cell ended: %s", r.content)
				}
			}
			if i := state(); time.Now().After(end) || i.State != "" && i.State != gotune.RunRunning {
				t.Fatalf("the run is %s at step %d, want it to go on to step %d", i.State, i.Step, n)
			}
		}
	}
	c := startKernel(t, startOptions{env: env})
	waitEngine(t, socket)
	m := c.execute(code, nil)
	awaitStep(c, m, 3)
	c.send(c.control, "interrupt_request", object{})
	c.send(c.control, "shutdown_request", object{"restart": true})
	c.cmd.Wait()
	c.gone(t, nil)
	awaitStep(c, nil, state().Step+5)

	c = startKernel(t, startOptions{env: env})
	m = c.execute(code, nil)
	c.await("iopub", "display of the run", time.Minute, func(o *message) bool { return o.parentID() == m.id() && o.kind() == "display_data" })
	awaitStep(c, m, state().Step+2)
	c.reply("control", c.send(c.control, "interrupt_request", object{}), time.Second)
	before := state().Step
	r := c.wait(m)
	i := state()
	if i.State != gotune.RunStopped || i.Step < before {
		t.Errorf("after an interrupt the run is %s at step %d, asked at %d, want stopped there", i.State, i.Step, before)
	}
	var record gotune.RunInfo
	if err := (&engine{socket: socket}).call(t.Context(), "run.record", object{"Name": "long"}, &record); err != nil {
		t.Fatal(err)
	}
	if n := len(record.Controls); n != 1 || record.Controls[0].What != gotune.ControlStop || record.Controls[0].Step != i.Step {
		t.Errorf("the record has the controls %+v, want a stop after step %d", record.Controls, i.Step)
	}
	if len(i.Checkpoints) == 0 || !strings.Contains(i.Checkpoints[len(i.Checkpoints)-1], fmt.Sprint(i.Step)) {
		t.Errorf("checkpoints %q, want one of step %d", i.Checkpoints, i.Step)
	}
	if text, _ := shownText(t, r); !strings.Contains(text, "stopped") || !strings.Contains(text, fmt.Sprint(i.Step)) {
		t.Errorf("the cell does not say that the run stopped at step %d: %v\n%s", i.Step, r.reply, text)
	}
}
