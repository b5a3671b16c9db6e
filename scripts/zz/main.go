package main

import (
	"fmt"
	"os"
	"time"

	"github.com/gomlx/compute"
	_ "github.com/gomlx/go-xla/compute/xla"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

func main() {
	b, err := compute.NewWithConfig("xla:" + os.Args[1])
	if err != nil {
		panic(err)
	}
	fmt.Println(b.Name(), b.Description())
	e, err := NewExec(b, func(x, y *Node) *Node { return Dot(x, y).Product() })
	if err != nil {
		panic(err)
	}
	n := 1024
	x := tensors.FromFlatDataAndDimensions(make([]float32, n*n), n, n)
	t := time.Now()
	o, err := e.Call1(x, x)
	fmt.Println(o.Shape(), err, time.Since(t))
	for i := 0; i < 5; i++ {
		t = time.Now()
		o, err = e.Call1(x, x)
		d := time.Since(t)
		fmt.Println(d, 2*float64(n*n*n)/d.Seconds()/1e9, "GF")
	}
}
