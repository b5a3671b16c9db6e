package oracle

import (
	"os"
	"path/filepath"
	"testing"
)

// PythonEnv names the environment variable that points to a Python with the
// libraries that the golden data came from. Its default is the one that
// scripts/setup --tests makes. The value "none" skips the tests that ask it, each
// with a message; one that is missing fails them.
const PythonEnv = "GOTUNE_ORACLE_PYTHON"

// Python returns the path of that Python. need names what the test asks it for.
func Python(t testing.TB, need string) string {
	t.Helper()
	p := os.Getenv(PythonEnv)
	if p == "none" {
		t.Skipf("%s=none: %s is not asked", PythonEnv, need)
	}
	if p == "" {
		p = filepath.Join(Venv(t), "bin", "python")
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("Python with %s: %v; run scripts/setup --tests, or set %s to one, or to none to go without", need, err, PythonEnv)
	}
	return p
}

// Venv is the Python environment that scripts/setup --tests makes:
// $XDG_CACHE_HOME/gotune/venv-oracle, by default below ~/.cache.
func Venv(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "gotune", "venv-oracle")
}
