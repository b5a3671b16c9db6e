package sample

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// bigram is a Decoder over letters: the logit of b after a is ln of how often b
// follows a in its text (plus a tenth). Ids are indices into alphabet.
type bigram struct {
	table  [][]float32
	steps  int
	closed bool
	fail   int // Step number that fails, 0 for none
	nan    int // Step number that returns a NaN
}

const alphabet = "abcdefghijklmnopqrstuvwxyz .,$"

func newBigram(text string) *bigram {
	v := len(alphabet)
	b := &bigram{table: make([][]float32, v)}
	counts := make([][]float64, v)
	for i := range counts {
		counts[i] = make([]float64, v)
		for j := range counts[i] {
			counts[i][j] = 0.1
		}
	}
	ids := letters(text)
	for i := 1; i < len(ids); i++ {
		counts[ids[i-1]][ids[i]]++
	}
	for i, row := range counts {
		for _, n := range row {
			b.table[i] = append(b.table[i], float32(math.Log(n)))
		}
	}
	return b
}

func letters(text string) []int32 {
	var ids []int32
	for _, r := range strings.ToLower(text) {
		if i := strings.IndexRune(alphabet, r); i >= 0 {
			ids = append(ids, int32(i))
		}
	}
	return ids
}

func spell(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteByte(alphabet[id])
	}
	return b.String()
}

func (b *bigram) Prefill(ids []int32) ([]float32, error) { return b.table[ids[len(ids)-1]], nil }
func (b *bigram) Close()                                 { b.closed = true }
func (b *bigram) Step(id int32) ([]float32, error) {
	b.steps++
	if b.steps == b.fail {
		return nil, errors.New("device lost")
	}
	if b.steps == b.nan {
		return []float32{0, float32(math.NaN())}, nil
	}
	return b.table[id], nil
}

const text = "a gopher digs a hole, a gopher digs another hole, and the gophers of the garden go to dig together.$"

var end = letters("$")

func TestGreedy(t *testing.T) {
	d := newBigram(text)
	var streamed []int32
	ids, why, err := Generate(context.Background(), d, letters("th"), Config{MaxNewTokens: 6}, func(id int32) error {
		streamed = append(streamed, id)
		return nil
	})
	if err != nil || why != StopLength || len(ids) != 6 || !slices.Equal(ids, streamed) {
		t.Fatalf("%q (streamed %q), %s, %v", spell(ids), spell(streamed), why, err)
	}
	at := letters("h")[0]
	for i, id := range ids {
		if want := Argmax(d.table[at]); id != want {
			t.Errorf("token %d is %q, the largest logit is %q", i, alphabet[id], alphabet[want])
		}
		at = id
	}
	if d.closed {
		t.Error("Generate closed a decoder it did not make")
	}
	if d.steps != 5 {
		t.Errorf("%d decoder steps for 6 tokens, want 5", d.steps)
	}
}

func TestStops(t *testing.T) {
	ctx := context.Background()
	prompt := letters("together.")
	ids, why, err := Generate(ctx, newBigram(text), prompt, Config{EOS: end}, nil)
	if err != nil || why != StopEOS || !slices.Equal(ids, end) {
		t.Errorf("%q, %s, %v: want %q, %s", spell(ids), why, err, "$", StopEOS)
	}
	ids, why, err = Generate(ctx, newBigram(text), prompt, Config{MaxLength: len(prompt) + 3}, nil)
	if err != nil || why != StopLength || len(ids) != 3 {
		t.Errorf("MaxLength: %d tokens, %s, %v", len(ids), why, err)
	}
	ids, _, err = Generate(ctx, newBigram(text), prompt, Config{}, nil)
	if err != nil || len(ids) != DefaultMaxLength-len(prompt) {
		t.Errorf("default: %d tokens, %v", len(ids), err)
	}
	ctx, cancel := context.WithCancel(ctx)
	ids, why, err = Generate(ctx, newBigram(text), prompt, Config{}, func(int32) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) || why != StopInterrupted || len(ids) != 1 {
		t.Errorf("cancelled: %d tokens, %s, %v", len(ids), why, err)
	}
}

func TestFailures(t *testing.T) {
	full := errors.New("pipe closed")
	bad := newBigram(text)
	for i := range bad.table {
		for j := range bad.table[i] {
			bad.table[i][j] = dropped
		}
	}
	for _, tt := range []struct {
		name   string
		d      *bigram
		prompt string
		cfg    Config
		on     func(int32) error
		want   string
		n      int
	}{
		{"empty prompt", newBigram(text), "", Config{}, nil, "prompt is empty", 0},
		{"no room", newBigram(text), "hello", Config{MaxLength: 5}, nil, "leaves no room", 0},
		{"device", &bigram{table: newBigram(text).table, fail: 2}, "a", Config{}, nil, "device lost", 2},
		{"NaN", &bigram{table: newBigram(text).table, nan: 1}, "a", Config{}, nil, "logit 1 of 2 is NaN", 1},
		{"all dropped", bad, "a", Config{}, nil, "no token has a finite logit", 0},
		{"reader gone", newBigram(text), "a", Config{}, func(int32) error { return full }, "pipe closed", 1},
		{"temperature", newBigram(text), "a", Config{Temperature: -1}, nil, "Temperature is -1", 0},
		{"temperature NaN", newBigram(text), "a", Config{Temperature: math.NaN()}, nil, "Temperature is NaN", 0},
		{"top-k", newBigram(text), "a", Config{TopK: -1}, nil, "TopK is -1", 0},
		{"top-p", newBigram(text), "a", Config{TopP: 1.5}, nil, "TopP is 1.5", 0},
		{"min-p", newBigram(text), "a", Config{MinP: 2}, nil, "MinP is 2", 0},
		{"typical-p", newBigram(text), "a", Config{TypicalP: -0.5}, nil, "TypicalP is -0.5", 0},
		{"penalty", newBigram(text), "a", Config{RepetitionPenalty: math.Inf(1)}, nil, "RepetitionPenalty is +Inf", 0},
		{"length", newBigram(text), "a", Config{MaxNewTokens: -3}, nil, "is -3", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ids, why, err := Generate(context.Background(), tt.d, letters(tt.prompt), tt.cfg, tt.on)
			if err == nil || !strings.Contains(err.Error(), tt.want) || why != StopFailed || len(ids) != tt.n {
				t.Errorf("%d tokens, %s, error %v; want %d, %s, %q", len(ids), why, err, tt.n, StopFailed, tt.want)
			}
		})
	}
}

