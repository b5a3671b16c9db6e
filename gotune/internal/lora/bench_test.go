package lora

import (
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// benchModule is the adapter of a 7B model's attention projection at R = 64.
func benchModule() (*Module, Config) {
	cfg := Config{R: 64, Alpha: 16, TargetModules: []string{"q_proj"}}
	m := &Module{A: make([]float32, 64*4096), B: make([]float32, 4096*64), In: 4096, Out: 4096}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range m.A {
		m.A[i], m.B[i] = r.Float32()-0.5, r.Float32()-0.5
	}
	return m, cfg
}

// BenchmarkMergeWeight merges one 4096×4096 weight, R = 64, on all cores: the
// product B·A, the sum, and the rounding.
func BenchmarkMergeWeight(b *testing.B) {
	mod, cfg := benchModule()
	for _, dt := range []safetensors.DType{safetensors.BF16, safetensors.F16} {
		base := safetensors.Tensor{Name: "w", DType: dt, Shape: []int{4096, 4096}, Data: make([]byte, 2*4096*4096)}
		out := base
		out.Data = make([]byte, len(base.Data))
		b.Run(string(dt), func(b *testing.B) {
			b.SetBytes(int64(len(base.Data)))
			for b.Loop() {
				w := mergedWeight{src: source{plain: base}, out: out, rows: 4096, cols: 4096, delta: newDelta(mod, cfg)}
				if w.run() >= 0 {
					b.Fatal("not finite")
				}
			}
		})
	}
}

// BenchmarkDelta computes B·A alone, on one core.
func BenchmarkDelta(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	mod, cfg := benchModule()
	for b.Loop() {
		d := newDelta(mod, cfg)
		buf := d.buffer()
		for r := 0; r < mod.Out; r += d.rowsPerBlock() {
			d.rows(buf, r, min(d.rowsPerBlock(), mod.Out-r))
		}
	}
	b.ReportMetric(2*64*4096*4096*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}
