package safetensors_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "model.safetensors")

	norm, err := safetensors.FromFloat32("model.norm.weight", []int{3}, []float32{1, 0.5, -2}, safetensors.BF16)
	if err != nil {
		panic(err)
	}
	if err := safetensors.Write(path, []safetensors.Tensor{norm}, map[string]string{"format": "pt"}); err != nil {
		panic(err)
	}

	f, err := safetensors.Open(path)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			panic(err)
		}
		w, err := t.Float32()
		if err != nil {
			panic(err)
		}
		fmt.Println(name, t.DType, t.Shape, w)
		f.Drop(name)
	}
	// Output: model.norm.weight BF16 [3] [1 0.5 -2]
}

func ExampleCreate() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "model.safetensors")

	w, err := safetensors.Create(path, []safetensors.Spec{{Name: "a", DType: safetensors.U8, Shape: []int{2}}}, nil)
	if err != nil {
		panic(err)
	}
	defer w.Abort()
	err = w.WriteTensor(safetensors.Tensor{Name: "a", DType: safetensors.U8, Shape: []int{2}, Data: []byte{1, 2}})
	if err != nil {
		panic(err)
	}
	_, err = os.Stat(path)
	fmt.Println("before Commit:", os.IsNotExist(err))
	if err := w.Commit(); err != nil {
		panic(err)
	}
	_, err = os.Stat(path)
	fmt.Println("after Commit:", err)
	// Output:
	// before Commit: true
	// after Commit: <nil>
}
