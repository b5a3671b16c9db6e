package cuda

import "testing"

// go-xla's text with 8-bit floats becomes StableHLO: types by their names, conversions
// from and to bytes bitcasts, everything else as it was.
func TestFloat8Text(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"rounding",
			`%3 = "stablehlo.convert"(%2) : (tensor<4x16xf32>) -> tensor<4x16xunknown_dtype<F8E4M3FN>>`,
			`%3 = "stablehlo.convert"(%2) : (tensor<4x16xf32>) -> tensor<4x16xf8E4M3FN>`},
		{"to bytes",
			`%3 = "stablehlo.convert"(%2) : (tensor<4x16xunknown_dtype<F8E4M3FN>>) -> tensor<4x16xui8>`,
			`%3 = "stablehlo.bitcast_convert"(%2) : (tensor<4x16xf8E4M3FN>) -> tensor<4x16xui8>`},
		{"of a byte",
			`%3 = "stablehlo.convert"(%arg0) : (tensor<ui8>) -> tensor<unknown_dtype<F8E5M2>>`,
			`%3 = "stablehlo.bitcast_convert"(%arg0) : (tensor<ui8>) -> tensor<f8E5M2>`},
		{"other bytes beside",
			"%3 = \"stablehlo.convert\"(%2) : (tensor<4xui8>) -> tensor<4xf32>\n%4 = \"stablehlo.convert\"(%3) : (tensor<4xf32>) -> tensor<4xunknown_dtype<F8E4M3FN>>",
			"%3 = \"stablehlo.convert\"(%2) : (tensor<4xui8>) -> tensor<4xf32>\n%4 = \"stablehlo.convert\"(%3) : (tensor<4xf32>) -> tensor<4xf8E4M3FN>"},
		{"none", `%3 = "stablehlo.convert"(%2) : (tensor<4xui8>) -> tensor<4xf32>`, `%3 = "stablehlo.convert"(%2) : (tensor<4xui8>) -> tensor<4xf32>`},
	} {
		if got := float8(c.text); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
