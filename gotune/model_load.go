package gotune

import (
	"context"
	"fmt"
	"strings"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// Load reads the model, from the Hub if need be, quantizes its linear layers on
// the way in, and shows what it loaded and how it is held. Loading it again
// returns at once.
//
// Errors: ErrNotFound for a source or a weight that is not there, ErrConflict
// for a name in use, ErrInvalid for files that can't be right, ErrMemory,
// ErrNetwork, ErrAuth.
func (m Model) Load() (ModelInfo, error) { return m.LoadContext(inCell) }

// LoadContext is [Model.Load] for programs.
func (m Model) LoadContext(ctx context.Context) (ModelInfo, error) {
	m, err := m.Resolved()
	if err != nil {
		return ModelInfo{}, err
	}
	q := request{verb: wire.VerbModelLoad, what: "load " + quoted("model", m.Name), args: struct{ Model Model }{m}}
	return do(ctx, q, func(i ModelInfo) (string, string) {
		shape, held := i.facts(), i.tensors()
		return shape.html() + held.html(), shape.text() + held.text()
	})
}

// Unload frees the memory that the model holds. Its files stay, and so do runs
// and adapters trained on it; a verb that needs the model loads it again.
func (m Model) Unload() (StatusInfo, error) { return m.UnloadContext(inCell) }

// UnloadContext is [Model.Unload] for programs.
func (m Model) UnloadContext(ctx context.Context) (StatusInfo, error) {
	m, err := m.Resolved()
	if err != nil {
		return StatusInfo{}, err
	}
	q := request{verb: wire.VerbModelUnload, what: "unload " + quoted("model", m.Name), args: struct{ Model Model }{m}}
	return do(ctx, q, func(i StatusInfo) (string, string) {
		line := fmt.Sprintf("Model %s is unloaded; the engine still holds %s on the device.", m.Name, sizeText(i.DeviceBytes))
		return "<div>" + escape(line) + "</div>", plainText(line) + "\n"
	})
}

func (i ModelInfo) facts() table {
	revision := i.Model.Revision
	if i.Commit != "" {
		revision += " (" + i.Commit + ")"
	}
	q := i.Model.Quant
	how := q.Type
	switch {
	case q.Type == "none":
		how = "not quantized"
	case q.DoubleQuant:
		how = fmt.Sprintf("%s, blocks of %d, scales in 8 bits too", q.Type, q.BlockSize)
	case q.Type != "":
		how = fmt.Sprintf("%s, blocks of %d", q.Type, q.BlockSize)
	}
	if i.ComputeDType != "" {
		how += "; products in " + i.ComputeDType
	}
	t := i.Tokenizer
	tokenizer := ""
	if t.Kind != "" {
		tokenizer = fmt.Sprintf("%s, %s tokens, BOS %s, EOS %s, padding %s on the %s", t.Kind, countText(t.VocabSize), t.BOS, t.EOS, t.Pad, t.PaddingSide)
	}
	took := secondsText(i.Seconds)
	if i.Attached {
		took = "loaded before"
	}
	peak := ""
	if i.HostPeakBytes > 0 {
		peak = sizeText(i.HostPeakBytes) + " at most while loading"
	}
	return facts("Model "+i.Model.Name, "source", i.Model.Source, "revision", revision,
		"architecture", fmt.Sprintf("%s, %s, width %d, %s of %d (%d for keys and values), MLP %d, up to %s positions", i.Architecture,
			plural(i.Layers, "layer"), i.HiddenSize, plural(i.Heads, "head"), i.HeadDim, i.KVHeads, i.IntermediateSize, countText(i.MaxPositions)),
		"weights", fmt.Sprintf("%s, %s in files", paramsText(i.Params), sizeText(i.DiskBytes)),
		"held", fmt.Sprintf("%s on %s (%.2f bits a weight in all)", sizeText(i.DeviceBytes), i.Backend, 8*float64(i.DeviceBytes)/float64(max(1, i.Params))),
		"quantization", how, "host memory", peak, "tokenizer", tokenizer, "folder", i.Path, "time", took)
}

func (i ModelInfo) tensors() table {
	t := table{head: []string{"tensor", "shape", "in the file", "held as", "count", "weights", "memory"}, left: 4}
	for _, x := range i.Tensors {
		shape := strings.ReplaceAll(strings.Trim(fmt.Sprint(x.Shape), "[]"), " ", "×")
		t.rows = append(t.rows, []string{x.Name, shape, x.DType, x.HeldAs, countText(x.Count), countText(x.Params), sizeText(x.Bytes)})
	}
	return t
}
