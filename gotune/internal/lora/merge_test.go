package lora

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// The kernel equals its plain form up to rounding, for every size of panel,
// block and rank.
func TestDeltaEqualsPlain(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, tt := range []struct{ out, in, rank int }{
		{1, 1, 1}, {1, 31, 1}, {2, 32, 3}, {3, 33, 8}, {5, 64, 64}, {7, 100, 5}, {65, 4097, 2}, {300, 300, 17},
	} {
		m := &Module{A: make([]float32, tt.rank*tt.in), B: make([]float32, tt.out*tt.rank), In: tt.in, Out: tt.out}
		for _, x := range [][]float32{m.A, m.B} {
			for i := range x {
				x[i] = r.Float32() - 0.5
			}
		}
		cfg := Config{R: tt.rank, Alpha: 3}
		want := plainMerge(make([]float32, tt.out*tt.in), m, cfg)
		d := newDelta(m, cfg)
		buf := d.buffer()
		for from := 0; from < tt.out; from += d.rowsPerBlock() {
			n := min(d.rowsPerBlock(), tt.out-from)
			rows := d.rows(buf, from, n)
			for i := range n {
				for c, v := range rows(i) {
					if w := want[(from+i)*tt.in+c]; math.Abs(float64(v)-w) > 1e-5 {
						t.Fatalf("%+v: row %d column %d is %g, want %g", tt, from+i, c, v, w)
					}
				}
			}
		}
		x, y, px, py := make([]float32, panel), make([]float32, panel), make([]float32, panel), make([]float32, panel)
		a := d.packed[:panel*tt.rank]
		mul2(x, y, d.row(0), d.row(tt.out-1), a)
		mul2Plain(px, py, d.row(0), d.row(tt.out-1), a)
		for c := range panel {
			if math.Abs(float64(x[c]-px[c])) > 1e-5 || math.Abs(float64(y[c]-py[c])) > 1e-5 {
				t.Fatalf("%+v: mul2 gives %g and %g, the plain form %g and %g", tt, x[c], y[c], px[c], py[c])
			}
		}
	}
}

// Shards hold what the limit allows, the index names each weight once, the side
// files come along, and progress ends at the total.
func TestMergeShards(t *testing.T) {
	ck := openTiny(t)
	out := filepath.Join(t.TempDir(), "deep", "merged")
	var done, total int64
	err := Merge(context.Background(), ck, tinyAdapter(t, "v_proj"), out, MergeOptions{MaxShardBytes: 50_000}, func(d, n int64) {
		if d <= done || n != ck.Config.Parameters()*2 {
			t.Errorf("progress %d of %d after %d", d, n, done)
		}
		done, total = d, n
	})
	if err != nil {
		t.Fatal(err)
	}
	if done != total || total == 0 {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	merged, err := model.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer merged.Close()
	if err := merged.Check(); err != nil {
		t.Error(err)
	}
	if len(merged.Files()) < 3 {
		t.Errorf("files %q, want several of at most 50 kB", merged.Files())
	}
	for _, name := range merged.Files() {
		if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Size() > 60_000 {
			t.Errorf("%s has %d bytes (%v)", name, info.Size(), err)
		}
	}
	var names []string
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "model-") {
			names = append(names, e.Name())
		}
	}
	want := []string{"LICENSE.txt", "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json"}
	if !slices.Equal(names, want) {
		t.Errorf("the folder holds %q, want %q", names, want)
	}
	// A second merge replaces the first; nothing of it is left.
	if err := Merge(context.Background(), ck, nil, out, MergeOptions{DType: safetensors.F32}, nil); err != nil {
		t.Fatal(err)
	}
	again, err := model.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if !slices.Equal(again.Files(), []string{"model.safetensors"}) || again.Config.DType != "float32" {
		t.Errorf("the second merge left %q of type %s", again.Files(), again.Config.DType)
	}
	if list, err := os.ReadDir(filepath.Dir(out)); err != nil || len(list) != 1 {
		t.Errorf("beside the merged model lies %v", list)
	}
}

