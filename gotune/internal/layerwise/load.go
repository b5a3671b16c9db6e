package layerwise

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// Quantizations of the decoder's linear layers.
const (
	QuantNone = "none" // keep the compute dtype
	QuantNF4  = "nf4"  // 4-bit NormalFloat (arXiv:2305.14314, section 3)
	QuantFP4  = "fp4"  // 4-bit float
)

// LoadOptions say how [Load] puts a checkpoint on the device. The zero value
// keeps 16/32-bit weights and computes in float32.
type LoadOptions struct {
	// Quant is QuantNone, QuantNF4 or QuantFP4 for the seven projections of every
	// layer; "" means QuantNone. Embeddings, norms and the output layer are never
	// quantized. A checkpoint that bitsandbytes quantized keeps its own codes.
	Quant string

	// DoubleQuant quantizes the block scales too, to 8 bits (section 3 of QLoRA):
	// 0.37 bits a weight less.
	DoubleQuant bool

	// BlockSize is the number of weights that share a scale. Default 64.
	BlockSize int

	// ComputeDType is that of matrix products: "float32", "bfloat16" or "float16".
	// "" means float32.
	ComputeDType string

	// ResidentBytes bounds the memory that unpacked copies of 4-bit layers may
	// take; with enough of it layers are unpacked once instead of in every call,
	// with the same results. 0 means 2 GiB where the device's memory is the
	// host's, else none; a negative value means none.
	ResidentBytes int64

	// Attention is AttentionAuto or AttentionPlain; "" means AttentionAuto.
	Attention string
}

// Progress is one report of [Load].
type Progress struct {
	Tensor     string // the tensor just finished
	Done       int64  // bytes of the checkpoint read so far
	Total      int64  // bytes of all that will be read
	DeviceUsed int64  // bytes on the device so far
}

// TensorInfo describes a loaded tensor.
type TensorInfo struct {
	Name      string // as in the checkpoint
	Shape     []int
	DType     string // as stored on the device: "nf4", "fp4", "float32", …
	Bytes     int64  // on the device, scales included
	Quantized bool
}

// validate fills defaults.
func (o *LoadOptions) validate(cpu bool) (dt dtypes.DType, err error) {
	switch o.Quant {
	case "":
		o.Quant = QuantNone
	case QuantNone, QuantNF4, QuantFP4:
	default:
		return dt, fmt.Errorf("layerwise: load: quantization %q is unknown; want %s, %s or %s", o.Quant, QuantNone, QuantNF4, QuantFP4)
	}
	switch o.Attention {
	case "":
		o.Attention = AttentionAuto
	case AttentionAuto, AttentionPlain:
	default:
		return dt, fmt.Errorf("layerwise: load: attention %q is unknown; want %s or %s", o.Attention, AttentionAuto, AttentionPlain)
	}
	if o.BlockSize == 0 {
		o.BlockSize = 64
	}
	if o.ResidentBytes == 0 && cpu {
		o.ResidentBytes = 2 << 30
	}
	if o.ComputeDType == "" {
		o.ComputeDType = "float32"
	}
	switch o.ComputeDType {
	case "float32":
		return dtypes.Float32, nil
	case "bfloat16":
		return dtypes.BFloat16, nil
	case "float16":
		return dtypes.Float16, nil
	}
	return dt, fmt.Errorf("layerwise: load: compute dtype %q is unknown; want float32, bfloat16 or float16", o.ComputeDType)
}

// Load streams a checkpoint to the device tensor by tensor: each linear layer is
// quantized on the way, uploaded, and its host memory given back before the next
// is read. progress may be nil. It returns ctx's error when cancelled, having
// freed what was loaded.
func Load(ctx context.Context, be compute.Backend, ck *model.Checkpoint, o LoadOptions, progress func(Progress)) (b *Base, err error) {
	dev := deviceOf(be)
	dt, err := o.validate(dev.cpu)
	if err != nil {
		return nil, err
	}
	if err := ck.Check(); err != nil {
		return nil, err
	}
	b = &Base{dev: dev, cfg: ck.Config, opt: o, dt: dt, residual: dt, headBytes: headBytes}
	if dt == dtypes.Float16 {
		b.residual = dtypes.Float32 // the residual stream outgrows float16
	}
	b.prefix = b.fingerprint()
	l := &loader{Base: b, ctx: ctx, ck: ck, report: progress}
	if err = l.all(); err == nil {
		if n := b.residentBytes(); n > 0 && n <= o.ResidentBytes {
			err = b.unpackAll()
		}
	}
	if err != nil {
		b.Free()
		return nil, err
	}
	return b, nil
}

// loader carries what one Load needs.
type loader struct {
	*Base
	ctx    context.Context
	ck     *model.Checkpoint
	report func(Progress)
	done   atomic.Int64 // bytes read
	total  int64
	host   chan hostGroup // what is quantized and not uploaded yet
	rooms  chan *room     // room for codes and scales that is free
}

