package cuda

import (
	"slices"
	"testing"
)

func TestAliasInputs(t *testing.T) {
	const body = "\n    return %0 : tensor<2xf32>\n  }\n"
	for _, tt := range []struct {
		name, text, want string
		donate, aliased  []int
	}{
		{"first free result of the type",
			"module @m {\n  func.func @main(%a: tensor<2xf32>, %b: tensor<2xf32>, %c: tensor<3xi32>) -> (tensor<3xi32>, tensor<2xf32>, tensor<2xf32>) {" + body,
			"module @m {\n  func.func @main(%a: tensor<2xf32> {tf.aliasing_output = 2 : i32}, %b: tensor<2xf32> {tf.aliasing_output = 1 : i32}, %c: tensor<3xi32>) -> (tensor<3xi32>, tensor<2xf32>, tensor<2xf32>) {" + body,
			[]int{1, 0, 1}, []int{1, 0}},
		{"one result, no parentheses", "  func.func @main(%a: tensor<f32>) -> tensor<f32> {" + body, "  func.func @main(%a: tensor<f32> {tf.aliasing_output = 0 : i32}) -> tensor<f32> {" + body, []int{0}, []int{0}},
		{"no result of the type", "  func.func @main(%a: tensor<4xf32>) -> tensor<f32> {" + body, "  func.func @main(%a: tensor<4xf32>) -> tensor<f32> {" + body, []int{0, 7}, nil},
		{"attributes", "  func.func @main(%a: tensor<f32> { x = 1 }) -> tensor<f32> {" + body, "  func.func @main(%a: tensor<f32> { x = 1 }) -> tensor<f32> {" + body, []int{0}, nil},
		{"nothing donated", "  func.func @main(%a: tensor<f32>) -> tensor<f32> {" + body, "  func.func @main(%a: tensor<f32>) -> tensor<f32> {" + body, nil, nil},
		{"another text", "HloModule m", "HloModule m", []int{0}, nil},
	} {
		got, aliased := aliasInputs(tt.text, tt.donate)
		if got != tt.want || !slices.Equal(aliased, tt.aliased) {
			t.Errorf("%s: %v,\n%s\nwant %v,\n%s", tt.name, aliased, got, tt.aliased, tt.want)
		}
	}
}
