package kernelext

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const tensorboardHelp = `%tensorboard --logdir DIR [--port N] [other flags of TensorBoard]

Shows TensorBoard in the notebook. It is started on a free port of this machine, once for each user and
folder: a second cell or notebook shows the same one. It ends when the last kernel that showed it ends.
Relative folders start where the notebook is. %load_ext tensorboard is not needed, and does no harm.
TENSORBOARD_BINARY is the program to take, else it is looked for on PATH and beside Jupyter's Python.
TENSORBOARD_PROXY_URL is the address to show when the browser cannot reach this machine's ports; %PORT% in
it stands for the port.`

var tensorboardFlags = []string{"--bind_all", "--host", "--logdir", "--port", "--reload_interval", "--samples_per_plugin"}

// tensorboardStart is how long TensorBoard may take to listen: it is Python, from a cold disk.
const tensorboardStart = 90 * time.Second

// board is a TensorBoard that runs.
type board struct {
	PID     int
	Start   uint64 // of the process, see process.start
	Port    int
	Logdir  string
	Started time.Time
}

// magicLoadTensorBoard is %load_ext tensorboard: there is nothing to load, but notebooks say it.
func (k *kernel) magicLoadTensorBoard() (*magicResult, error) {
	_, err := findTensorBoard()
	return nil, err
}

func (k *kernel) magicTensorBoard(ctx context.Context, args []string) (*magicResult, error) {
	if slices.Contains(args, "--help") || slices.Contains(args, "-h") {
		return plain(tensorboardHelp), nil
	}
	args, logdir, err := absoluteLogdir(args, k.workDir())
	if err != nil {
		return nil, err
	}
	binary, err := findTensorBoard()
	if err != nil {
		return nil, err
	}
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	b, reused, err := k.openBoard(ctx, dir, binary, args)
	if err != nil {
		return nil, err
	}
	b.Logdir = logdir
	return b.show(reused), nil
}

// absoluteLogdir makes the folders of --logdir absolute: TensorBoard runs elsewhere. Without that flag or
// --logdir_spec there is nothing to show.
func absoluteLogdir(args []string, dir string) (out []string, logdir string, err error) {
	out = slices.Clone(args)
	at, value := -1, ""
	for i := 0; i < len(out); i++ {
		flag, v, joined := strings.Cut(out[i], "=")
		if flag != "--logdir" && flag != "--logdir_spec" {
			continue
		}
		if !joined {
			if i+1 == len(out) {
				break
			}
			v = out[i+1]
			out = slices.Delete(out, i+1, i+2)
		}
		if at, value = i, v; flag == "--logdir" && v != "" {
			value = absolute(v, dir)
		}
		out[i] = flag + "=" + value
	}
	if at < 0 || value == "" {
		return nil, "", errors.New("%tensorboard takes the folder of the event files: %tensorboard --logdir DIR; a run's is in its RunInfo.TensorBoardDir")
	}
	return out, value, nil
}

// absolute is a user's path, in which ~ is the home folder, from dir on.
func absolute(path, dir string) string {
	if home, err := os.UserHomeDir(); err == nil && (path == "~" || strings.HasPrefix(path, "~/")) {
		return filepath.Join(home, path[1:])
	}
	if filepath.IsAbs(path) || strings.Contains(path, "://") {
		return path
	}
	return filepath.Join(dir, path)
}

// findTensorBoard looks for the program: $TENSORBOARD_BINARY, PATH, then beside the Python that runs Jupyter.
func findTensorBoard() (string, error) {
	if p := os.Getenv("TENSORBOARD_BINARY"); p != "" {
		if _, err := exec.LookPath(p); err != nil {
			return "", fmt.Errorf("TENSORBOARD_BINARY is %q: %w", p, err)
		}
		return p, nil
	}
	if p, err := exec.LookPath("tensorboard"); err == nil {
		return p, nil
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", os.Getppid())); err == nil {
		python, _, _ := strings.Cut(string(b), "\x00")
		if p := filepath.Join(filepath.Dir(python), "tensorboard"); filepath.IsAbs(python) && executable(p) {
			return p, nil
		}
	}
	return "", errors.New("no program tensorboard on PATH or beside Jupyter's Python: install it with\n    pip install tensorboard\n" +
		"in a cell with a ! before it or in a terminal, or set TENSORBOARD_BINARY to its path, then run the cell again")
}

