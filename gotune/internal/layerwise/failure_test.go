package layerwise

import (
	"errors"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // graph code reads as formulas

	"github.com/gotune/gotune/gotune/internal/oracle"
)

func TestShortName(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{})
	kind := b.kind(0, geometry{b: 4, s: 1024, fused: true}, nil, 0.1, keepResiduals)
	for key, want := range map[string]string{
		b.prefix + "forward " + kind.key():                      "forward B4 S1024 fused",
		b.prefix + "head chunk T4096 C512":                      "head chunk T4096 C512",
		b.prefix + "update {Beta1:0.9 Beta2:0.999} clip 0.3":    "update",
		"unpack " + b.layers[0].groups[0].key() + b.dt.String(): "unpack",
	} {
		if got := shortName(key); got != want {
			t.Errorf("shortName(%q) = %q, want %q", key, got, want)
		}
	}
}

// Errors name the program, not its whole key; lack of memory is told apart and says
// what to change.
func TestFailures(t *testing.T) {
	full := errors.New("execute: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123456 bytes.\n" + strings.Repeat("pool ", 500))
	err := failure("run forward B4 S1024", full)
	if !errors.Is(err, ErrOutOfMemory) || !errors.Is(err, full) {
		t.Errorf("%v is not ErrOutOfMemory over its cause", err)
	}
	for _, want := range []string{"forward B4 S1024", "123456 bytes", "BatchSize", "MaxSeqLength", "GradientCheckpointing"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if n := len(err.Error()); n > 400 {
		t.Errorf("%d bytes of message", n)
	}
	if err := failure("run head", errors.New("INTERNAL")); errors.Is(err, ErrOutOfMemory) || !strings.Contains(err.Error(), "run head: INTERNAL") {
		t.Error(err)
	}
	d := deviceOf(openCPU(t))
	_, err = d.program("forward B4 q_proj:5,6;secret", []shapes.Shape{shapeOf(dtypes.Float32, 2), shapeOf(dtypes.Float32, 3)}, func(_ *Graph, in []*Node) []*Node {
		return []*Node{Add(in[0], in[1])}
	})
	if err == nil || !strings.HasPrefix(err.Error(), "layerwise: compile forward B4: ") || strings.Contains(err.Error(), "secret") {
		t.Errorf("a program that can't be built: %v", err)
	}
}
