package batch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// words is an Encoder over blank-separated words: "<s>" is 1, "</s>" is 2, and
// each further word's id is 10 plus its length. Like Llama's, it puts <s> first.
type words struct{ noEOS bool }

func (words) Encode(text string, addSpecial bool) []int32 {
	var ids []int32
	if addSpecial {
		ids = append(ids, 1)
	}
	for _, w := range strings.Fields(text) {
		switch w {
		case "<s>":
			ids = append(ids, 1)
		case "</s>":
			ids = append(ids, 2)
		default:
			ids = append(ids, 10+int32(len(w)))
		}
	}
	return ids
}
func (words) BOS() (int32, bool)   { return 1, true }
func (w words) EOS() (int32, bool) { return 2, !w.noEOS }

const (
	turn  = "<s> [INST] hi [/INST] hello you </s>"
	turn2 = "<s> [INST] a [/INST] b </s> <s> [INST] cc [/INST] dd </s>"
)

func TestTokenizeLabels(t *testing.T) {
	const x = Ignore
	for _, tt := range []struct {
		name        string
		text        string
		o           Options
		ids, labels []int32
	}{
		{"one BOS, EOS learned", turn, Options{}, []int32{1, 16, 12, 17, 15, 13, 2}, []int32{1, 16, 12, 17, 15, 13, 2}},
		{"text without BOS gets one", "hi </s>", Options{}, []int32{1, 12, 2}, []int32{1, 12, 2}},
		{"turns keep their own BOS", turn2, Options{}, []int32{1, 16, 11, 17, 11, 2, 1, 16, 12, 17, 12, 2}, []int32{1, 16, 11, 17, 11, 2, 1, 16, 12, 17, 12, 2}},
		{"parity: double BOS, no EOS", turn, Options{Parity: true}, []int32{1, 1, 16, 12, 17, 15, 13, 2}, []int32{1, 1, 16, 12, 17, 15, 13, x}},
		{"parity: every EOS", turn2, Options{Parity: true}, []int32{1, 1, 16, 11, 17, 11, 2, 1, 16, 12, 17, 12, 2}, []int32{1, 1, 16, 11, 17, 11, x, 1, 16, 12, 17, 12, x}},
		{"append", "hi", Options{AppendEOS: true}, []int32{1, 12, 2}, []int32{1, 12, 2}},
		{"append once", "hi </s>", Options{AppendEOS: true}, []int32{1, 12, 2}, []int32{1, 12, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Tokenize(context.Background(), []string{tt.text}, words{}, tt.o, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := (Example{IDs: tt.ids, Labels: tt.labels}); !reflect.DeepEqual(s.Examples[0], want) {
				t.Errorf("got %v, want %v", s.Examples[0], want)
			}
		})
	}
}

func TestTokenizeCounts(t *testing.T) {
	s, err := Tokenize(context.Background(), []string{turn, turn2, "", "hi </s>"}, words{}, Options{MaxSeqLength: 7}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := *s
	got.Examples = nil
	// turn2 keeps 7 of 12 tokens, the first EOS among them.
	want := Set{Rows: 4, Clipped: 1, Skipped: 1, Tokens: 7 + 7 + 3, Supervised: 6 + 6 + 2, EOS: 3, Longest: 12}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestTokenizeRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		texts []string
		enc   words
		o     Options
		want  string // in the message
		noEOS bool
	}{
		{"no rows", nil, words{}, Options{}, "no rows", false},
		{"no EOS in the text", []string{"hi you"}, words{}, Options{}, "none of 1 rows", true},
		{"EOS clipped away", []string{turn, turn}, words{}, Options{MaxSeqLength: 4}, "raise MaxSeqLength", true},
		{"tokenizer without EOS", []string{turn}, words{noEOS: true}, Options{}, "has no end-of-sequence", true},
		{"only empty texts", []string{"", " "}, words{}, Options{}, "texts are empty", false},
		{"absurd limit", []string{turn}, words{}, Options{MaxSeqLength: 1}, "at least 2", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Tokenize(context.Background(), tt.texts, tt.enc, tt.o, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			var e *NoEOSError
			if errors.As(err, &e) != tt.noEOS {
				t.Errorf("error is a NoEOSError: %v, want %v", !tt.noEOS, tt.noEOS)
			}
		})
	}
	if _, err := Tokenize(context.Background(), []string{"hi you"}, words{}, Options{Parity: true}, nil); err != nil {
		t.Errorf("parity mode refused a data set without EOS: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Tokenize(ctx, []string{turn}, words{}, Options{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestCollate(t *testing.T) {
	const x = Ignore
	c := Collator{Buckets: []int{4, 6}, Pad: 9}
	b, err := c.Collate([]Example{
		{IDs: []int32{1, 5, 2}, Labels: []int32{1, 5, 2}},
		{IDs: []int32{1, 6, 2, 1, 7}, Labels: []int32{1, 6, 2, 1, 7}, Pieces: []int{3, 2}},
	}, 3)
	if err != nil {
		t.Fatal(err)
	}
	want := &Batch{B: 3, S: 6,
		IDs:       []int32{1, 5, 2, 9, 9, 9 /**/, 1, 6, 2, 1, 7, 9 /**/, 9, 9, 9, 9, 9, 9},
		Labels:    []int32{x, 5, 2, x, x, x /**/, x, 6, 2, x, 7, x /**/, x, x, x, x, x, x},
		Positions: []int32{0, 1, 2, 0, 0, 0 /**/, 0, 1, 2, 0, 1, 0 /**/, 0, 0, 0, 0, 0, 0},
		Segments:  []int32{1, 1, 1, 0, 0, 0 /**/, 1, 1, 1, 2, 2, 0 /**/, 0, 0, 0, 0, 0, 0},
	}
	if !reflect.DeepEqual(b, want) {
		t.Errorf("got\n%+v\nwant\n%+v", b, want)
	}
	if b.Tokens() != 8 || b.Supervised() != 5 {
		t.Errorf("%d tokens, %d supervised, want 8 and 5", b.Tokens(), b.Supervised())
	}
	if err := b.Check(10); err != nil {
		t.Error(err)
	}
	if err := b.Check(9); err == nil {
		t.Error("Check(9) accepted id 9")
	}
	for _, tt := range []struct {
		name string
		e    []Example
		rows int
	}{
		{"none", nil, 2},
		{"too many", make([]Example, 3), 2},
		{"too long", []Example{{IDs: make([]int32, 7), Labels: make([]int32, 7)}}, 1},
		{"labels missing", []Example{{IDs: make([]int32, 3)}}, 1},
		{"pieces too long", []Example{{IDs: make([]int32, 3), Labels: make([]int32, 3), Pieces: []int{2, 2}}}, 1},
		{"pieces too short", []Example{{IDs: make([]int32, 3), Labels: make([]int32, 3), Pieces: []int{2}}}, 1},
		{"negative piece", []Example{{IDs: make([]int32, 3), Labels: make([]int32, 3), Pieces: []int{4, -1}}}, 1},
	} {
		if _, err := c.Collate(tt.e, tt.rows); err == nil {
			t.Errorf("%s: accepted", tt.name)
		}
	}
}

func TestBuckets(t *testing.T) {
	for _, tt := range []struct {
		name    string
		lengths []int
		o       BucketOptions
		want    []int
	}{
		{"none", nil, BucketOptions{}, nil},
		{"one", []int{3}, BucketOptions{}, []int{32}},
		{"all alike", []int{30, 31, 32}, BucketOptions{}, []int{32}},
		{"two groups", []int{8, 8, 8, 64}, BucketOptions{Multiple: 8}, []int{8, 64}},
		{"gain too small", []int{64, 64, 64, 60}, BucketOptions{Multiple: 4}, []int{64}},
		{"worth their price", []int{8, 8, 64, 72, 80}, BucketOptions{Multiple: 8, Price: 8}, []int{8, 64, 72, 80}},
		{"too dear", []int{8, 8, 64, 72, 80}, BucketOptions{Multiple: 8, Price: 100}, []int{8, 80}},
		{"at most two", []int{8, 16, 24, 200}, BucketOptions{Multiple: 8, Most: 2}, []int{24, 200}},
	} {
		if got := Buckets(tt.lengths, tt.o); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestBucketsOptimal compares with every choice of three buckets.
func TestBucketsOptimal(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		lengths := make([]int, 12)
		for i := range lengths {
			lengths[i] = 1 + rng.IntN(40)
		}
		cost := func(buckets ...int) int {
			sum := 0
			for _, n := range lengths {
				for _, b := range buckets {
					if n <= b {
						sum += b
						break
					}
				}
			}
			return sum
		}
		last := slices.Max(lengths)
		best := cost(last)
		for a := 1; a < last; a++ {
			for b := a; b < last; b++ {
				best = min(best, cost(a, b, last))
			}
		}
		got := Buckets(lengths, BucketOptions{Multiple: 1, Most: 3, Gain: 1e-9})
		if cost(got...) != best {
			t.Errorf("Buckets(%v) = %v costs %d, best %d", lengths, got, cost(got...), best)
		}
	}
}

func TestOrder(t *testing.T) {
	lengths := make([]int, 97)
	for i := range lengths {
		lengths[i] = 1 + i*7%31
	}
	seen := map[string]string{}
	for _, group := range []bool{false, true} {
		for seed := range int64(3) {
			for epoch := range 3 {
				a, err := Order(lengths, 8, group, seed, epoch)
				if err != nil {
					t.Fatal(err)
				}
				b, _ := Order(lengths, 8, group, seed, epoch)
				if !slices.Equal(a, b) {
					t.Errorf("seed %d epoch %d: two orders", seed, epoch)
				}
				what := fmt.Sprintf("group %v seed %d epoch %d", group, seed, epoch)
				if other, ok := seen[fmt.Sprint(a)]; ok {
					t.Errorf("%s has the order of %s", what, other)
				}
				seen[fmt.Sprint(a)] = what
				c := slices.Clone(a)
				slices.Sort(c)
				for i, v := range c {
					if v != i {
						t.Fatalf("%s is not a permutation: %v", what, a)
					}
				}
				if group && lengths[a[0]] != slices.Max(lengths) {
					t.Errorf("%s does not begin with the longest", what)
				}
			}
		}
	}
	if _, err := Order(lengths, 0, true, 0, 0); err == nil {
		t.Error("batch size 0 accepted")
	}
}

// TestPermutationFixed pins the documented generator: a change would break the
// resumption of old runs.
func TestPermutationFixed(t *testing.T) {
	if got, want := Permutation(8, 42, 1), []int{7, 2, 0, 6, 5, 3, 4, 1}; !slices.Equal(got, want) {
		t.Errorf("Permutation(8, 42, 1) = %v, want %v", got, want)
	}
}

func TestPackRefuses(t *testing.T) {
	ok := []Example{{IDs: []int32{1, 2}, Labels: []int32{1, 2}}}
	for _, tt := range []struct {
		name string
		e    []Example
		o    PackOptions
	}{
		{"unknown", ok, PackOptions{Strategy: "ffd", Length: 4}},
		{"no length", ok, PackOptions{}},
		{"nothing full", ok, PackOptions{Strategy: ConstantLength, Length: 4}},
		{"no examples", nil, PackOptions{Length: 4}},
		{"labels missing", []Example{{IDs: []int32{1}}}, PackOptions{Length: 4}},
	} {
		if _, _, err := Pack(tt.e, tt.o); err == nil {
			t.Errorf("%s: accepted", tt.name)
		}
	}
	rows, _, err := Pack([]Example{ok[0], ok[0]}, PackOptions{Length: 4, CrossDocuments: true})
	if err != nil || len(rows) != 1 || rows[0].Pieces != nil {
		t.Errorf("CrossDocuments: %v, %v", rows, err)
	}
	rows, _, err = Pack(ok, PackOptions{Strategy: ConstantLength, Length: 3, EOS: 7, MaskEOS: true})
	if err != nil || !slices.Equal(rows[0].Labels, []int32{1, 2, Ignore}) || !slices.Equal(rows[0].IDs, []int32{1, 2, 7}) {
		t.Errorf("MaskEOS: %v, %v", rows, err)
	}
	if !slices.Equal(ok[0].IDs, []int32{1, 2}) {
		t.Error("Pack changed its input")
	}
}

// FuzzPack checks for all strategies that rows fit, that pieces sum up, and
// that no token appears or vanishes uncounted.
func FuzzPack(f *testing.F) {
	f.Add([]byte{5, 2, 3, 1}, uint8(4))
	f.Add([]byte{0, 0, 200, 130, 64, 63}, uint8(128))
	f.Fuzz(func(t *testing.T, lens []byte, length uint8) {
		var examples []Example
		total := 0
		for _, n := range lens {
			ids := make([]int32, n)
			for i := range ids {
				ids[i] = int32(total + i)
			}
			total += int(n)
			examples = append(examples, Example{IDs: ids, Labels: ids})
		}
		for _, s := range []Packing{BFD, BFDSplit, Wrapped} {
			rows, dropped, err := Pack(examples, PackOptions{Strategy: s, Length: int(length)})
			if err != nil {
				if length >= 2 && total > 0 {
					t.Fatal(err)
				}
				continue
			}
			seen := map[int32]bool{}
			for _, r := range rows {
				sum := 0
				for _, p := range r.Pieces {
					sum += p
				}
				if len(r.IDs) > int(length) || sum != len(r.IDs) || !slices.Equal(r.IDs, r.Labels) {
					t.Fatalf("%s: row of %d tokens, pieces %v, length %d", s, len(r.IDs), r.Pieces, length)
				}
				for _, id := range r.IDs {
					if seen[id] {
						t.Fatalf("%s: token %d twice", s, id)
					}
					seen[id] = true
				}
			}
			if len(seen)+dropped != total || s != BFD && dropped != 0 {
				t.Fatalf("%s: %d tokens in rows, %d dropped, of %d", s, len(seen), dropped, total)
			}
		}
	})
}

func ExampleTokenize() {
	texts := []string{"<s> [INST] hi [/INST] hello you </s>"}
	for _, parity := range []bool{false, true} {
		s, err := Tokenize(context.Background(), texts, words{}, Options{Parity: parity}, nil)
		if err != nil {
			panic(err)
		}
		fmt.Println(s.Examples[0].IDs, "learns", s.Supervised, "of which EOS", s.EOS)
	}
	// Output:
	// [1 16 12 17 15 13 2] learns 6 of which EOS 1
	// [1 1 16 12 17 15 13 2] learns 6 of which EOS 0
}

func ExampleCollator() {
	examples := []Example{
		{IDs: []int32{1, 5, 2}, Labels: []int32{1, 5, 2}},
		{IDs: []int32{1, 6, 7, 8, 2}, Labels: []int32{1, 6, 7, 8, 2}},
	}
	c := Collator{Buckets: Buckets(Lengths(examples), BucketOptions{Multiple: 4})}
	b, err := c.Collate(examples, 2)
	if err != nil {
		panic(err)
	}
	fmt.Println(b.B, b.S, b.Tokens(), b.Supervised())
	// Output: 2 8 8 6
}
