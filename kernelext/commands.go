package kernelext

import (
	"context"
	"errors"
	"fmt"
	"html"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/gotune/gotune/cuda/smi"
	"github.com/gotune/gotune/gotune"
)

// command is one word after %gotune.
type command struct {
	name, args string
	live       bool // may run beside a cell that is under way
	help       string
	run        func(k *kernel, ctx context.Context, args []string) (*magicResult, error)
}

func (c command) usage() string { return strings.TrimSpace("%gotune " + c.name + " " + c.args) }

// magicCommands is all of them, in the order of the help text.
var magicCommands []command

func init() {
	magicCommands = []command{
		{"status", "", true, "What the engine holds and does: models, runs, memory; the GPUs.", (*kernel).magicStatus},
		{"runs", "", true, "The engine's training runs, their states and folders.", (*kernel).magicRuns},
		{"pause", "[RUN]", true, "Hold the run at the end of its step. Its memory stays; the device is free for other cells.", (*kernel).magicPause},
		{"resume", "[RUN]", true, "Let a paused run go on.", (*kernel).magicResume},
		{"lr", "[RUN] X", true, "Give the run another peak learning rate from its next step on, such as 1e-4.", (*kernel).magicRate},
		{"sample", "[RUN] \"PROMPT\"", true, "Let the run's model answer a prompt as it is now, and keep the answer in the run's record.", (*kernel).magicSample},
		{"stop", "[RUN…]", true, "Stop the named training runs, or all. Each stops at its next step and saves a checkpoint; Train goes on with it.", (*kernel).magicStop},
		{"free", "", false, "Take all models out of memory. Runs that train are not touched.", (*kernel).magicFree},
		{"restart-engine", "", false, "End the engine and start a new one. Runs stop with a checkpoint; models are loaded again when used.", (*kernel).magicRestart},
		{"log", "[LINES]", true, "The last lines of the engine's log. Default 40.", (*kernel).magicLog},
		{"version", "", true, "The versions of the kernel, of Go and of the engine.", (*kernel).magicVersion},
		{"help", "", true, "This list.", func(*kernel, context.Context, []string) (*magicResult, error) {
			return &magicResult{text: magicHelp(), html: magicHelpHTML()}, nil
		}},
	}
}

