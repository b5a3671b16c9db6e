package quant

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// Weights read a piece at a time give the codes and scales of the same weights in
// memory, in the room that was lent, whatever the block and however the end falls.
func TestQuantizeFromEqualsMemory(t *testing.T) {
	for _, n := range []int{1, 63, 64, 4097, 200_003, 300_000} {
		w := make([]float32, n)
		for i := range w {
			w[i] = float32(i%977-488) / 300
		}
		for _, dt := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
			x, err := safetensors.FromFloat32("w", []int{n}, w, dt)
			if err != nil {
				t.Fatal(err)
			}
			for _, block := range []int{32, 64, 4096} {
				want, err := QuantizeTensor(NF4, x, block, false)
				if err != nil {
					t.Fatal(err)
				}
				room := Room{make([]byte, n), make([]float32, n)}
				got, err := QuantizeFrom(room, NF4, x.Spec(), bytes.NewReader(x.Data), block, false)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.Codes, want.Codes) || !slices.Equal(got.Absmax, want.Absmax) || got.DType != want.DType {
					t.Errorf("%d values of %s in blocks of %d differ", n, dt, block)
				}
				if &got.Codes[0] != &room.Codes[0] || &got.Absmax[0] != &room.Absmax[0] {
					t.Errorf("%d values of %s: the room was not used", n, dt)
				}
			}
		}
	}
}

// A file that ends early, as one that is cut off while it is read, is an error
// that says where.
func TestQuantizeFromShortFile(t *testing.T) {
	spec := safetensors.Spec{Name: "w", DType: safetensors.BF16, Shape: []int{1000, 1000}}
	_, err := QuantizeFrom(Room{}, NF4, spec, io.NewSectionReader(strings.NewReader("short"), 0, 5), 64, false)
	if err == nil || !strings.Contains(err.Error(), "of 2000000") || !strings.Contains(err.Error(), `"w"`) {
		t.Errorf("error %v", err)
	}
}
