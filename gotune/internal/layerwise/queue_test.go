package layerwise

import (
	"bytes"
	"testing"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// A run whose calls are queued, as on a GPU, ends with the values of one whose calls
// are awaited, bit for bit: nothing is read, freed or given away too early.
func TestQueuedRunEqualsAwaited(t *testing.T) {
	const name = "t4_gqa_all_cosine_nf4_nested"
	var want trajectory
	oracle.JSON(t, &want, "lora", name, "trajectory.json")
	b := loadDir(t, oracle.Dir(t, want.Model), LoadOptions{Quant: QuantNF4, DoubleQuant: true, ResidentBytes: -1})
	steps := goldenSteps(t, "lora", name, "batches.safetensors")[:8]
	p, err := cuda.Find(cuda.CPU)
	if err != nil {
		t.Fatal(err)
	}
	for _, memory := range []string{MemorySave, MemoryRecompute} {
		run := func() []byte {
			tr := newTrainer(t, b, loadAdapter(t, "lora", name, "init"), TrainOptions{Dropout: 0.1, Seed: 7, MaxGradNorm: 0.3, Memory: memory})
			takeSteps(t, tr, steps)
			state, err := tr.State()
			if err != nil {
				t.Fatal(err)
			}
			var all []byte
			for _, s := range state {
				all = append(all, s.Data...)
			}
			return all
		}
		cuda.AwaitCalls(true)
		awaited := run()
		if err := cuda.QueueCalls(p.Path); err != nil {
			t.Fatal(err)
		}
		cuda.AwaitCalls(false)
		queued := run()
		cuda.AwaitCalls(true) // for the tests behind: GoMLX's own executor must wait on a CPU
		if !bytes.Equal(awaited, queued) {
			t.Errorf("%s: the queued run ends elsewhere", memory)
		}
	}
}
