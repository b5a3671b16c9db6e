package layerwise

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// packedRows holds rows of the documents whose lengths are given, padded to s.
func packedRows(t testing.TB, vocab, s int, pieces ...[]int) *batch.Batch {
	rng := rand.New(rand.NewPCG(6, 6))
	var rows []batch.Example
	for _, p := range pieces {
		e := batch.Example{Pieces: p}
		for _, n := range p {
			for range n {
				id := int32(rng.IntN(vocab))
				e.IDs, e.Labels = append(e.IDs, id), append(e.Labels, id)
			}
		}
		rows = append(rows, e)
	}
	bt, err := batch.Collator{Buckets: []int{s}}.Collate(rows, len(rows))
	if err != nil {
		t.Fatal(err)
	}
	return bt
}

// Packed rows on fused attention give the loss and gradients of plain attention
// with a mask over the whole row, in float32 and with grouped heads.
func TestPackedFusedEqualsPlain(t *testing.T) {
	dir := oracle.Dir(t, "llama", "gqa")
	plain := loadDir(t, dir, LoadOptions{})
	bt := packedRows(t, plain.cfg.VocabSize, 96, []int{50, 30, 16}, []int{5, 1, 20, 33}, []int{96})
	a, err := lora.New(lora.Config{R: 4, Alpha: 8, TargetModules: []string{"q_proj", "k_proj", "v_proj", "down_proj"}}, plain.cfg, 3)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 5))
	for _, m := range a.Modules {
		for i := range m.B {
			m.B[i] = float32(rng.NormFloat64()) * 0.05
		}
	}
	want := gradientOf(t, newTrainer(t, plain, a, TrainOptions{}), bt)
	fused := loadDir(t, dir, LoadOptions{})
	for _, no := range []map[string]string{nil, no(packedRagged)} {
		fused.choice = &attentionChoice{fused: plainFused{}, no: no}
		if m := fused.geometryOf(bt); !m.fused || (m.ragged != nil) != (no == nil) || m.biased == (no == nil) {
			t.Errorf("no %v: geometry %+v", no, m)
		}
		for _, o := range []TrainOptions{{Memory: MemorySave}, {Memory: MemoryRecompute}, {Memory: MemoryRecompute, Chunk: 100}} {
			got := gradientOf(t, newTrainer(t, fused, a, o), bt)
			for name, w := range want {
				near(t, fmt.Sprintf("no %v %+v %s", no, o, name), got[name], w, 1e-6, 1e-4)
			}
		}
	}
}

// Every token of a batch lies in one document's place, whole documents in their rows'
// length.
func TestRaggedHoldsEveryBatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	layouts := map[string]bool{}
	for range 300 {
		const b, s, q, k = 4, 1024, 64, 16
		bt := packedRows(t, 100, s, randomPieces(rng, b, s)...)
		r := raggedOf(bt, q, k)
		layouts[r.key()] = true
		room := r.rows * r.documents
		lengths, qs, ks := r.places[:room], r.places[room:2*room+r.rows], r.places[2*room+r.rows:]
		if r.rows*r.length != b*s || r.documents < 2 || len(qs) != room+r.rows || len(ks) != len(qs) {
			t.Fatalf("%s of %d places", r.key(), len(r.places))
		}
		at := 0
		for i := range qs {
			if int(qs[i]) != at*q || int(ks[i]) != at*k {
				t.Fatalf("document %d begins at %d and %d, want token %d", i, qs[i], ks[i], at)
			}
			if i >= room {
				continue
			}
			n := int(lengths[i])
			if n > r.length || n > 0 && at/s != (at+n-1)/s {
				t.Fatalf("document %d has %d tokens from %d in rows of %d", i, n, at, r.length)
			}
			for j := at + 1; j < at+n; j++ {
				if bt.Segments[j] != bt.Segments[at] {
					t.Fatalf("token %d is of another document than token %d", j, at)
				}
			}
			at += n
		}
		if at != b*s {
			t.Fatalf("%d tokens have a place, want %d", at, b*s)
		}
	}
	if len(layouts) > 4 {
		t.Errorf("%d layouts for one shape of batch, want few: %v", len(layouts), layouts)
	}
}

// randomPieces are rows of documents, a few of them padded.
func randomPieces(rng *rand.Rand, b, s int) (pieces [][]int) {
	for range b {
		var p []int
		for left := s; left > 0; {
			n := min(left, 1+rng.IntN(1+rng.IntN(s)))
			p, left = append(p, n), left-n
			if rng.IntN(12) == 0 {
				break
			}
		}
		pieces = append(pieces, p)
	}
	return pieces
}
