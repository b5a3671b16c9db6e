package engine

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune"
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
		length        int
		free          int64
		want          string
		kept          [2]int // of 32 layers, from … to
		chunk         int
	}{
		{"H100", "auto", 1024, 70 << 30, layerwise.MemorySave, [2]int{0, 0}, 0},
		{"T4", "auto", 1024, 10 << 30, layerwise.MemoryRecompute, [2]int{5, 25}, 0},
		{"nothing to spare", "auto", 1024, 2 << 30, layerwise.MemoryRecompute, [2]int{0, 0}, 0},
		{"T4, kept all the same", "off", 1024, 10 << 30, layerwise.MemorySave, [2]int{0, 0}, 0},
		{"H100, again all the same", "on", 1024, 70 << 30, layerwise.MemoryRecompute, [2]int{0, 0}, 0},
		{"by its other name", "recompute", 1024, 70 << 30, layerwise.MemoryRecompute, [2]int{0, 0}, 0},
		{"to the host", "offload", 1024, 70 << 30, layerwise.MemoryOffload, [2]int{0, 0}, 4096},
		{"long rows", "offload", 8192, 70 << 30, layerwise.MemoryOffload, [2]int{0, 0}, 4096},
		{"unknown", "auto", 1024, 0, layerwise.MemorySave, [2]int{0, 0}, 0},
	} {
		got, kept, chunk := memoryPolicy(tt.setting, c, 4, tt.length, 2, tt.free)
		if kept < tt.kept[0] || kept > tt.kept[1] || got != tt.want || chunk != tt.chunk {
			t.Errorf("%s: %s, %d layers kept, chunks of %d; want %s, %d to %d, %d", tt.name, got, kept, chunk, tt.want, tt.kept[0], tt.kept[1], tt.chunk)
		}
	}
}

// Attention's outputs of 7B shapes at B=4 and S=1,024 take 1 GiB.
func TestKeepAttention(t *testing.T) {
	c := &checkpoint.Config{NumLayers: 32, NumHeads: 32, HeadDim: 128}
	for _, tt := range []struct {
		setting string
		free    int64
		want    bool
	}{{"auto", 0, true}, {"recompute", 64 << 30, false}, {"offload", 12 << 30, true}, {"offload", 3 << 30, false}} {
		if got := keepAttention(tt.setting, c, 4, 1024, 2, tt.free); got != tt.want {
			t.Errorf("%s with %d free: %v", tt.setting, tt.free, got)
		}
	}
}

// The doctor says where compiled programs are kept, how many, and how to change that.
func TestCheckPrograms(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "programs")
	for _, tt := range []struct {
		set   string
		ok    bool
		found string
	}{{dir, true, "0 of 0.0 MiB"}, {"off", true, "not kept"}, {"relative", false, "absolute"}} {
		t.Setenv(cuda.EnvPrograms, tt.set)
		f := checkPrograms()
		if f.OK != tt.ok || !strings.Contains(f.Found, tt.found) || !strings.Contains(f.Found+f.Next, cuda.EnvPrograms) {
			t.Errorf("%s=%s: %+v", cuda.EnvPrograms, tt.set, f)
		}
	}
}

// A run that can't fit is refused with what is held, how much is missing, and what to
// change.
func TestRefusal(t *testing.T) {
	fits := &layerwise.Fit{Batch: 4, Length: 1024, Peak: 9 << 30, Limit: 15 << 30}
	if err := refusal("run1", fits); err != nil {
		t.Errorf("a step that fits is refused: %v", err)
	}
	large := &layerwise.Fit{Batch: 16, Length: 4096, Memory: layerwise.MemorySave, Weights: 4 << 30, Saved: 40 << 30, Peak: 50 << 30, Limit: 15 << 30}
	err := refusal("run1", large)
	if !errors.Is(err, gotune.ErrMemory) {
		t.Fatalf("%v, want a refusal for lack of memory", err)
	}
	for _, want := range []string{"run1", "B=16×S=4096", "50.0 GiB", "weights 4.00 GiB", "35.3 GiB are missing", "BatchSize to about 4", "GradientCheckpointing", "offload"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

// One more length of batches costs a few thousand tokens of a 7B model on a T4, ten times as
// many on an H200, and nothing is said of a CPU.
func TestBucketPrice(t *testing.T) {
	const parameters = 6_738_415_616
	t4, h200 := bucketPrice(&cuda.Device{Major: 7, Minor: 5, SMs: 40}, parameters), bucketPrice(&cuda.Device{Major: 9, SMs: 132}, parameters)
	if t4 < 1000 || t4 > 4000 || h200 < 10*t4 || h200 > 50_000 || bucketPrice(nil, parameters) != 0 {
		t.Errorf("%d tokens on a T4, %d on an H200, %d on a CPU", t4, h200, bucketPrice(nil, parameters))
	}
}
