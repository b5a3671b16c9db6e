package safetensors

import (
	"fmt"
	"math"
	"slices"
)

// DType names the type of a tensor's values as the file format spells it.
type DType string

// The types that models and adapters use. Files may hold more (unsigned and
// complex integers, 8-bit floats): they are read and written as raw bytes.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"  // IEEE 754 half: 1 sign, 5 exponent and 10 fraction bits
	BF16 DType = "BF16" // upper half of an F32
	I64  DType = "I64"
	I32  DType = "I32"
	I16  DType = "I16"
	I8   DType = "I8"
	U8   DType = "U8"
	Bool DType = "BOOL"
)

// dtypes holds each type's bytes a value, in the order in which the official
// writer lays tensors out: the most strictly aligned first.
var dtypes = []struct {
	name DType
	size int
}{
	{"U64", 8}, {I64, 8}, {F64, 8}, {"C64", 8}, {F32, 4}, {"U32", 4}, {I32, 4}, {BF16, 2}, {F16, 2}, {"U16", 2}, {I16, 2},
	{"F8_E8M0", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {I8, 1}, {U8, 1}, {Bool, 1},
}

// Size returns the bytes that one value takes, 0 for a type that is not known.
func (d DType) Size() int {
	for _, t := range dtypes {
		if t.name == d {
			return t.size
		}
	}
	return 0
}

// rank is the place of d in the official writer's order.
func (d DType) rank() int {
	for i, t := range dtypes {
		if t.name == d {
			return i
		}
	}
	return len(dtypes)
}

// Tensor is a named array. Data holds the values row-major and little-endian; it
// may be a view of a mapped file and must then not be written to.
type Tensor struct {
	Name  string
	DType DType
	Shape []int // empty for a scalar
	Data  []byte
}

// Spec is what the header says of a tensor that is still to be written.
type Spec struct {
	Name  string
	DType DType
	Shape []int
}

// Len returns the number of values: the product of the shape, 1 for a scalar.
// For a tensor that came from a [File] it cannot overflow.
func (t Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Spec returns the tensor's description without its values.
func (t Tensor) Spec() Spec { return Spec{t.Name, t.DType, t.Shape} }

// Bytes returns the size of the values that the spec describes. It fails for an
// unknown type, a negative dimension and a product that does not fit an int64.
func (s Spec) Bytes() (int64, error) {
	size := s.DType.Size()
	if size == 0 {
		return 0, fmt.Errorf("tensor %q has the type %q; known are %v", s.Name, s.DType, knownTypes())
	}
	n := int64(1)
	for _, d := range append(slices.Clone(s.Shape), size) {
		if d < 0 {
			return 0, fmt.Errorf("tensor %q has the shape %v with a negative dimension", s.Name, s.Shape)
		}
		if n > 0 && int64(d) > math.MaxInt64/n {
			return 0, fmt.Errorf("tensor %q has the shape %v, whose size overflows 64 bits", s.Name, s.Shape)
		}
		n *= int64(d)
	}
	return n, nil
}

// check reports whether the tensor's values are as many bytes as its spec needs.
func (t Tensor) check() error {
	n, err := t.Spec().Bytes()
	if err != nil {
		return err
	}
	if int64(len(t.Data)) != n {
		return fmt.Errorf("tensor %q has %d bytes of values, but %s%v needs %d", t.Name, len(t.Data), t.DType, t.Shape, n)
	}
	return nil
}

func knownTypes() []DType {
	names := make([]DType, len(dtypes))
	for i, t := range dtypes {
		names[i] = t.name
	}
	return names
}
