package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/gomlx/compute"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/model"
)

// session is a model on a device.
type session struct {
	ck      *model.Checkpoint
	device  compute.Backend
	base    *layerwise.Base
	trace   *tracer
	adapter *lora.Adapter
	loaded  time.Duration
	plain   bool    // attention, by the flag
	pool    float64 // GiB that the backend may take, by the flag; 0 for all
	before  int64   // device bytes in use before the model was loaded
}

// poolTitle begins the part of a case's title that names a bounded pool.
const poolTitle = " in "

// settings are the flags that all stages share.
type settings struct {
	model, backend, dtype, quant, targets, attention string
	rank                                             int
	resident, pool                                   float64
	double                                           bool
}

func (s *settings) flags(fs *flag.FlagSet) {
	fs.StringVar(&s.model, "model", "", "folder of a model from scripts/synth7b")
	fs.StringVar(&s.backend, "backend", backend.CUDA, "backend")
	fs.StringVar(&s.dtype, "dtype", "bfloat16", "compute type: bfloat16, float16, float32")
	fs.StringVar(&s.quant, "quant", layerwise.QuantNF4, "none, nf4, fp4")
	fs.StringVar(&s.targets, "targets", "q_proj,v_proj", "projections with an adapter")
	fs.StringVar(&s.attention, "attention", layerwise.AttentionAuto, "auto, plain")
	fs.Float64Var(&s.resident, "resident", 0, "GiB that unpacked 4-bit layers may take on the device; 0 lets -memory auto decide, -1 unpacks them in each call")
	fs.Float64Var(&s.pool, "pool", 0, "GiB that the backend may take of the device, taken at the start; 0 for what it needs")
	fs.BoolVar(&s.double, "double", false, "double quantization: scales in 8 bits")
	fs.IntVar(&s.rank, "rank", 64, "of the adapter")
}

// open loads the model and makes an adapter whose B is not zero, so that every
// gradient is.
func (s *settings) open(ctx context.Context) (*session, error) {
	before := deviceUsed()
	if err := s.setPool(); err != nil {
		return nil, err
	}
	be, err := backend.Open(s.backend)
	if err != nil {
		return nil, err
	}
	ses := &session{device: be, trace: newTracer(be), before: before, pool: s.pool, plain: s.attention == layerwise.AttentionPlain}
	if ses.ck, err = model.Open(s.model); err != nil {
		return nil, err
	}
	if ses.adapter, err = newAdapter(ses.ck.Config, s.rank, s.targets); err != nil {
		return nil, err
	}
	start := time.Now()
	o := layerwise.LoadOptions{Quant: s.quant, DoubleQuant: s.double, ComputeDType: s.dtype, Attention: s.attention, ResidentBytes: int64(s.resident * (1 << 30))}
	ses.base, err = layerwise.Load(ctx, ses.trace, ses.ck, o, nil)
	ses.loaded = time.Since(start)
	runtime.GC()
	return ses, err
}

// setPool bounds the pool of a CUDA backend that is not open yet.
func (s *settings) setPool() error {
	if s.pool <= 0 {
		return nil
	}
	d, err := cuda.Devices()
	if err != nil {
		return fmt.Errorf("-pool: %w", err)
	}
	if len(d) == 0 || float64(d[0].TotalBytes) < s.pool*(1<<30) {
		return fmt.Errorf("-pool %g: there is no GPU with as much memory", s.pool)
	}
	return os.Setenv(backend.EnvMemoryFraction, strconv.FormatFloat(s.pool*(1<<30)/float64(d[0].TotalBytes), 'f', 6, 64))
}

func newAdapter(c *model.Config, rank int, targets string) (*lora.Adapter, error) {
	a, err := lora.New(lora.Config{R: rank, Alpha: 16, Dropout: 0.1, TargetModules: strings.Split(targets, ",")}, c, 1)
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(3, 3))
	for _, name := range a.Names() {
		b := a.Modules[name].B
		for i := range b {
			b[i] = float32(rng.NormFloat64()) * 0.01
		}
	}
	return a, nil
}

// full is a batch of random tokens without padding, all supervised.
func full(b, s, vocab int) *batch.Batch {
	rng := rand.New(rand.NewPCG(2, uint64(s)))
	bt := &batch.Batch{B: b, S: s}
	for i := range b * s {
		id := int32(rng.IntN(vocab))
		label := id
		if i%s == 0 {
			label = batch.Ignore
		}
		bt.IDs, bt.Labels = append(bt.IDs, id), append(bt.Labels, label)
		bt.Positions, bt.Segments = append(bt.Positions, int32(i%s)), append(bt.Segments, 1)
	}
	return bt
}

// padded is a whole row and one with padding behind.
func padded(s, vocab int) *batch.Batch {
	bt := full(2, s, vocab)
	pad(bt)
	return bt
}

// uneven has all that a real batch has: a row of two documents, a row with padding
// behind, and labels on the second half of each document.
func uneven(s, vocab int) *batch.Batch {
	bt := full(2, s, vocab)
	for i := range s {
		if i >= s/2 {
			bt.Segments[i], bt.Positions[i] = 2, int32(i-s/2)
		}
		if i%(s/2) < s/4 {
			bt.Labels[i] = batch.Ignore
		}
	}
	pad(bt)
	return bt
}

// pad makes the last quarter of the second row padding.
func pad(bt *batch.Batch) {
	for i := bt.S + bt.S*3/4; i < 2*bt.S; i++ {
		bt.IDs[i], bt.Labels[i], bt.Positions[i], bt.Segments[i] = 0, batch.Ignore, 0, 0
	}
}

// deviceUsed is what is in use of the first GPU's memory, 0 without a GPU.
func deviceUsed() int64 {
	d, err := cuda.Devices()
	if err != nil || len(d) == 0 || d[0].FreeBytes == 0 {
		return 0
	}
	return d[0].TotalBytes - d[0].FreeBytes
}

// gib is the device memory that the session's process holds, in GiB: its pool,
// which grows in steps and is never given back, so it is the peak from above.
func (s *session) gib() float64 { return float64(deviceUsed()-s.before) / (1 << 30) }

// peak is the largest amount of device memory that was in use at once, in GiB, by
// XLA's account; 0 where it has none.
func (s *session) peak() float64 {
	m, err := backend.Memory(s.device)
	if err != nil {
		return 0
	}
	return float64(m.Peak) / (1 << 30)
}

// environment says on what all this runs.
func environment(_ context.Context, args []string) error {
	fs := flag.NewFlagSet("env", flag.ContinueOnError)
	if err := fs.Parse(args); err != nil {
		return err
	}
	devices, err := cuda.Devices()
	if err != nil {
		return err
	}
	for _, d := range devices {
		emit("env", "gpu", fmt.Sprintf("%v, driver %d", d, d.DriverVersion), map[string]float64{"free GiB": float64(d.FreeBytes) / (1 << 30)})
	}
	p, err := cuda.Find(cuda.CUDA)
	if err != nil {
		return err
	}
	h := cuda.Host()
	emit("env", "plugin", p.Path+" data "+p.DataDir, nil)
	emit("env", "host", fmt.Sprintf("%s, %d cores", h.Model, h.Cores), map[string]float64{"GiB": float64(h.TotalBytes) / (1 << 30)})
	start := time.Now()
	be, err := backend.Open(backend.CUDA)
	if err != nil {
		return err
	}
	emit("env", "backend", be.Description(), map[string]float64{"open s": time.Since(start).Seconds()})
	return nil
}

// runsOn says what attention and the rest of a step run on.
func (ses *session) runsOn() string { return ses.base.RunsOn() }
