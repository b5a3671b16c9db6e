package kernelext

import (
	"archive/zip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestModule(t *testing.T) {
	dir := t.TempDir()
	root, err := WriteModule(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := WriteModule(dir); err != nil || again != root || filepath.Base(root) != ModuleVersion() {
		t.Errorf("a second WriteModule: %s, %v, want %s", again, err, root)
	}
	z, err := zip.OpenReader(filepath.Join(root, filepath.FromSlash(ModulePath), "@v", ModuleVersion()+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var names []string
	for _, f := range z.File {
		name, ok := strings.CutPrefix(f.Name, ModulePath+"@"+ModuleVersion()+"/")
		if !ok || strings.HasSuffix(name, "_test.go") {
			t.Errorf("%s does not belong into the module", f.Name)
		}
		names = append(names, name)
	}
	for _, want := range []string{"go.mod", "gotune/doc.go", "gotune/trainer.go", "gotune/internal/wire/message.go"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in the module: %v", want, names)
		}
	}
	mod := string(clientFiles()["go.mod"])
	if strings.Contains(mod, "require") || !strings.Contains(mod, "\ngo 1.") {
		t.Errorf("go.mod of cells: %q", mod)
	}
}

// A notebook needs no network: with no other module proxy, and nothing in the module cache, cells use the
// client, with an import and without, and after a reset.
func TestOffline(t *testing.T) {
	modcache := t.TempDir()
	t.Cleanup(func() { // Go makes its files read-only
		filepath.WalkDir(modcache, func(p string, d os.DirEntry, err error) error { return os.Chmod(p, 0o755) })
	})
	out, err := exec.Command("go", "env", "GOCACHE").Output() // compiled packages are no part of the question
	if err != nil {
		t.Fatal(err)
	}
	c := startKernel(t, startOptions{env: []string{"GOPROXY=off", "GOMODCACHE=" + modcache, "XDG_CACHE_HOME=" + cacheWithTools(t),
		"GOCACHE=" + strings.TrimSpace(string(out))}})
	for _, tt := range []struct{ name, code string }{
		{"with an import", "import \"github.com/gotune/gotune/gotune\"\n%%\nfmt.Println(gotune.LoRA{Rank: 4}.Rank)"},
		{"in the next cell", "%%\nfmt.Println(gotune.LoRA{Rank: 4}.Rank)"},
		{"after %reset, with no import", "%reset\n%%\nfmt.Println(gotune.LoRA{Rank: 4}.Rank)"},
		{"after %reset go.mod", "%reset go.mod\n%%\nfmt.Println(gotune.LoRA{Rank: 4}.Rank)"},
		{"knows the engine", "%%\nfmt.Println(4, os.Getenv(\"GOTUNE_BIN\") != \"\" && os.Getenv(\"GOTUNE_SOCKET\") == \"" + c.socket + "\")"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := c.wait(c.execute(tt.code, nil))
			if r.reply["status"] != "ok" || !strings.Contains(r.text["stdout"], "4") || strings.Contains(r.text["stdout"], "false") {
				t.Errorf("%v, stdout %q", r.reply, r.text["stdout"])
			}
		})
	}
}

// cacheWithTools is an empty user cache but for goimports, which GoNB needs.
func cacheWithTools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "gotune", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"goimports", "gopls"} {
		if p := filepath.Join(cacheDir(), "bin", tool); executable(p) {
			if err := os.Symlink(p, filepath.Join(bin, tool)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestInstall(t *testing.T) {
	prefix := t.TempDir()
	dir, err := specDir(prefix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Uninstall(prefix); err == nil || !strings.Contains(err.Error(), "no kernel") {
		t.Errorf("uninstall of nothing: %v", err)
	}
	if _, err := Install(prefix); err == nil || !strings.Contains(err.Error(), "temporary program") {
		t.Errorf("install of a test binary: %v, want a refusal", err)
	}
	t.Setenv("JUPYTER_DATA_DIR", filepath.Join(prefix, "user"))
	if d, err := specDir(""); err != nil || d != filepath.Join(prefix, "user", "kernels", "gotune") {
		t.Errorf("the user's kernelspec goes to %s, %v", d, err)
	}
	if want := filepath.Join(prefix, "share", "jupyter", "kernels", "gotune"); dir != want {
		t.Errorf("the environment's kernelspec goes to %s, want %s", dir, want)
	}
	for _, args := range [][]string{{}, {"install", "--user", "--prefix", "x"}, {"install", "x"}, {"--kernel"}, {"guard", "x"}, {"nix"}} {
		if code := Main(args); code != 2 {
			t.Errorf("Main(%q) = %d, want 2", args, code)
		}
	}
}
