package layerwise

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/quant"
)

// The kernel's table is that of package quant.
func TestKernelTable(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "..", "..", "cuda", "kernel", "packed_product.cu"))
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)gotune_codes\[2\]\[16\] = \{(.*?)\};`).FindSubmatch(source)
	if table == nil {
		t.Fatal("the source has no table gotune_codes")
	}
	values := regexp.MustCompile(`-?[0-9]\.[0-9]+`).FindAllString(string(table[1]), -1)
	nf4, fp4 := quant.Code(quant.NF4), quant.Code(quant.FP4)
	want := append(nf4[:], fp4[:]...)
	if len(values) != len(want) {
		t.Fatalf("%d values, want %d", len(values), len(want))
	}
	for i, text := range values {
		if v, err := strconv.ParseFloat(text, 32); err != nil || float32(v) != want[i] {
			t.Errorf("value %d is %s, want %v", i, text, want[i])
		}
	}
}

// A device that is no GPU says that kernels are off, and why.
func TestKernelsOffOnCPU(t *testing.T) {
	b := loadDir(t, oracle.Dir(t, "llama", "gqa"), LoadOptions{})
	if got := b.Kernels(); got != "off: the device is no CUDA GPU" {
		t.Errorf("kernels %q on a CPU", got)
	}
}

func TestKernelTakes(t *testing.T) {
	for _, c := range []struct {
		s    groupSpec
		want bool
	}{
		{groupSpec{typ: quant.NF4, in: 4096, block: 64}, true},
		{groupSpec{typ: quant.FP4, in: 14336, block: 32}, true},
		{groupSpec{in: 4096, block: 64}, false},                                           // plain values
		{groupSpec{typ: quant.NF4, in: 4096 + 32, block: 64}, false},                      // blocks run over rows' ends
		{groupSpec{typ: quant.NF4, in: cuda.PackedProductMaxIn + 1024, block: 64}, false}, // x is too long for shared memory
	} {
		if got := c.s.kernelTakes(); got != c.want {
			t.Errorf("in %d, block %d, %q: %t", c.s.in, c.s.block, c.s.typ, got)
		}
	}
}
