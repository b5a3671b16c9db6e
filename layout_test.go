package source

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Who may import what: the packages below the folders that a rule allows, and
// nobody else. A rule's imports end in "/..." for all packages below a path.
var importRules = []struct {
	why     string
	imports []string
	allowed []string
}{
	{"GoMLX and XLA belong to the executor", []string{"github.com/gomlx/..."},
		[]string{"gotune/internal/backend", "gotune/internal/layerwise", "gotune/internal/optim", "gotune/internal/pretrain", "gotune/internal/benchgpu", "gotune/internal/engine"}},
	{"cgo belongs to cuda", []string{"C"}, []string{"cuda"}},
	{"the network belongs to hub", []string{"net/http", "net/http/..."}, []string{"gotune/internal/hub", "scripts"}},
	{"GoNB belongs to the kernel", []string{"github.com/janpfeifer/gonb/..."}, []string{"kernelext"}},
	{"ZeroMQ belongs to the kernel", []string{"github.com/go-zeromq/..."}, []string{"kernelext"}},
}

// The client is compiled into every notebook cell: standard library only, and
// nothing that makes linking slow.
var (
	clientDirs      = []string{"gotune", "gotune/internal/wire"}
	clientForbidden = []string{"net", "net/http", "encoding/gob", "html/template", "text/template", "C"}
)

func TestImports(t *testing.T) {
	for file, imports := range importsOf(t) {
		dir := filepath.Dir(file)
		test := strings.HasSuffix(file, "_test.go")
		for _, imp := range imports {
			for _, r := range importRules {
				if matches(imp, r.imports) && !below(dir, r.allowed) && !test {
					t.Errorf("%s imports %s: %s; only %v may", file, imp, r.why, r.allowed)
				}
			}
			if test || !slices.Contains(clientDirs, dir) {
				continue
			}
			ours := strings.HasPrefix(imp, "github.com/gotune/gotune/")
			if ours && imp != "github.com/gotune/gotune/gotune/internal/wire" || !ours && strings.Contains(imp, ".") || slices.Contains(clientForbidden, imp) {
				t.Errorf("%s imports %s: the client is linked into every cell and keeps to the standard library", file, imp)
			}
		}
	}
}

// Config and wire types live with the client: the engine imports it, never the
// other way round.
func TestEngineIsAboveTheRest(t *testing.T) {
	for file, imports := range importsOf(t) {
		if strings.HasSuffix(file, "_test.go") || below(filepath.Dir(file), []string{"gotune/cmd", "gotune/internal/engine"}) {
			continue
		}
		if slices.Contains(imports, "github.com/gotune/gotune/gotune/internal/engine") {
			t.Errorf("%s imports the engine", file)
		}
	}
}

// One file, one idea: under 600 lines.
func TestFileLength(t *testing.T) {
	for file := range importsOf(t) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), "\n"); n > 600 {
			t.Errorf("%s has %d lines, want at most 600", file, n)
		}
	}
}

// importsOf reads the imports of every Go file of the repository.
func importsOf(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "out") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		out[path] = nil
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			out[path] = append(out[path], p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("%d Go files found: the test runs in the wrong folder", len(out))
	}
	return out
}

func matches(imp string, patterns []string) bool {
	for _, p := range patterns {
		if prefix, ok := strings.CutSuffix(p, "..."); ok && strings.HasPrefix(imp, prefix) || imp == p {
			return true
		}
	}
	return false
}

func below(dir string, allowed []string) bool {
	for _, a := range allowed {
		if dir == a || strings.HasPrefix(dir, a+"/") {
			return true
		}
	}
	return false
}
