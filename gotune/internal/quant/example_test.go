package quant_test

import (
	"fmt"

	"github.com/gotune/gotune/gotune/internal/quant"
)

func ExampleQuantize() {
	t, err := quant.Quantize(quant.NF4, []int{2, 2}, []float32{0.5, -0.25, 0, 0.5}, 0, false)
	if err != nil {
		panic(err)
	}
	fmt.Printf("scale %.2f, codes %x\n", t.Absmax[0], t.Codes)
	w := make([]float32, t.Len())
	t.Dequantize(w)
	fmt.Printf("%.3f\n", w)
	// Output:
	// scale 0.50, codes f27f
	// [0.500 -0.263 0.000 0.500]
}

func ExampleQuantize8() {
	levels := quant.DynamicMap(true)
	codes, scales := quant.Quantize8(levels, []float32{2, -0.5, 0.001}, 0)
	back := make([]float32, 3)
	quant.Dequantize8(back, levels, codes, scales, 0)
	fmt.Printf("%d bytes, %.4f\n", len(codes), back)
	// Output: 3 bytes, [2.0000 -0.4953 0.0010]
}
