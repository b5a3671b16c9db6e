package backend

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/cuda"
)

// attachCache opens the CPU backend and gives it a cache in an empty folder until the
// test ends.
func attachCache(t *testing.T) (be compute.Backend, cache *cuda.ProgramCache, lines *[]string) {
	t.Helper()
	be, err := Open(CPU)
	if err != nil {
		t.Fatal(err)
	}
	p, err := cuda.Find(cuda.CPU)
	if err != nil {
		t.Fatal(err)
	}
	lines = new([]string)
	cache, err = cuda.NewProgramCache(t.TempDir(), 1<<30, func(s string) { *lines = append(*lines, s) })
	if err == nil {
		_, err = cuda.Attach(p, cache)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := cuda.Attach(p, nil); err != nil {
			t.Error(err)
		}
	})
	return be, cache, lines
}

// compileAndRun compiles x·x + x of [n, n] with x donated and runs it.
func compileAndRun(t *testing.T, be compute.Backend, n int) (*cuda.Program, []float32) {
	t.Helper()
	g := NewGraph(be, "square and add")
	x := Parameter(g, "x", shapes.Make(dtypes.Float32, n, n))
	p, err := cuda.Compiling(nil, func() error { return g.Compile(Add(Dot(x, x).Product(), x)) })
	if err != nil {
		t.Fatal(err)
	}
	flat := make([]float32, n*n)
	for i := range flat {
		flat[i] = float32(i%7) - 3
	}
	in, err := be.BufferFromFlatData(0, flat, x.Shape())
	if err != nil {
		t.Fatal(err)
	}
	out, err := g.Executable().Execute([]compute.Buffer{in}, []bool{true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := out[0].ToFlatData(flat); err != nil {
		t.Fatal(err)
	}
	return p, flat
}

// A program is compiled once; what is found in the cache computes the same and is
// accounted for in the same way.
func TestProgramCache(t *testing.T) {
	be, cache, lines := attachCache(t)
	const n = 96
	first, want := compileAndRun(t, be, n)
	second, got := compileAndRun(t, be, n)
	if first == nil || second == nil {
		t.Fatal("nothing is known of a compiled program")
	}
	if first.Cached || !second.Cached {
		t.Errorf("cached = %v, then %v; want false, then true", first.Cached, second.Cached)
	}
	if first.Name != "square_and_add" || second.Name != first.Name {
		t.Errorf("names %q and %q", first.Name, second.Name)
	}
	if first.Memory != second.Memory || first.Memory.Arguments != 4*n*n || first.Memory.Outputs != 4*n*n {
		t.Errorf("memory %+v compiled, %+v loaded; want arguments and outputs of %d", first.Memory, second.Memory, 4*n*n)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("value %d is %g from the cache, %g compiled", i, got[i], want[i])
		}
	}
	if other, _ := compileAndRun(t, be, n+1); other.Cached {
		t.Error("another program was taken for the first")
	}
	t.Setenv("XLA_FLAGS", os.Getenv("XLA_FLAGS")+" ") // read at the first compilation of a client
	if p, err := cuda.Find(cuda.CPU); err != nil {
		t.Fatal(err)
	} else if _, err := cuda.Attach(p, cache); err != nil {
		t.Fatal(err)
	}
	if p, _ := compileAndRun(t, be, n); p.Cached {
		t.Error("a program compiled with other XLA_FLAGS was taken")
	}
	if found, missed := cache.Counts(); found != 1 || missed != 3 {
		t.Errorf("%d found and %d missed, want 1 and 3", found, missed)
	}
	if len(*lines) > 0 {
		t.Errorf("log: %q", *lines)
	}
	if st, err := os.Stat(cache.Dir()); err != nil || st.Mode().Perm()&0o022 != 0 {
		t.Errorf("folder %v, %v", st.Mode(), err)
	}
}

// Damaged, cut and foreign files cost a line in the log and a compilation.
func TestProgramCacheDamage(t *testing.T) {
	const n = 64
	for name, harm := range map[string]func(file []byte) []byte{
		"bit":     func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":     func(b []byte) []byte { return b[:len(b)-9] },
		"empty":   func([]byte) []byte { return nil },
		"foreign": func([]byte) []byte { return []byte(strings.Repeat("not a program ", 99)) },
	} {
		t.Run(name, func(t *testing.T) {
			be, cache, lines := attachCache(t)
			_, want := compileAndRun(t, be, n)
			files, _ := filepath.Glob(filepath.Join(cache.Dir(), "*.program"))
			if len(files) != 1 {
				t.Fatalf("files %v", files)
			}
			b, err := os.ReadFile(files[0])
			if err == nil {
				err = os.WriteFile(files[0], harm(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			p, got := compileAndRun(t, be, n)
			if p.Cached || got[5] != want[5] {
				t.Errorf("cached %v, value %g, want a new program with %g", p.Cached, got[5], want[5])
			}
			if len(*lines) != 1 || !strings.Contains((*lines)[0], files[0]) {
				t.Errorf("log %q, want one line that names %s", *lines, files[0])
			}
			if p, _ := compileAndRun(t, be, n); !p.Cached {
				t.Error("the program was not kept again")
			}
		})
	}
}

// A folder that can't be written costs one line, and programs go on being compiled.
func TestProgramCacheUnwritable(t *testing.T) {
	be, cache, lines := attachCache(t)
	if err := os.RemoveAll(cache.Dir()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if p, _ := compileAndRun(t, be, 32); p.Cached {
			t.Error("a program came from nowhere")
		}
	}
	if len(*lines) != 1 || !strings.Contains((*lines)[0], "not kept") {
		t.Errorf("log %q, want one line", *lines)
	}
}
