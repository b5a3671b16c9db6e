// Package oracle finds the golden data that gotune's tests hold its numbers
// against: tensors, ids and texts written by transformers, PEFT, bitsandbytes,
// tokenizers, datasets and huggingface_hub. The folder's README says what each
// file is, how it was made and which tolerance applies.
//
// Only tests import this package.
package oracle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Env names the environment variable that points to the golden data. Its
// default is ../shared/oracle beside the repository. The value "none" skips the
// tests that need it, each with a message; a folder that is missing fails them.
const Env = "GOTUNE_ORACLE"

// Dir returns the folder of golden data joined with elem. The test fails when
// that path does not exist: a run without golden data must be asked for.
func Dir(t testing.TB, elem ...string) string {
	t.Helper()
	root := os.Getenv(Env)
	if root == "none" {
		t.Skipf("%s=none: no golden data, so this test says nothing", Env)
	}
	if root == "" {
		root = filepath.Join(Root(), "..", "shared", "oracle")
	} else if !filepath.IsAbs(root) {
		root = filepath.Join(Root(), root)
	}
	p := filepath.Join(append([]string{root}, elem...)...)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("golden data: %v; set %s to the folder that holds it, or to none to go without", err, Env)
	}
	return p
}

// JSON reads the golden file at elem into v.
func JSON(t testing.TB, v any, elem ...string) {
	t.Helper()
	p := Dir(t, elem...)
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("golden data %s: %v", p, err)
	}
}

// Root is the repository's root folder, found from this file's own path.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}