func (l *loader) all() (err error) {
	l.total = l.ck.Bytes()
	stop := l.startHost()
	defer stop()
	if l.embed, err = l.table2D(model.EmbedName); err != nil {
		return err
	}
	for i := range l.cfg.NumLayers {
		w, err := l.layer(i)
		l.layers = append(l.layers, w)
		if err != nil {
			return err
		}
	}
	if l.norm, err = l.vector(model.NormName); err != nil {
		return err
	}
	l.head = l.embed
	if !l.cfg.TieWordEmbeddings {
		l.head, err = l.table2D(model.HeadName)
	}
	return err
}

// layer loads one decoder layer. The weights returned are what was loaded so
// far, also with an error.
func (l *loader) layer(i int) (w *layerWeights, err error) {
	w = &layerWeights{}
	if w.norm1, err = l.vector(l.cfg.InputNorm(i)); err != nil {
		return w, err
	}
	for range 2 { // q|k|v, o
		if err = l.groups(w); err != nil {
			return w, err
		}
	}
	if w.norm2, err = l.vector(l.cfg.PostNorm(i)); err != nil {
		return w, err
	}
	for range 2 { // gate|up, down
		if err = l.groups(w); err != nil {
			return w, err
		}
	}
	return w, nil
}

// groups uploads the next projections that share an input, as one matrix where
// their weights are stored alike, else one by one.
func (l *loader) groups(w *layerWeights) error {
	next, ok := <-l.host
	if !ok {
		return l.ctx.Err() // the only thing that ends the reader early without a word
	}
	defer func() {
		next.room.free()
		l.rooms <- next.room
	}()
	if next.err != nil {
		return next.err
	}
	loaded := next.weights
	for from := 0; from < len(loaded); {
		to := from + 1
		for to < len(loaded) && loaded[to].alike(loaded[from]) {
			to++
		}
		g, err := l.upload(loaded[from:to])
		if err != nil {
			return err
		}
		w.groups = append(w.groups, g)
		from = to
	}
	return nil
}

// finished notes a tensor that is now on the device.
func (l *loader) finished(name string, shape []int, dtype string, bytes int64, quantized bool) {
	l.table = append(l.table, TensorInfo{Name: name, Shape: shape, DType: dtype, Bytes: bytes, Quantized: quantized})
	l.bytes += bytes
	if l.report != nil {
		l.report(Progress{Tensor: name, Done: l.done.Load(), Total: l.total, DeviceUsed: l.bytes})
	}
}

// read returns a tensor of the checkpoint, unless the load was cancelled.
func (l *loader) read(name string) (safetensors.Tensor, error) {
	if err := l.ctx.Err(); err != nil {
		return safetensors.Tensor{}, err
	}
	t, err := l.ck.Tensor(name)
	l.done.Add(int64(len(t.Data)))
	return t, err
}

// vector loads a norm as f32 [D].
func (l *loader) vector(name string) (compute.Buffer, error) {
	t, err := l.read(name)
	if err != nil {
		return nil, err
	}
	flat, err := t.Float32()
	if err != nil {
		return nil, fmt.Errorf("layerwise: load %s: %w", name, err)
	}
	buf, err := l.dev.upload(flat, dtypes.Float32, len(flat))
	if err == nil {
		l.finished(name, t.Shape, "float32", int64(4*len(flat)), false)
	}
	return buf, err
}

// table2D loads embeddings or the output layer in the compute dtype.
func (l *loader) table2D(name string) (compute.Buffer, error) {
	t, err := l.read(name)
	if err != nil {
		return nil, err
	}
	buf, err := l.uploadAs(t, t.Shape...)
	if err == nil {
		l.finished(name, t.Shape, l.opt.ComputeDType, int64(t.Len()*l.dt.Size()), false)
		l.ck.Drop(name)
	}
	return buf, err
}

// uploadAs uploads a tensor in the compute dtype: as it is where it has that
// type, else converted on the way.
func (l *loader) uploadAs(t safetensors.Tensor, dims ...int) (compute.Buffer, error) {
	if flat, ok := hostView(t, l.dt); ok {
		return l.dev.upload(flat, l.dt, dims...)
	}
	if l.dt == dtypes.Float32 {
		buf, err := filled(l.dev, l.dt, func(flat []float32) error { return t.Float32Into(flat, 0, len(flat)) }, dims...)
		if err != nil {
			return nil, fmt.Errorf("layerwise: load %s: %w", t.Name, err)
		}
		return buf, nil
	}
	flat, err := t.Float32()
	if err != nil {
		return nil, fmt.Errorf("layerwise: load %s: %w", t.Name, err)
	}
	return l.dev.upload(hostFloats(flat, l.dt), l.dt, dims...)
}
