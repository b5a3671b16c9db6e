package cuda

import (
	"regexp"
	"strings"
)

// go-xla has the 8-bit float types but can't name them: it prints
// "unknown_dtype<F8E4M3FN>" where StableHLO has f8E4M3FN, and it panics when it is asked
// for their size, so a program can hold such values but neither take nor return them,
// nor bitcast. The plugins know the types.

// unknownFloat8 is go-xla's name of an 8-bit float type.
var unknownFloat8 = regexp.MustCompile(`unknown_dtype<F(8E\w+)>`)

// byteConvert is a conversion between bytes and an 8-bit float type, in go-xla's form.
var byteConvert = regexp.MustCompile(`"?stablehlo\.convert"?(\(%\w+\) : \(tensor<(?:\d+x)*)(ui8(?:>\) -> tensor<(?:\d+x)*)f8E\w+|f8E\w+(?:>\) -> tensor<(?:\d+x)*)ui8)>`)

// float8 corrects a program's text: the names of 8-bit float types, and conversions
// between them and bytes, which stand for bitcasts; nobody wants a byte's number as
// an 8-bit float.
func float8(text string) string {
	if !strings.Contains(text, "unknown_dtype<F8") {
		return text
	}
	text = unknownFloat8.ReplaceAllString(text, "f$1")
	return byteConvert.ReplaceAllString(text, `"stablehlo.bitcast_convert"$1$2>`)
}