// workDir is the folder that cells run in: GoNB's, which %cd moves.
func (k *kernel) workDir() string {
	if k.gonb != nil {
		for _, p := range readProcesses()[k.gonb.guard.Process.Pid] {
			if d, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.pid)); err == nil {
				return d
			}
		}
	}
	d, err := os.Getwd()
	if err != nil {
		return "/"
	}
	return d
}

// openBoard finds the user's TensorBoard with these arguments or starts one, and keeps it until this process
// ends. Each kernel that shows it holds a shared lock on one file; its keeper waits for the exclusive one.
func (k *kernel) openBoard(ctx context.Context, dir, binary string, args []string) (b *board, reused bool, err error) {
	sum := sha256.Sum256([]byte(binary + "\x00" + strings.Join(args, "\x00")))
	name := filepath.Join(dir, "tensorboard-"+hex.EncodeToString(sum[:8]))
	first, err := lockFile(ctx, name+".start", syscall.LOCK_EX) // one looks or starts at a time
	if err != nil {
		return nil, false, err
	}
	defer first.Close()
	k.boardsMu.Lock()
	held := k.boards[name]
	k.boardsMu.Unlock()
	if held == nil {
		if held, err = lockFile(ctx, name+".lock", syscall.LOCK_SH); err != nil {
			return nil, false, err
		}
		k.boardsMu.Lock()
		k.boards[name] = held
		k.boardsMu.Unlock()
	}
	if b := readBoard(name); b != nil {
		return b, true, nil
	}
	b, err = startBoard(ctx, name, binary, args)
	return b, false, err
}

// lockFile opens a file and locks it (flock), waiting until ctx ends.
func lockFile(ctx context.Context, path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// readBoard is the TensorBoard on record, if it is still there and listens.
func readBoard(name string) *board {
	var b board
	data, err := os.ReadFile(name + ".json")
	if err != nil || json.Unmarshal(data, &b) != nil {
		return nil
	}
	p, ok := readProcess(b.PID)
	if !ok || p.start != b.Start {
		return nil
	}
	c, err := net.DialTimeout("tcp", net.JoinHostPort("localhost", strconv.Itoa(b.Port)), time.Second)
	if err != nil {
		return nil
	}
	c.Close()
	return &b
}

// listens is the line by which TensorBoard says where.
var listens = regexp.MustCompile(`(?m)^TensorBoard \S+ at https?://\S*:(\d+)/`)

// startBoard starts a keeper with TensorBoard below it, and waits until that listens.
func startBoard(ctx context.Context, name, binary string, args []string) (*board, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's path: %w", err)
	}
	if !slices.ContainsFunc(args, func(a string) bool { return a == "--port" || strings.HasPrefix(a, "--port=") }) {
		args = append(slices.Clone(args), "--port=0")
	}
	logName := name + ".log"
	logFile, err := os.OpenFile(logName, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start TensorBoard: %w", err)
	}
	defer logFile.Close()
	keeper := exec.Command(self, append([]string{"kernel", "keep", name + ".lock", binary}, args...)...)
	keeper.Dir = "/"
	keeper.Stdout, keeper.Stderr = logFile, logFile
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Jupyter kills the kernel's group
	out, err := keeper.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start TensorBoard: %w", err)
	}
	if err := keeper.Start(); err != nil {
		return nil, fmt.Errorf("start TensorBoard: %w", err)
	}
	ended := make(chan struct{})
	go func() { _ = keeper.Wait(); close(ended) }()
	began := time.Now()
	for {
		text, _ := os.ReadFile(logName)
		if m := listens.FindSubmatch(text); m != nil {
			port, _ := strconv.Atoi(string(m[1]))
			b := &board{Port: port, Started: time.Now()}
			for _, p := range readProcesses()[keeper.Process.Pid] {
				b.PID, b.Start = p.pid, p.start
			}
			_, _ = io.WriteString(out, "up\n")
			return b, writeFile(name+".json", encode(b), 0o600)
		}
		select {
		case <-ended:
			return nil, fmt.Errorf("TensorBoard ended while it started:\n%s", lastParagraph(string(text)))
		case <-ctx.Done():
			out.Close()
			return nil, ctx.Err()
		case <-time.After(30 * time.Millisecond):
		}
		if time.Since(began) > tensorboardStart {
			out.Close()
			return nil, fmt.Errorf("TensorBoard does not listen after %v: its log is %s", tensorboardStart, logName)
		}
	}
}

