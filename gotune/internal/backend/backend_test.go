package backend

import (
	"os"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
)

// Each backend of this machine multiplies two matrices.
func TestOpen(t *testing.T) {
	for _, name := range []string{CPU, Go} {
		t.Run(name, func(t *testing.T) {
			b, err := Open(name)
			if err != nil {
				t.Fatal(err)
			}
			e, err := graph.NewExec(b, func(x *graph.Node) *graph.Node { return graph.Dot(x, x).Product() })
			if err != nil {
				t.Fatal(err)
			}
			out, err := e.Call1([][]float32{{1, 2}, {3, 4}})
			if err != nil {
				t.Fatal(err)
			}
			got := out.Value().([][]float32)
			if want := [2][2]float32{{7, 10}, {15, 22}}; got[0][0] != want[0][0] || got[0][1] != want[0][1] || got[1][0] != want[1][0] || got[1][1] != want[1][1] {
				t.Errorf("square = %v, want %v", got, want)
			}
			again, err := Open(name)
			if err != nil || again != b {
				t.Errorf("second Open = %v, %v, want the first backend", again, err)
			}
			if got := Describe(b).Name; got != name {
				t.Errorf("Describe = %q, want %q", got, name)
			}
		})
	}
}

func TestOpenUnknown(t *testing.T) {
	if _, err := Open("tpu"); err == nil {
		t.Error("Open(tpu) succeeded")
	}
}

func TestAddXLAFlagsKeepsUsers(t *testing.T) {
	t.Setenv("XLA_FLAGS", "--xla_a=1")
	if err := addXLAFlags("--xla_a=2", "--xla_b=3"); err != nil {
		t.Fatal(err)
	}
	if got, want := os.Getenv("XLA_FLAGS"), "--xla_a=1 --xla_b=3"; got != want {
		t.Errorf("XLA_FLAGS = %q, want %q", got, want)
	}
}