func findCommand(name string) (command, bool) {
	for _, c := range magicCommands {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

// liveHelp says when a magic need not wait for its turn.
const liveHelp = "A cell of nothing but such lines that is run while another cell is under way, say one that trains, runs at once " +
	"(not free and restart-engine: these wait for their turn)."

func magicHelp() string {
	var b strings.Builder
	b.WriteString("%gotune commands run before the Go code of their cell.\n\n")
	for _, c := range magicCommands {
		fmt.Fprintf(&b, "%-24s %s\n", c.usage(), c.help)
	}
	b.WriteString("\n" + liveHelp + "\nWithout RUN it is the run under way.\n\n%load_ext tensorboard, %tensorboard --logdir DIR: TensorBoard in the notebook.\n" +
		"NAME? in a cell of its own: help on a Go name or a magic.\nGoNB's own magics work as well: %help lists them.")
	return b.String()
}

func magicHelpHTML() string {
	var rows [][]string
	for _, c := range magicCommands {
		rows = append(rows, []string{"<code>" + html.EscapeString(c.usage()) + "</code>", html.EscapeString(c.help)})
	}
	return "<p><code>%gotune</code> commands run before the Go code of their cell. " + liveHelp + " Without RUN it is the run under way.</p>" +
		table([]string{"command", "what it does"}, append(rows, []string{"<code>%tensorboard --logdir DIR</code>", "TensorBoard in the notebook."},
			[]string{"<code>NAME?</code>", "In a cell of its own: help on a Go name or a magic."})) +
		"<p>GoNB's own magics work as well: <code>%help</code> lists them.</p>"
}

// magic runs one line of the kernel's own magics. It ends early when ctx does: the cell was interrupted.
func (k *kernel) magic(ctx context.Context, m magic) (*magicResult, error) {
	switch {
	case m.err != nil:
		return nil, fmt.Errorf("%s: %w", m, m.err)
	case m.name == "tensorboard":
		return k.magicTensorBoard(ctx, m.args)
	case m.name != "gotune":
		return k.magicLoadTensorBoard()
	case len(m.args) == 0:
		m.args = []string{"help"}
	}
	c, ok := findCommand(m.args[0])
	if !ok {
		return nil, unknownCommand(m.args[0])
	}
	if c.args == "" && len(m.args) > 1 {
		return nil, fmt.Errorf("%s takes no argument, and was given %q", c.usage(), strings.Join(m.args[1:], " "))
	}
	return c.run(k, ctx, m.args[1:])
}

// unknownCommand says what a misspelt command could mean, and what there is.
func unknownCommand(word string) error {
	var names []string
	for _, c := range magicCommands {
		names = append(names, c.name)
	}
	if n := nearest(word, names); n != "" {
		return fmt.Errorf("%%gotune knows no command %q: did you mean %%gotune %s? %%gotune help lists all", word, n)
	}
	return fmt.Errorf("%%gotune knows no command %q: it has %s", word, strings.Join(names, ", "))
}

// magicError is the failure of what a line of the cell asks the kernel for as the cell's.
func magicError(what string, line int, err error) *cellError {
	if errors.Is(err, context.Canceled) {
		return &cellError{"Interrupted", what + " was interrupted", nil}
	}
	lines := strings.Split(err.Error(), "\n")
	trace := append([]string{fmt.Sprintf("Cell line %d: %s", line, what)}, red("GotuneError")+": "+lines[0])
	return &cellError{"GotuneError", err.Error(), append(trace, lines[1:]...)}
}

func (k *kernel) engineStatus(ctx context.Context) (*gotune.StatusInfo, error) {
	var s gotune.StatusInfo
	if err := k.engine.call(ctx, "status", nil, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

func (k *kernel) magicStatus(ctx context.Context, _ []string) (*magicResult, error) {
	s, err := k.engineStatus(ctx)
	if errors.Is(err, errNoEngine) {
		return plain("No engine runs. It starts by itself with the first cell that uses gotune."), nil
	}
	if err != nil {
		return nil, err
	}
	return statusResult(s, smi.Read(ctx)), nil
}

func (k *kernel) magicFree(ctx context.Context, _ []string) (*magicResult, error) {
	before, err := k.engineStatus(ctx)
	if errors.Is(err, errNoEngine) {
		return plain("No engine runs, so no model is in memory."), nil
	}
	if err != nil {
		return nil, err
	}
	var after gotune.StatusInfo
	if err := k.engine.call(ctx, "free", nil, &after); err != nil {
		return nil, err
	}
	return plain(fmt.Sprintf("Freed %s on the device; %s are held.", bytesText(max(0, before.DeviceBytes-after.DeviceBytes)), bytesText(after.DeviceBytes))), nil
}

func (k *kernel) magicRestart(ctx context.Context, _ []string) (*magicResult, error) {
	if err := k.engine.end(ctx); err != nil {
		return nil, err
	}
	if err := k.engine.start(ctx); err != nil {
		return nil, err
	}
	p, err := k.engine.ping(ctx)
	if err != nil {
		return nil, err
	}
	return plain(fmt.Sprintf("Engine %s runs as process %d.", p.Version, p.PID)), nil
}

func (k *kernel) magicLog(_ context.Context, args []string) (*magicResult, error) {
	n := 40
	if len(args) > 1 {
		return nil, fmt.Errorf("%%gotune log takes one number, and was given %q", strings.Join(args, " "))
	}
	if len(args) == 1 {
		if _, err := fmt.Sscanf(args[0], "%d", &n); err != nil || n < 1 {
			return nil, fmt.Errorf("%%gotune log takes a number of lines from 1 up, and was given %q", args[0])
		}
	}
	path := k.engine.logFile()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return plain("The engine has no log yet: " + path), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the engine's log: %w", err)
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return plain(path + "\n" + strings.Join(lines, "\n")), nil
}

func (k *kernel) magicVersion(ctx context.Context, _ []string) (*magicResult, error) {
	lines := []string{
		fmt.Sprintf("gotune %s, built with %s for %s/%s", ModuleVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH),
		"cells: Go " + k.env.goVersion,
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if p, err := k.engine.ping(ctx); err == nil {
		lines = append(lines, fmt.Sprintf("engine: %s, process %d", p.Version, p.PID))
		if p.Protocol != wireVersion {
			lines = append(lines, fmt.Sprintf("The engine speaks protocol %d and this kernel %d: %%gotune restart-engine starts one of this version.", p.Protocol, wireVersion))
		}
	} else {
		lines = append(lines, "engine: not running")
	}
	return plain(strings.Join(lines, "\n")), nil
}
