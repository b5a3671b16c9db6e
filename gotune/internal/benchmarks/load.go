package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/parallel"
	"github.com/gotune/gotune/gotune/internal/quant"
)

// loadCommand measures loading and quantizing beside the rate at which the same
// files can be read from memory at all.
func loadCommand(ctx context.Context, args []string) error {
	var layers, rounds int
	var tmp string
	if err := flags("load", args, func(f *flag.FlagSet) {
		f.IntVar(&layers, "layers", 4, "layers of a 7B model, 0.4 GB each")
		f.IntVar(&rounds, "rounds", 7, "times that each side is measured")
		f.StringVar(&tmp, "tmp", "", "where the checkpoint is written for the while; default: the system's folder")
	}); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(tmp, "gotune-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := writeSynthetic(dir, layers); err != nil {
		return err
	}
	l := &loadBench{dir: dir}
	fmt.Printf("load: %d layers of Llama-2-7B, bfloat16, in the page cache; load %s\n", layers, load())
	// A first round, not counted, warms the page cache and the code and opens XLA's plugin.
	if err := l.round(ctx); err != nil {
		return err
	}
	l.times = times{}
	for range rounds {
		if err := l.round(ctx); err != nil {
			return err
		}
	}
	l.report()
	return nil
}

// loadBench gathers the rounds. Times are per pass over the whole checkpoint.
type loadBench struct {
	dir            string
	bytes, largest int64
	times
	growth, device, packed int64
	sum                    float64
}

// times are those of the rounds.
type times struct{ floor, copied, quantize, whole []usage }

func (l *loadBench) round(ctx context.Context) error {
	for _, m := range []struct {
		times *[]usage
		f     func() error
	}{
		{&l.floor, l.read}, {&l.copied, l.copy}, {&l.quantize, l.pack}, {&l.whole, func() error { return l.load(ctx) }},
	} {
		runtime.GC()
		debug.FreeOSMemory()
		u, err := measured(m.f)
		if err != nil {
			return err
		}
		*m.times = append(*m.times, u)
	}
	return nil
}

// read is the floor: every weight is read once from the mapped files, widened to
// float32 and added up, on all cores.
func (l *loadBench) read() error {
	ck, err := model.Open(l.dir)
	if err != nil {
		return err
	}
	defer ck.Close()
	l.bytes, l.largest = ck.Bytes(), 0
	for _, name := range ck.Names() {
		t, err := ck.Tensor(name)
		if err != nil {
			return err
		}
		l.largest = max(l.largest, int64(len(t.Data)))
		var total atomic.Uint64
		parallel.For(len(t.Data)/2, 1<<12, func(from, to int) {
			s := sumBF16(t.Data[2*from : 2*to])
			total.Add(uint64(math.Float32bits(s)))
		})
		l.sum += float64(total.Load())
		ck.Drop(name)
	}
	return nil
}

// sumBF16 adds bfloat16 values up in eight sums, four values a load.
func sumBF16(b []byte) float32 {
	var s [8]float32
	for ; len(b) >= 16; b = b[16:] {
		w, v := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
		s[0] += math.Float32frombits(uint32(w) << 16)
		s[1] += math.Float32frombits(uint32(w) & 0xffff0000)
		s[2] += math.Float32frombits(uint32(w>>32) << 16)
		s[3] += math.Float32frombits(uint32(w>>32) & 0xffff0000)
		s[4] += math.Float32frombits(uint32(v) << 16)
		s[5] += math.Float32frombits(uint32(v) & 0xffff0000)
		s[6] += math.Float32frombits(uint32(v>>32) << 16)
		s[7] += math.Float32frombits(uint32(v>>32) & 0xffff0000)
	}
	for ; len(b) >= 2; b = b[2:] {
		s[0] += math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	}
	return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7]
}

// copy is what a reader with read(2) gets at best: the file's bytes copied from
// the page cache into a buffer for each core, nothing done with them.
func (l *loadBench) copy() error {
	f, err := os.Open(l.dir + "/model.safetensors")
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	parallel.For(int(info.Size()), 1<<20, func(from, to int) {
		buf := make([]byte, 1<<20)
		for from < to {
			n, err := f.ReadAt(buf[:min(len(buf), to-from)], int64(from))
			if n == 0 || err != nil && from+n < to {
				return
			}
			from += n
		}
	})
	return nil
}

// pack quantizes every projection and keeps the codes, as on a host without a
// device: the pass over the files and the search, without uploads.
func (l *loadBench) pack() error {
	ck, err := model.Open(l.dir)
	if err != nil {
		return err
	}
	defer ck.Close()
	var kept []*quant.Tensor
	l.packed = 0
	for layer := range ck.Config.NumLayers {
		for _, p := range model.Projections {
			name := ck.Config.Weight(layer, p)
			t, err := ck.Tensor(name)
			if err != nil {
				return err
			}
			q, err := quant.QuantizeTensor(quant.NF4, t, quant.DefaultBlockSize, false)
			if err != nil {
				return err
			}
			kept = append(kept, q)
			l.packed += int64(len(t.Data))
			ck.Drop(name)
		}
	}
	runtime.KeepAlive(kept)
	return nil
}

