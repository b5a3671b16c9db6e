package main

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/safetensors"
	"github.com/gotune/gotune/gotune/internal/token"
)

// mini writes the small shape.
func mini(t *testing.T, o options) string {
	t.Helper()
	s, err := findShape("mini")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "mini")
	if _, err := write(dir, s, o); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, dir string) *model.Checkpoint {
	t.Helper()
	ck, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	return ck
}

// A written model is one that gotune loads, whose loss is that of a model that
// knows nothing.
func TestMiniLoads(t *testing.T) {
	ck := open(t, mini(t, options{shards: 3, seed: 1}))
	if err := ck.Check(); err != nil {
		t.Fatal(err)
	}
	if n := len(ck.Files()); n != 3 {
		t.Errorf("%d files, want 3", n)
	}
	be, err := backend.Open(backend.CPU)
	if err != nil {
		t.Fatal(err)
	}
	base, err := layerwise.Load(context.Background(), be, ck, layerwise.LoadOptions{Quant: layerwise.QuantNF4}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Free()
	bt := &batch.Batch{B: 1, S: 16}
	for i := range int32(16) {
		bt.IDs, bt.Labels = append(bt.IDs, 37*i), append(bt.Labels, 37*i)
		bt.Positions, bt.Segments = append(bt.Positions, i), append(bt.Segments, 1)
	}
	logits, err := base.Logits(nil, bt)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range logits {
		if !(math.Abs(float64(v)) < 3) {
			t.Fatalf("logit %d is %v, want small numbers from random weights", i, v)
		}
	}
}

func TestTokenizerFits(t *testing.T) {
	for _, s := range shapes {
		if s.vocab > 32000 && testing.Short() {
			continue
		}
		dir := t.TempDir()
		tokenizer, config, err := s.tokenizerFiles()
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range map[string]any{"tokenizer.json": tokenizer, "tokenizer_config.json": config} {
			if err := writeJSON(filepath.Join(dir, name), v); err != nil {
				t.Fatal(err)
			}
		}
		tk, err := token.Load(dir)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if n := tk.VocabSize(); n != s.vocab {
			t.Errorf("%s: the tokenizer has %d tokens, want %d", s.name, n, s.vocab)
		}
		if id, ok := tk.EOS(); !ok || int(id) != s.eosID {
			t.Errorf("%s: EOS is %d, want %d", s.name, id, s.eosID)
		}
		const text = "What is a large language model? 42 × ok"
		ids := tk.Encode(text, true)
		if int(ids[0]) != s.bosID {
			t.Errorf("%s: the first token is %d, want BOS %d", s.name, ids[0], s.bosID)
		}
		if got := tk.Decode(ids, true); got != text {
			t.Errorf("%s: %q comes back as %q", s.name, text, got)
		}
	}
}

// Both files that name special tokens name the same: <unk> where the family has it,
// and no padding, and each name is one token.
func TestSpecialTokens(t *testing.T) {
	for name, unk := range map[string]string{"llama2-7b": "<unk>", "tinyllama-1.1b": "<unk>", "mini": "<unk>", "llama3-8b": ""} {
		s, err := findShape(name)
		if err != nil {
			t.Fatal(err)
		}
		_, config, err := s.tokenizerFiles()
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		c, err := token.ParseConfig(b)
		if err != nil {
			t.Fatal(err)
		}
		m := s.specialTokensMap()
		if c.Unk != unk || m["unk_token"] != unk || c.BOS != m["bos_token"] || c.EOS != m["eos_token"] {
			t.Errorf("%s: the configuration has %q, %q, %q, the map %v; want %q for unknown tokens", name, c.BOS, c.EOS, c.Unk, m, unk)
		}
		if _, ok := m["pad_token"]; ok || c.Pad != "" {
			t.Errorf("%s names a token for padding, which a real one does not", name)
		}
		for kind, want := range m {
			if !slices.Contains(s.specials(), want) {
				t.Errorf("%s: %s %q is not among the special tokens", name, kind, want)
			}
		}
	}
}

// Same arguments, same weights, whatever the number of files; another seed, others.
func TestDeterministic(t *testing.T) {
	a, b := open(t, mini(t, options{shards: 1, seed: 7})), open(t, mini(t, options{shards: 2, seed: 7}))
	c := open(t, mini(t, options{shards: 2, seed: 8}))
	for _, name := range a.Names() {
		x, y, z := values(t, a, name), values(t, b, name), values(t, c, name)
		same := 0
		for i := range x {
			if x[i] != y[i] {
				t.Fatalf("%s[%d] is %v and %v", name, i, x[i], y[i])
			}
			if x[i] == z[i] {
				same++
			}
		}
		if same > len(x)/10 {
			t.Errorf("%s: %d of %d values are the same with another seed", name, same, len(x))
		}
	}
}

func values(t *testing.T, ck *model.Checkpoint, name string) []float32 {
	t.Helper()
	v, _, err := ck.Float32(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Mean, deviation and the correlation of neighbours of a large tensor are those of
// independent normal values.
func TestDistribution(t *testing.T) {
	s := shape{layers: 32, dtype: safetensors.BF16}
	for name, want := range map[string]float64{"model.layers.3.mlp.gate_proj.weight": 0.02, "model.layers.3.mlp.down_proj.weight": 0.0025} {
		v, err := s.tensor(safetensors.Spec{Name: name, DType: s.dtype, Shape: []int{1000, 1001}}, 3).Float32()
		if err != nil {
			t.Fatal(err)
		}
		var sum, square, next float64
		for i, x := range v {
			sum += float64(x)
			square += float64(x) * float64(x)
			if i > 0 {
				next += float64(x) * float64(v[i-1])
			}
		}
		n := float64(len(v))
		mean, dev, corr := sum/n, math.Sqrt(square/n), next/square
		if math.Abs(mean) > 4*want/math.Sqrt(n) || math.Abs(dev/want-1) > 0.005 || math.Abs(corr) > 4/math.Sqrt(n) {
			t.Errorf("%s: mean %g, deviation %g, correlation %g; want 0, %g, 0", name, mean, dev, corr, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	dir := mini(t, options{shards: 1, seed: 1})
	if err := command([]string{"-shape", "mini", "-out", dir}); err == nil {
		t.Error("a second model went into the same folder")
	}
	for _, args := range [][]string{{"-shape", "nano", "-out", dir}, {"-shape", "mini"}, {"-shape", "mini", "-out", filepath.Join(dir, "x"), "-dtype", "f8"}} {
		if err := command(args); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); err == nil {
		t.Error("a refused call left a folder")
	}
}

func BenchmarkFill(b *testing.B) {
	data := make([]byte, 64<<20)
	table := quantiles(0, std, safetensors.F16)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		fill(data, table, 1)
	}
}
