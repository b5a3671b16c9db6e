package engine

import (
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/layerwise"
	checkpoint "github.com/gotune/gotune/gotune/internal/model"
)

// Llama-2-7B at the walkthrough's settings: what the 80 GB of an H100 hold, a T4
// must compute again.
func TestMemoryPolicy(t *testing.T) {
	c := &checkpoint.Config{HiddenSize: 4096, IntermediateSize: 11008, NumLayers: 32, NumHeads: 32, NumKVHeads: 32, HeadDim: 128, VocabSize: 32000}
	// By hand: six values of width 4,096 and two of 11,008 in two bytes, and 32
	// statistics in four, for each token and layer.
	if got, want := residuals(c, 4096, 2), int64(32*4096*((6*4096+2*11008)*2+32*4)); got != want {
		t.Errorf("residuals = %d, want %d", got, want)
	}
	for _, tt := range []struct {
		name, setting string
		free          int64
		want          string
		kept          [2]int // of 32 layers, from … to
	}{
		{"H100", "auto", 70 << 30, layerwise.MemorySave, [2]int{0, 0}},
		{"T4", "auto", 10 << 30, layerwise.MemoryRecompute, [2]int{5, 25}},
		{"nothing to spare", "auto", 2 << 30, layerwise.MemoryRecompute, [2]int{0, 0}},
		{"T4, kept all the same", "off", 10 << 30, layerwise.MemorySave, [2]int{0, 0}},
		{"H100, again all the same", "on", 70 << 30, layerwise.MemoryRecompute, [2]int{0, 0}},
		{"unknown", "auto", 0, layerwise.MemorySave, [2]int{0, 0}},
	} {
		got, kept, fit := memoryPolicy(tt.setting, c, 4, 1024, 2, tt.free)
		if kept < tt.kept[0] || kept > tt.kept[1] {
			t.Errorf("%s: %d layers kept, want %d to %d", tt.name, kept, tt.kept[0], tt.kept[1])
		}
		if got != tt.want || !strings.Contains(fit, "activations") {
			t.Errorf("%s: %s (%s), want %s", tt.name, got, fit, tt.want)
		}
	}
}
