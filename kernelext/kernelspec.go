package kernelext

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	kernelName  = "gotune"
	displayName = "Go (gotune)"
)

//go:embed logo
var logos embed.FS

// kernelSpec is kernel.json.
type kernelSpec struct {
	Argv          []string          `json:"argv"`
	DisplayName   string            `json:"display_name"`
	Language      string            `json:"language"`
	InterruptMode string            `json:"interrupt_mode"`
	Env           map[string]string `json:"env"`
	Metadata      object            `json:"metadata"`
}

// specDir is the kernelspec's folder: under prefix/share/jupyter, or the user's Jupyter data folder when
// prefix is "".
func specDir(prefix string) (string, error) {
	data := os.Getenv("JUPYTER_DATA_DIR")
	home, err := os.UserHomeDir()
	switch {
	case prefix != "":
		data = filepath.Join(prefix, "share", "jupyter")
	case data != "":
	case err != nil:
		return "", fmt.Errorf("find the Jupyter data folder: %w: set JUPYTER_DATA_DIR", err)
	case runtime.GOOS == "darwin":
		data = filepath.Join(home, "Library", "Jupyter")
	default:
		share := os.Getenv("XDG_DATA_HOME")
		if share == "" {
			share = filepath.Join(home, ".local", "share")
		}
		data = filepath.Join(share, "jupyter")
	}
	dir, err := filepath.Abs(filepath.Join(data, "kernels", kernelName))
	if err != nil {
		return "", fmt.Errorf("find the Jupyter data folder: %w", err)
	}
	return dir, nil
}

// Install makes the kernel known to Jupyter and gets a first cell ready: it writes the kernelspec, puts
// the client's module into Go's module cache and compiles what cells link. Prefix is "" for the user's
// own Jupyter folder, or that of a Python environment. It returns the kernelspec's folder.
func Install(prefix string) (string, error) {
	dir, err := specDir(prefix)
	if err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's path: %w", err)
	}
	if strings.Contains(self, string(filepath.Separator)+"go-build") {
		return "", fmt.Errorf("%s is a temporary program of `go run`: build gotune first (scripts/setup does)", self)
	}
	s := kernelSpec{Argv: []string{self, "kernel", "--kernel", "{connection_file}"}, DisplayName: displayName, Language: "go",
		InterruptMode: "message", Env: map[string]string{}, Metadata: object{"debugger": false}}
	if path, err := exec.LookPath("go"); err == nil {
		s.Env["GOTUNE_GO"] = filepath.Dir(path) // JupyterLab started from a desktop has a short PATH
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the kernelspec's folder: %w", err)
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return "", fmt.Errorf("write kernel.json: %w", err)
	}
	entries, err := logos.ReadDir("logo")
	if err != nil {
		return "", fmt.Errorf("write the kernel's logo: %w", err)
	}
	for _, e := range entries {
		data, err := logos.ReadFile("logo/" + e.Name())
		if err == nil {
			err = writeFile(filepath.Join(dir, e.Name()), data, 0o644)
		}
		if err != nil {
			return "", fmt.Errorf("write the kernel's logo: %w", err)
		}
	}
	if err := writeFile(filepath.Join(dir, "kernel.json"), append(b, '\n'), 0o644); err != nil {
		return "", fmt.Errorf("write kernel.json: %w", err)
	}
	return dir, prepareCells()
}

// Uninstall removes the kernelspec, and only that. It returns the folder that it was in.
func Uninstall(prefix string) (string, error) {
	dir, err := specDir(prefix)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "kernel.json")); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no kernel %q in %s", displayName, dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("remove the kernelspec: %w", err)
	}
	return dir, nil
}

// prepareCells compiles a program like a first cell, the way that GoNB does: that fills the module cache,
// from which goimports adds the import of a bare gotune.X, and the build cache.
func prepareCells() error {
	e := readEnvironment()
	env, err := e.forGoNB()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gotune-first-cell-")
	if err != nil {
		return fmt.Errorf("compile a first cell: %w", err)
	}
	defer os.RemoveAll(dir)
	program := "package main\n\nimport (\n\t\"fmt\"\n\n\t\"" + ModulePath + "/gotune\"\n)\n\nfunc main() { fmt.Println(gotune.Dataset{}) }\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o644); err != nil {
		return fmt.Errorf("compile a first cell: %w", err)
	}
	for _, args := range [][]string{{"mod", "init", "cell"}, {"get"}, {"build", "-o", os.DevNull}} {
		c := exec.Command(e.goCommand(), args...)
		c.Dir, c.Env = dir, append(os.Environ(), env...)
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("compile a first cell: go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}
