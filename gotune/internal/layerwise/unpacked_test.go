package layerwise

import (
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// A trainer unpacks 4-bit layers where the device has room to spare, trains on as
// before, bit for bit, and the last one that asked gives the memory back.
func TestUnpackedWhereThereIsRoom(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{Quant: QuantNF4, ResidentBytes: -1})
	b.opt.ResidentBytes = 0 // as on a GPU: neither forbidden nor done by Load
	defer func() { b.dev.limit = 0 }()
	a := randomAdapter(t, b, "q_proj", "v_proj")
	micro := []*batch.Batch{packedRows(t, b.cfg.VocabSize, 128, []int{128}, []int{100})}
	losses := func(tr *Trainer) (out []float64) {
		for range 3 {
			res, err := tr.Step(micro, 1e-2)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, res.Loss)
		}
		return out
	}
	choose := func(limit int64, o TrainOptions) (*Trainer, *Fit) {
		b.dev.limit = limit
		tr := newTrainer(t, b, a, o)
		f, err := tr.Choose(micro, nil)
		if err != nil {
			t.Fatal(err)
		}
		return tr, f
	}
	o := TrainOptions{Dropout: 0.1, Seed: 3}
	packed, f := choose(0, o)
	if f.Unpacked != 0 || b.Resident() != 0 {
		t.Fatalf("%d bytes unpacked on a device without an account of its memory", b.Resident())
	}
	want := losses(packed)
	need := b.bytes + b.residentBytes() + packed.estimate(micro)
	if _, f = choose(need, o); f.Unpacked != 0 {
		t.Errorf("unpacked with nothing to spare: %s", f)
	}
	first, f := choose(2*need, o)
	if f.Unpacked != b.residentBytes() || b.Resident() != f.Unpacked {
		t.Fatalf("%d bytes unpacked, want %d: %s", f.Unpacked, b.residentBytes(), f)
	}
	for i, v := range losses(first) {
		if v != want[i] {
			t.Errorf("step %d: loss %v unpacked, %v packed", i, v, want[i])
		}
	}
	second, _ := choose(2*need, o)
	first.Free()
	if b.Resident() == 0 {
		t.Error("packed again while a trainer uses unpacked layers")
	}
	losses(second)
	second.Free()
	if b.Resident() != 0 {
		t.Errorf("%d bytes unpacked when nobody trains", b.Resident())
	}
	if lean, _ := choose(2*need, TrainOptions{Memory: MemoryRecompute}); lean.unpacked {
		t.Error("unpacked where the least memory was asked for")
	}
}