// show is the board as an output. The script finds the address that the browser can reach: Colab's proxy for
// ports, TENSORBOARD_PROXY_URL, this machine itself, else jupyter-server-proxy below Jupyter's own address.
// Without scripts (an untrusted notebook) the link stays.
func (b *board) show(reused bool) *magicResult {
	local := fmt.Sprintf("http://localhost:%d/", b.Port)
	line := fmt.Sprintf("TensorBoard of %s: %s", b.Logdir, local)
	note := fmt.Sprintf("process %d; ends with the last kernel that shows it", b.PID)
	if reused {
		note = fmt.Sprintf("process %d, started %s ago; to end it: !kill %d", b.PID, time.Since(b.Started).Round(time.Second), b.PID)
	}
	proxy := strings.ReplaceAll(os.Getenv("TENSORBOARD_PROXY_URL"), "%PORT%", strconv.Itoa(b.Port))
	if hub := os.Getenv("JUPYTERHUB_SERVICE_PREFIX"); proxy == "" && hub != "" {
		proxy = strings.TrimSuffix(hub, "/") + fmt.Sprintf("/proxy/%d/", b.Port)
	}
	fill := strings.NewReplacer("{ID}", "gotune-tensorboard-"+newID()[:12], "{PORT}", strconv.Itoa(b.Port), "{PROXY}", string(encode(proxy)),
		"{LOCAL}", local, "{DIR}", escapeHTML(b.Logdir), "{NOTE}", escapeHTML(note))
	return &magicResult{text: line + " (" + note + ")", html: fill.Replace(boardHTML)}
}

const boardHTML = `<p style="margin:0 0 4px">TensorBoard of {DIR}: <a id="{ID}-link" href="{LOCAL}" target="_blank" rel="noopener">{LOCAL}</a> <small>({NOTE})</small></p>
<iframe id="{ID}" title="TensorBoard" width="100%" height="800" style="border:0"></iframe>
<script>
(async () => {
  const port = {PORT}, proxy = {PROXY}, at = window.location;
  const frame = document.getElementById("{ID}"), link = document.getElementById("{ID}-link");
  let url;
  if (window.google && google.colab && google.colab.kernel) {
    url = new URL(await google.colab.kernel.proxyPort(port, {cache: true}));
    url.searchParams.set("tensorboardColab", "true");
  } else if (proxy) {
    url = new URL(proxy, at);
  } else if (["localhost", "127.0.0.1", "[::1]"].includes(at.hostname) || at.protocol === "file:" || at.protocol.startsWith("vscode")) {
    // Of the page's own host: from another one, browsers that block third-party storage keep TensorBoard from working.
    url = new URL("http://" + (at.hostname === "127.0.0.1" ? at.hostname : "localhost") + ":" + port + "/");
  } else {
    const config = document.getElementById("jupyter-config-data");
    const base = config ? JSON.parse(config.textContent).baseUrl || "/" : "/";
    url = new URL(base.replace(/\/$/, "") + "/proxy/" + port + "/", at.origin);
  }
  frame.src = link.href = url;
  link.textContent = url;
})();
</script>`