func TestMergeRefuses(t *testing.T) {
	ck := openTiny(t)
	good := tinyAdapter(t, "q_proj")
	edit := func(change func(a *Adapter)) *Adapter {
		a := good.Clone()
		change(a)
		return a
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		a    *Adapter
		o    MergeOptions
		want string
	}{
		{"module that the model lacks", nil, edit(func(a *Adapter) {
			a.Modules["model.layers.2.self_attn.q_proj"] = a.Modules["model.layers.1.self_attn.q_proj"]
		}), MergeOptions{}, "no such projection"},
		{"other shape", nil, edit(func(a *Adapter) {
			m := a.Modules["model.layers.1.self_attn.q_proj"]
			m.In, m.A = 32, m.A[:4*32]
		}), MergeOptions{}, "64×32"},
		{"rank that does not fit", nil, edit(func(a *Adapter) { a.Config.R = 8 }), MergeOptions{}, "for the rank 8"},
		{"no modules", nil, edit(func(a *Adapter) { clear(a.Modules) }), MergeOptions{}, "no modules"},
		{"NaN", nil, edit(func(a *Adapter) { a.Modules["model.layers.1.self_attn.q_proj"].B[4*7] = float32(math.NaN()) }), MergeOptions{DType: safetensors.F32}, "row 7"},
		{"too large for F16", nil, edit(func(a *Adapter) {
			m := a.Modules["model.layers.0.self_attn.q_proj"]
			for i := range m.B {
				m.B[i] = 1e7
			}
		}), MergeOptions{DType: safetensors.F16}, "merge into BF16"},
		{"type of whole numbers", nil, good, MergeOptions{DType: safetensors.I8}, "wanted F32, F16 or BF16"},
		{"stopped", canceled, good, MergeOptions{}, "stopped"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			ctx := tt.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			err := Merge(ctx, ck, tt.a, filepath.Join(dir, "merged"), tt.o, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Merge: %v; want %q", err, tt.want)
			}
			if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
				t.Errorf("the folder holds %v (%v)", list, err)
			}
			if tt.ctx != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Merge: %v is no context.Canceled", err)
			}
		})
	}
}

// Nothing but an older model is ever replaced.
func TestMergeKeepsOtherFolders(t *testing.T) {
	ck := openTiny(t)
	root := t.TempDir()
	make := func(name string, files ...string) string {
		dir := filepath.Join(root, name)
		for _, f := range append(files, "") {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)+"x"), 0o700); err != nil {
				t.Fatal(err)
			}
			if f != "" {
				if err := os.WriteFile(filepath.Join(dir, f), []byte("mine"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		return dir
	}
	if err := os.WriteFile(filepath.Join(root, "file"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(ck.Dir(), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ dir, want string }{
		{ck.Dir(), "own folder"},
		{filepath.Dir(ck.Dir()), "own folder"},
		{filepath.Join(root, "link"), "own folder"},
		{filepath.Join(root, "file"), "this is a file"},
		{make("documents", "thesis.txt"), "thesis.txt"},
		{make("project", "config.json", "src/main.go"), "src"},
	} {
		before := tree(t, tt.dir)
		if err := Merge(context.Background(), ck, nil, tt.dir, MergeOptions{}, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Merge into %s: %v; want %q", tt.dir, err, tt.want)
		}
		if after := tree(t, tt.dir); !slices.Equal(before, after) {
			t.Errorf("%s held %q, now %q", tt.dir, before, after)
		}
	}
	if err := Merge(context.Background(), ck, nil, make("empty"), MergeOptions{}, nil); err != nil {
		t.Errorf("Merge into an empty folder: %v", err)
	}
}

func tree(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		list = append(list, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A base checkpoint of another model is found before anything is written.
func TestMergeChecksBase(t *testing.T) {
	dir := tinyFolder(t, 1, safetensors.F32)
	text := strings.Replace(tinyConfig, `"vocab_size":256`, `"vocab_size":300`, 1)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ck, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	var ce *model.CheckpointError
	if err := Merge(context.Background(), ck, nil, filepath.Join(t.TempDir(), "m"), MergeOptions{}, nil); !errors.As(err, &ce) {
		t.Errorf("Merge: %v, want a *model.CheckpointError", err)
	}
}

func ExampleConfig_Scale() {
	fmt.Println(Config{R: 64, Alpha: 16}.Scale(), Config{R: 64, Alpha: 16, UseRSLoRA: true}.Scale())
	// Output: 0.25 2
}