// load is the real thing: checkpoint to device.
func (l *loadBench) load(ctx context.Context) error {
	be, err := backend.Open(backend.CPU)
	if err != nil {
		return err
	}
	ck, err := model.Open(l.dir)
	if err != nil {
		return err
	}
	defer ck.Close()
	w := watchMemory()
	base, err := layerwise.Load(ctx, be, ck, layerwise.LoadOptions{Quant: layerwise.QuantNF4, ResidentBytes: -1},
		func(p layerwise.Progress) { w.device.Store(p.DeviceUsed) })
	l.growth = max(l.growth, w.stop())
	if err != nil {
		return err
	}
	l.device = base.Bytes()
	base.Free()
	return nil
}

// report prints the rates and the two rows.
func (l *loadBench) report() {
	// The least of the rounds on each side: what others do on the machine, and a virtual machine's
	// host that hands out fresh memory slowly, only add.
	least := func(u []usage) float64 {
		s := math.Inf(1)
		for _, x := range u {
			s = min(s, x.wall.Seconds())
		}
		return s
	}
	rate := func(bytes int64, u []usage) (gbs float64) { return float64(bytes) / least(u) / 1e9 }
	cpu := func(u []usage) float64 {
		s := math.Inf(1)
		for _, x := range u {
			s = min(s, x.cpu.Seconds())
		}
		return s
	}
	fmt.Printf("  %-42s %8s %14s\n", "", "GB/s", "core-seconds")
	for _, m := range []struct {
		what  string
		bytes int64
		u     []usage
	}{
		{"floor: read mapped files and add up", l.bytes, l.floor}, {"read(2) into a buffer", l.bytes, l.copied},
		{"quantize to NF4, codes kept on the host", l.packed, l.quantize}, {"load: read, quantize, upload to XLA CPU", l.bytes, l.whole},
	} {
		fmt.Printf("  %-42s %8.2f %14.2f\n", m.what, rate(m.bytes, m.u), cpu(m.u))
	}
	floor := rate(l.bytes, l.floor)
	ratio := func(u []usage, bytes int64) (best float64, text string) {
		var all []float64
		for i := range u {
			all = append(all, float64(bytes)/u[i].wall.Seconds()/(float64(l.bytes)/l.floor[i].wall.Seconds()))
		}
		best = rate(bytes, u) / floor
		return best, fmt.Sprintf("%.2f× (rounds: %s)", best, spread(all))
	}
	whole, wholeText := ratio(l.whole, l.bytes)
	_, packText := ratio(l.quantize, l.packed)
	row("load + quantize, checkpoint to XLA CPU", fmt.Sprintf("%.2f GB/s", rate(l.bytes, l.whole)), fmt.Sprintf("memory read %.2f GB/s", floor), wholeText, "≥ 0.60×", whole >= 0.6)
	row("  in core-seconds", fmt.Sprintf("%.2f", cpu(l.whole)), fmt.Sprintf("memory read %.2f", cpu(l.floor)), fmt.Sprintf("%.2f×", cpu(l.floor)/cpu(l.whole)), "", true)
	row("  of that: read + quantize", fmt.Sprintf("%.2f GB/s", rate(l.packed, l.quantize)), fmt.Sprintf("memory read %.2f GB/s", floor), packText, "", true)
	limit := 4*l.largest + 300<<20
	row("load: host memory beside the model", fmt.Sprintf("%d MB", l.growth>>20), fmt.Sprintf("4 × largest tensor + 300 MB = %d MB", limit>>20),
		fmt.Sprintf("%.2f×", float64(l.growth)/float64(limit)), "≤ 1.00×", l.growth <= limit)
}

// memoryWatch follows the process's own memory (the mapped files are the page
// cache's) beyond what it was, less what lies on the device, which on a CPU is
// the host's memory too.
type memoryWatch struct {
	start, most int64
	device      atomic.Int64
	quit        chan struct{}
	ended       chan struct{}
}

func watchMemory() *memoryWatch {
	w := &memoryWatch{start: ownMemory(), quit: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			// What was on the device before the look at the memory is in it.
			device := w.device.Load()
			w.most = max(w.most, ownMemory()-w.start-device)
			select {
			case <-w.quit:
				return
			case <-tick.C:
			}
		}
	}()
	return w
}

func (w *memoryWatch) stop() int64 {
	close(w.quit)
	<-w.ended
	return w.most
}

// ownMemory is the process's resident memory that is not of files.
func ownMemory() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(b), &size, &resident, &shared); err != nil {
		return 0
	}
	return (resident - shared) * int64(os.Getpagesize())
}
