package layerwise

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// tightDevice is a backend whose calls of programs with certain names find no memory.
type tightDevice struct {
	compute.Backend
	refuses func(program string) bool
}

func (d *tightDevice) Builder(name string) compute.Builder {
	return &tightBuilder{d.Backend.Builder(name), d, name}
}

type tightBuilder struct {
	compute.Builder
	device *tightDevice
	name   string
}

func (b *tightBuilder) Compile() (compute.Executable, error) {
	e, err := b.Builder.Compile()
	return &tightProgram{e, b.device, b.name}, err
}

type tightProgram struct {
	compute.Executable
	device *tightDevice
	name   string
}

func (p *tightProgram) Execute(in []compute.Buffer, donate []bool, n compute.DeviceNum) ([]compute.Buffer, error) {
	if p.device.refuses != nil && p.device.refuses(p.name) {
		return nil, errors.New("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 881.56MiB with allocator GPU_0_bfc")
	}
	return p.Executable.Execute(in, donate, n)
}

// A step that finds no memory forwards or backwards is made again by leaner policies
// until one fits, with the losses and weights of a run that began with that one; the
// record says so once. The last failure of all is the run's.
func TestStepRetreats(t *testing.T) {
	ck, err := model.Open(oracle.Dir(t, "llama", "gqa"))
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	device := &tightDevice{Backend: openCPU(t)}
	b, err := Load(context.Background(), device, ck, LoadOptions{Quant: QuantNF4}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Free()
	b = deeper(b, 4)
	a := randomAdapter(t, b, "q_proj", "v_proj")
	micro := []*batch.Batch{packedRows(t, b.cfg.VocabSize, 64, []int{64}, []int{50})}
	train := func(tr *Trainer) (losses []float64, notes []string) {
		t.Helper()
		for range 4 {
			res, err := tr.Step(micro, 1e-2)
			if err != nil {
				t.Fatal(err)
			}
			if losses = append(losses, res.Loss); res.Note != "" {
				notes = append(notes, res.Note)
			}
		}
		return losses, notes
	}
	o := TrainOptions{Dropout: 0.1, Seed: 3, MaxGradNorm: 0.3}
	chosen := func() *Trainer {
		tr := newTrainer(t, b, a, o)
		if _, err := tr.Choose(micro, nil); err != nil {
			t.Fatal(err)
		}
		return tr
	}
	for _, tt := range []struct {
		program string
		fails   int // calls
		want    string
	}{
		{"forward", 1, "4 of 8 layers are computed again but for attention"},
		{"backward", 1, "4 of 8 layers"},
		{"backward", 3, "7 of 8 layers"},
		{"backward", 4, "8 of 8 layers are computed again but for attention"},
		{"head", 6, "8 of 8 layers are computed again, their inputs and attention's outputs in the host's memory"},
	} {
		left := tt.fails
		device.refuses = func(name string) bool {
			if left == 0 || !strings.HasPrefix(shortName(name), tt.program) {
				return false
			}
			left--
			return true
		}
		tr := chosen()
		got, notes := train(tr)
		if left != 0 || len(notes) != 1 || !strings.Contains(notes[0], tt.want) || !strings.Contains(notes[0], "Out of memory while trying to allocate 881.56MiB") {
			t.Errorf("%s fails %d times: %d left, notes %q, want one with %q", tt.program, tt.fails, left, notes, tt.want)
		}
		device.refuses = nil
		same := o
		same.Memory, same.Kept, same.KeepAttention, same.Chunk = tr.opt.Memory, tr.opt.Kept, tr.opt.KeepAttention, tr.opt.Chunk
		if want, _ := train(newTrainer(t, b, a, same)); !slices.Equal(got, want) {
			t.Errorf("%s fails %d times: losses %v, want those of %+v from the start, %v", tt.program, tt.fails, got, same, want)
		}
	}

	device.refuses = func(name string) bool { return strings.HasPrefix(shortName(name), "head") }
	if _, err := chosen().Step(micro, 1e-2); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("no policy fits: %v", err)
	}
	calls := 0
	device.refuses = func(name string) bool { calls++; return strings.HasPrefix(shortName(name), "head") }
	asked := o
	asked.Memory = MemorySave
	if _, err := newTrainer(t, b, a, asked).Step(micro, 1e-2); !errors.Is(err, ErrOutOfMemory) || calls > 12 {
		t.Errorf("a policy that was asked for: %v after %d calls, want the first failure", err, calls)
	}
	device.refuses = nil
}
