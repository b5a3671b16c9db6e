package kernelext

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// needTensorBoard finds the real program: that of the tests' Python, or of the notebooks'.
func needTensorBoard(t *testing.T) string {
	t.Helper()
	for _, p := range []string{os.Getenv("TENSORBOARD_BINARY"), filepath.Join(filepath.Dir(os.Getenv("GOTUNE_ORACLE_PYTHON")), "tensorboard"),
		filepath.Join(cacheDir(), "venv-jupyter", "bin", "tensorboard")} {
		if filepath.IsAbs(p) && executable(p) {
			return p
		}
	}
	if p, err := exec.LookPath("tensorboard"); err == nil {
		return p
	}
	if os.Getenv("GOTUNE_ORACLE_PYTHON") == "none" {
		t.Skip("GOTUNE_ORACLE_PYTHON=none: TensorBoard is not tried")
	}
	t.Fatal("there is no tensorboard: scripts/setup installs it; GOTUNE_ORACLE_PYTHON=none goes without")
	return ""
}

// shownText is all text of a cell's results.
func shownText(t *testing.T, r ran) (text, html string) {
	t.Helper()
	for _, m := range r.outputs {
		if m.kind() == "display_data" || m.kind() == "execute_result" {
			data := contentOf(t, m)["data"].(object)
			text += data["text/plain"].(string) + "\n"
			h, _ := data["text/html"].(string)
			html += h
		}
	}
	return text, html
}

func get(url string) (string, error) {
	r, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", url, r.Status)
	}
	return string(b), err
}

// boardProcesses lists the processes of TensorBoards that were started for a runtime folder: keepers, and
// what is below them.
func boardProcesses(runtimeDir string) (out []process) {
	tree := readProcesses()
	for _, ps := range tree {
		for _, p := range ps {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
			if f := strings.Split(string(b), "\x00"); err == nil && len(f) > 3 && f[2] == "keep" && strings.HasPrefix(f[3], runtimeDir) {
				out = append(append(out, p), tree.below(p.pid)...)
			}
		}
	}
	return out
}

// A TensorBoard is shared by the kernels that show it, also when they are killed, and ends with the last one.
func TestTensorBoard(t *testing.T) {
	runtime := t.TempDir()
	o := startOptions{env: []string{"TENSORBOARD_BINARY=" + needTensorBoard(t), "XDG_RUNTIME_DIR=" + runtime}}
	first, second := startKernel(t, o), startKernel(t, o)
	logdir := t.TempDir()
	cell := "%load_ext tensorboard\n%tensorboard --logdir '" + logdir + "'"
	port := regexp.MustCompile(`http://localhost:(\d+)/`)
	text, html := shownText(t, first.run(cell))
	at := port.FindString(text)
	if at == "" || !strings.Contains(html, "<iframe") || !strings.Contains(text, logdir) {
		t.Fatalf("shown: %s\n%s", text, html)
	}
	if got, err := get(at + "data/environment"); err != nil || !strings.Contains(got, logdir) {
		t.Fatalf("TensorBoard says of itself %q, %v, want its folder %s", got, err, logdir)
	}
	if text, _ := shownText(t, second.run(cell)); port.FindString(text) != at || !strings.Contains(text, "ago") {
		t.Errorf("a second kernel shows %q, want the same at %s", text, at)
	}
	if n := len(boardProcesses(runtime)); n < 2 {
		t.Errorf("%d processes of TensorBoard are found, want the keeper and the program", n)
	}
	entries, _ := os.ReadDir(filepath.Join(runtime, "gotune"))
	for _, e := range entries {
		if i, err := e.Info(); err != nil || i.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, want nobody else to read it", e.Name(), i.Mode())
		}
	}

	first.cmd.Process.Kill()
	first.cmd.Wait()
	time.Sleep(300 * time.Millisecond)
	if _, err := get(at); err != nil {
		t.Errorf("TensorBoard is gone with the first of two kernels: %v", err)
	}
	second.cmd.Process.Kill()
	second.cmd.Wait()
	for end := time.Now().Add(8 * time.Second); len(boardProcesses(runtime)) > 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	for _, p := range boardProcesses(runtime) {
		t.Errorf("left behind after kill -9 of both kernels: %+v", p)
		p.kill()
	}
	if _, err := get(at); err == nil {
		t.Errorf("TensorBoard still answers at %s", at)
	}
	if left, _ := filepath.Glob(filepath.Join(runtime, "gotune", "*.json")); len(left) > 0 {
		t.Errorf("records are left: %v", left)
	}

	third := startKernel(t, o)
	text, _ = shownText(t, third.run(cell))
	at = port.FindString(text)
	if _, err := get(at + "data/environment"); err != nil {
		t.Errorf("after all had ended, a new one: %q, %v", text, err)
	}
	third.reply("control", third.send(third.control, "shutdown_request", object{"restart": false}), 5*time.Second)
	for end := time.Now().Add(8 * time.Second); len(boardProcesses(runtime)) > 0 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if left := boardProcesses(runtime); len(left) > 0 {
		t.Errorf("left behind after a shutdown: %+v", left)
	}
}

