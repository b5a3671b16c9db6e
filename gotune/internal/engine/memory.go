package engine

import (
	"fmt"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	checkpoint "github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// residuals estimates the bytes that a training step keeps from forward to
// backward when nothing is computed again, for T tokens in a batch: of every
// layer its input and the middle of the residual stream [T, D], q and the
// attention's output [T, H·d], k and v [T, K·d], gate and up [T, F], in the
// compute type, and the softmax's statistics, float32 [T, H].
func residuals(c *checkpoint.Config, tokens, elementSize int) int64 {
	perToken := 2*c.HiddenSize + 2*c.NumHeads*c.HeadDim + 2*c.NumKVHeads*c.HeadDim + 2*c.IntermediateSize
	return int64(c.NumLayers) * int64(tokens) * int64(perToken*elementSize+4*c.NumHeads)
}

// workspace estimates what a step needs besides: one layer unpacked, its
// gradients, attention scores of one layer where they are made whole, and a part
// of the logits with its gradient.
func workspace(c *checkpoint.Config, batch, length, elementSize int) int64 {
	tokens := int64(batch * length)
	layer := int64(0)
	for _, p := range checkpoint.Projections {
		out, in := c.ProjShape(p)
		layer += int64(out) * int64(in) * int64(elementSize)
	}
	activations := tokens * int64(4*c.IntermediateSize+8*c.HiddenSize) * 4
	scores := int64(batch*c.NumHeads) * int64(length) * int64(length) * 4 * 2
	logits := int64(512*c.VocabSize) * 4 * 2
	return layer + activations + scores + logits
}

// memoryPolicy is what a run's setting asks for. "auto" begins with an estimate: the
// residuals of as many layers as should fit into the device's free memory with a tenth to
// spare, beside what a step needs in any case. The plan of the step, which compiles
// programs, then corrects it (layerwise.Trainer.Choose); an estimate that is about right
// saves compiling programs that are not used.
func memoryPolicy(setting string, c *checkpoint.Config, batch, length, elementSize int, free int64) (policy string, kept, chunk int) {
	switch setting {
	case "off", "save":
		return layerwise.MemorySave, 0, 0
	case "on", "recompute":
		return layerwise.MemoryRecompute, 0, layerwise.ChunkFor(batch * length)
	case "offload":
		return layerwise.MemoryOffload, 0, layerwise.PartsFor(batch * length)
	}
	keep := residuals(c, batch*length, elementSize)
	work := workspace(c, batch, length, elementSize)
	if free <= 0 || keep+work <= free-free/10 {
		return layerwise.MemorySave, 0, 0
	}
	inputs := int64(batch*length) * int64(c.HiddenSize*elementSize) // of a layer that is computed again
	each := keep/int64(c.NumLayers) - inputs
	if left := free - free/10 - work - inputs*int64(c.NumLayers); left > 0 {
		kept = int(min(left/each, int64(c.NumLayers-1)))
	}
	return layerwise.MemoryRecompute, kept, layerwise.ChunkFor(batch * length)
}

// keepAttention says whether layers that are computed again keep their attention's
// output: not where "recompute" asks for the least on the device, and in the host's memory
// where a quarter of what is free there holds it.
func keepAttention(setting string, c *checkpoint.Config, batch, length, elementSize int, hostFree int64) bool {
	switch setting {
	case "auto":
		return true
	case "offload":
		return int64(batch*length)*int64(c.NumHeads*c.HeadDim*elementSize)*int64(c.NumLayers) < hostFree/4
	}
	return false
}

// prove plans the largest step before the first: it compiles that step's programs, puts
// what the step takes into the run's record, and refuses a run that can't fit. With
// "auto" the trainer takes the policy that computes the least again and fits.
func (w *worker) prove(t *layerwise.Trainer) error {
	micro, err := w.plan.Largest()
	if err != nil {
		return err
	}
	n := int64(0)
	each := func(program string) {
		n++
		w.call.progress(wire.Progress{Task: "compile", Done: n, Unit: "programs", Note: program})
	}
	find := t.Fit
	if w.config.GradientCheckpointing == layerwise.MemoryAuto {
		find = t.Choose
	}
	fit, err := find(micro, each)
	if err != nil {
		return err
	}
	// In the record only: it is no news for whoever watches the cell.
	w.update(func(i *gotune.RunInfo) {
		i.Fit = fit.String()
		i.Notes = appendNew(i.Notes, "memory at the peak of the largest step: "+fit.Account())
		if on := t.Base().RunsOn(); on != "" {
			i.Notes = appendNew(i.Notes, on)
		}
	})
	if free := cuda.Host().AvailableBytes; free > 0 && fit.Host > free {
		w.note(fmt.Sprintf("the host has %s free for %s of layers' inputs: a smaller BatchSize or MaxSeqLength takes less", size(free), size(fit.Host)))
	}
	if fit.OK() && !fit.Roomy() {
		w.note("little of the device's memory is left: if it is too cut up for a large block the run ends with an error; a smaller BatchSize or MaxSeqLength leaves more")
	}
	return refusal(w.config.Name, fit)
}

// refusal is the error of a run whose largest step does not fit, nil for one that fits.
func refusal(run string, fit *layerwise.Fit) error {
	if fit.OK() {
		return nil
	}
	return &gotune.Error{Kind: gotune.KindMemory, Op: "train", Object: fmt.Sprintf("run %s", quote(run)),
		Found:  fmt.Sprintf("a step of B=%d×S=%d takes %s: %s", fit.Batch, fit.Length, size(fit.Peak), fit.Account()),
		Wanted: fmt.Sprintf("at most %s of the device's %s: %s are missing", size(fit.Peak-fit.Missing()), size(fit.Limit), size(fit.Missing())),
		Next:   fit.Advice()}
}

// peak is the most device memory that was in use, by XLA's account, 0 without one.
func (l *model) peak() int64 {
	if l.info.Backend != backend.CUDA {
		return 0
	}
	be, err := backend.Open(backend.CUDA)
	if err != nil {
		return 0
	}
	m, err := backend.Memory(be)
	if err != nil {
		return 0
	}
	return m.Peak
}

// size is a number of bytes as people read it.
func size(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// elementSize is the bytes of a value of the model's compute type.
func (l *model) elementSize() int {
	if l.info.ComputeDType == "float32" {
		return 4
	}
	return 2
}

// deviceFree is the GPU memory that is left at this moment, 0 where the device
// is the CPU, whose memory is not asked for ahead. XLA's own account counts, for of
// a pool that was taken at the start the driver shows only what is outside; where
// there is none the driver is asked.
func (l *model) deviceFree() int64 {
	if l.info.Backend != backend.CUDA {
		return 0
	}
	if be, err := backend.Open(backend.CUDA); err == nil {
		if m, err := backend.Memory(be); err == nil && m.Limit > 0 {
			return m.Limit - m.InUse
		}
	}
	gpus, err := cuda.Devices()
	if err != nil || len(gpus) == 0 {
		return 0
	}
	return gpus[0].FreeBytes
}