func TestSeeds(t *testing.T) {
	draw := func(seed int64) string {
		ids, _, err := Generate(context.Background(), newBigram(text), letters("a"), Config{MaxNewTokens: 60, Temperature: 1.2, TopK: 12, TopP: 0.95, Seed: seed}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return spell(ids)
	}
	seen := map[string]bool{}
	for seed := range int64(5) {
		a := draw(seed)
		if b := draw(seed); a != b {
			t.Errorf("seed %d: %q, then %q", seed, a, b)
		}
		if seen[a] {
			t.Errorf("seed %d repeats another: %q", seed, a)
		}
		seen[a] = true
	}
}

// TestDistribution draws 20,000 single tokens and holds their frequencies
// against the probabilities: 5 standard deviations, and nothing dropped drawn.
func TestDistribution(t *testing.T) {
	d := newBigram(text)
	cfg := Config{Temperature: 0.8, TopP: 0.9}
	chain, err := Processors(cfg)
	if err != nil {
		t.Fatal(err)
	}
	logits := slices.Clone(d.table[letters("e")[0]])
	draw := newDrawer(Config{Temperature: 0.8, TopP: 0.9, Seed: 3}, chain)
	const n = 20000
	counts := make([]float64, len(logits))
	for range n {
		id, err := draw.next(nil, logits)
		if err != nil {
			t.Fatal(err)
		}
		counts[id]++
	}
	chain.Process(nil, logits)
	for i, p := range Softmax(nil, logits) {
		p := float64(p)
		if diff := math.Abs(counts[i] - n*p); diff > 5*math.Sqrt(n*p*(1-p)) {
			t.Errorf("%q drawn %g times of %d at probability %g", alphabet[i], counts[i], n, p)
		}
	}
}

// TestRepetitionPenalty: with a strong penalty greedy decoding does not repeat
// a token while another is left.
func TestRepetitionPenalty(t *testing.T) {
	d := newBigram(text)
	for i := range d.table {
		for j := range d.table[i] {
			d.table[i][j] += 10 // all positive, so that the penalty divides
		}
	}
	ids, _, err := Generate(context.Background(), d, letters("a"), Config{MaxNewTokens: 20, RepetitionPenalty: 1000}, nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 20 {
		t.Errorf("%d different tokens of 20", n)
	}
}

func FuzzProcessors(f *testing.F) {
	f.Add([]byte("hello gophers"), 0.7, 5, 0.9, 0.1, 0.8, 1.2)
	f.Add([]byte{0, 0, 0, 255}, 1.0, 0, 0.0, 1.0, 1.0, 0.0)
	f.Add([]byte{9}, 1e-30, 1, 1e-9, 0.5, 1e-9, 1e30)
	f.Fuzz(func(t *testing.T, b []byte, temperature float64, k int, p, minP, typical, penalty float64) {
		chain, err := Processors(Config{Temperature: temperature, TopK: k, TopP: p, MinP: minP, TypicalP: typical, RepetitionPenalty: penalty})
		if err != nil || len(b) == 0 || temperature < 1e-3 || penalty > 1e6 || penalty != 0 && penalty < 1e-6 {
			return
		}
		logits := make([]float32, len(b))
		for i, x := range b {
			logits[i] = float32(x)/8 - 16
		}
		chain.Process([]int32{0, -1, 1 << 30}, logits)
		sum := 0.0
		for _, q := range Softmax(nil, logits) {
			sum += float64(q)
		}
		if math.Abs(sum-1) > 1e-5 {
			t.Errorf("probabilities sum to %g", sum)
		}
	})
}

func BenchmarkDraw32k(b *testing.B) {
	cfg := Config{Temperature: 0.8, TopK: 50, TopP: 0.95, RepetitionPenalty: 1.1}
	chain, err := Processors(cfg)
	if err != nil {
		b.Fatal(err)
	}
	logits := make([]float32, 32000)
	for i := range logits {
		logits[i] = float32(i*7919%32000) / 3000
	}
	d := newDrawer(cfg, chain)
	for b.Loop() {
		if _, err := d.next([]int32{1, 2, 3}, logits); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleGenerate() {
	ids, why, err := Generate(context.Background(), newBigram(text), letters("tog"), Config{MaxNewTokens: 8, EOS: end}, nil)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%q %s\n", spell(ids), why)
	// Output: "opher go" length
}