func TestTensorBoardErrors(t *testing.T) {
	o := startOptions{env: []string{"XDG_RUNTIME_DIR=" + t.TempDir()}}
	binary := needTensorBoard(t)
	o.env = append(o.env, "TENSORBOARD_BINARY="+binary)
	c := startKernel(t, o)
	for _, tt := range []struct{ code, want string }{
		{"%tensorboard", "--logdir DIR"},
		{"%tensorboard --logdir", "--logdir DIR"},
		{"%tensorboard --logdir x --nonsense=1", "nonsense"},
		{"%tensorboard --logdir 'x", "quotation mark"},
	} {
		r := c.wait(c.execute(tt.code, nil))
		if r.reply["status"] != "error" || !strings.Contains(r.reply["evalue"].(string), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.code, r.reply, tt.want)
		}
	}
	if text, _ := shownText(t, c.run("%tensorboard --help")); !strings.Contains(text, "TENSORBOARD_PROXY_URL") {
		t.Errorf("%%tensorboard --help shows %q", text)
	}
	o.env[1] = "TENSORBOARD_BINARY=/nix/tensorboard"
	r := startKernel(t, o)
	if got := r.wait(r.execute("%load_ext tensorboard", nil)); got.reply["status"] != "error" || !strings.Contains(got.reply["evalue"].(string), "/nix/tensorboard") {
		t.Errorf("with a wrong TENSORBOARD_BINARY: %v", got.reply)
	}
}

func TestAbsoluteLogdir(t *testing.T) {
	t.Setenv("HOME", "/home/ada")
	for _, tt := range []struct {
		args      []string
		want, dir string // "" for an error
	}{
		{[]string{"--logdir", "runs"}, "--logdir=/w/runs", "/w/runs"},
		{[]string{"--logdir=../runs", "--port", "6007"}, "--logdir=/runs --port 6007", "/runs"},
		{[]string{"--port=1", "--logdir", "~/my runs"}, "--port=1 --logdir=/home/ada/my runs", "/home/ada/my runs"},
		{[]string{"--logdir=~"}, "--logdir=/home/ada", "/home/ada"},
		{[]string{"--logdir", "gs://b/x"}, "--logdir=gs://b/x", "gs://b/x"},
		{[]string{"--logdir_spec", "a:/x,b:/y"}, "--logdir_spec=a:/x,b:/y", "a:/x,b:/y"},
		{[]string{"--logdir"}, "", ""},
		{[]string{"--logdir="}, "", ""},
		{[]string{"runs"}, "", ""},
		{nil, "", ""},
	} {
		got, dir, err := absoluteLogdir(slices.Clone(tt.args), "/w")
		if strings.Join(got, " ") != tt.want || dir != tt.dir || (err != nil) != (tt.want == "") {
			t.Errorf("absoluteLogdir(%q) = %q, %q, %v, want %q, %q", tt.args, got, dir, err, tt.want, tt.dir)
		}
	}
}
