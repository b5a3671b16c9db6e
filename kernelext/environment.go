package kernelext

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// environment is what the kernel knows of the user's Go and passes on to GoNB.
type environment struct {
	goDir     string // folder of the go command, when it is not on PATH
	goVersion string // such as "1.26.5"
	goSettings
}

// goSettings are variables of "go env": from the environment or the user's Go configuration.
type goSettings struct{ GOVERSION, GOROOT, GOPROXY, GONOSUMDB, GOFLAGS, GOMODCACHE string }

// readEnvironment asks the go command. Without one the kernel starts all the same, and cells fail with
// GoNB's message.
func readEnvironment() environment {
	e := environment{goDir: findGo()}
	command := exec.Command(e.goCommand(), "env", "-json", "GOVERSION", "GOROOT", "GOPROXY", "GONOSUMDB", "GOFLAGS", "GOMODCACHE")
	command.Dir = os.TempDir() // not in a folder whose go.mod asks for another toolchain
	if out, err := command.Output(); err == nil {
		_ = json.Unmarshal(out, &e.goSettings)
	}
	e.goVersion, _, _ = strings.Cut(strings.TrimPrefix(e.GOVERSION, "go"), " ")
	return e
}

func (e environment) goCommand() string {
	if e.goDir == "" {
		return "go"
	}
	return filepath.Join(e.goDir, "go")
}

// findGo is the folder of the go command when it is not on PATH: as recorded at install in GOTUNE_GO, or
// Go's usual place.
func findGo() string {
	if _, err := exec.LookPath("go"); err == nil {
		return ""
	}
	for _, d := range []string{os.Getenv("GOTUNE_GO"), "/usr/local/go/bin"} {
		if d != "" && executable(filepath.Join(d, "go")) {
			return d
		}
	}
	return ""
}

// forGoNB is what GoNB's environment has beyond the kernel's own:
//
//   - PATH with gotune's bin folder first (goimports, gopls), and with go;
//   - GOPROXY with the client's module in front of what the user has, and GONOSUMDB for it;
//   - GOFLAGS with -ldflags=-s -w, which takes a third off the time to link a cell;
//   - GOTUNE_SOCKET and GOTUNE_BIN, by which a cell finds the engine and can start it.
func (e environment) forGoNB() ([]string, error) {
	if err := closeDir(cacheDir()); err != nil {
		return nil, err
	}
	proxy, err := WriteModule(filepath.Join(cacheDir(), "module"))
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's path: %w", err)
	}
	path := []string{filepath.Join(cacheDir(), "bin")}
	if e.goDir != "" {
		path = append(path, e.goDir)
	}
	env := map[string]string{
		"PATH":          strings.Join(append(path, os.Getenv("PATH")), string(os.PathListSeparator)),
		"GOPROXY":       "file://" + filepath.ToSlash(proxy) + "," + cmp.Or(e.GOPROXY, "direct"),
		"GONOSUMDB":     strings.TrimPrefix(e.GONOSUMDB+","+ModulePath, ","),
		"GOTUNE_SOCKET": socketPath(),
		"GOTUNE_BIN":    cmp.Or(os.Getenv("GOTUNE_BIN"), self),
	}
	if !strings.Contains(e.GOFLAGS, "-ldflags") {
		env["GOFLAGS"] = strings.TrimSpace(e.GOFLAGS + " '-ldflags=-s -w'")
	}
	if e.GOMODCACHE != "" && !writable(e.GOMODCACHE) {
		env["GOMODCACHE"] = filepath.Join(cacheDir(), "modcache")
	}
	var out []string
	for _, name := range sorted(env) {
		out = append(out, name+"="+env[name])
	}
	return out, nil
}

// writable says whether files can be made in dir, which is made if it is not there.
func writable(dir string) bool {
	if os.MkdirAll(dir, 0o755) != nil {
		return false
	}
	f, err := os.CreateTemp(dir, ".gotune-*")
	if err != nil {
		return false
	}
	f.Close()
	return os.Remove(f.Name()) == nil
}

// sorted is the keys of m in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
