package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/chat"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	checkpoint "github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/token"
	"github.com/gotune/gotune/gotune/internal/wire"
)

// A model is a loaded model: its files, which merging reads again, its
// tokenizer, and its weights on the device.
type model struct {
	config   gotune.Model
	held     gotune.Quantization // how the weights are held, see heldQuantization
	info     gotune.ModelInfo
	files    *checkpoint.Checkpoint
	tok      *token.Tokenizer
	template *chat.Template // nil if the model brings none
	base     *layerwise.Base

	bucketPrice int // see bucketPrice
}

// model returns the model that a literal means, loading it if it must, and
// whether it was there.
func (c *call) model(m gotune.Model) (*model, bool, error) {
	m, err := m.Resolved()
	if err != nil {
		return nil, false, err
	}
	shelf := &c.engine.models
	if m.Bare() {
		v, err := shelf.find(c, m.Name)
		return v, true, err
	}
	m.Source = c.absolute(m.Source)
	return shelf.get(c, m.Name, m, func() (*model, error) { return c.loadModel(m) })
}

// tokenizer returns a model's tokenizer without loading its weights.
func (c *call) tokenizer(m gotune.Model) (*token.Tokenizer, string, error) {
	m, err := m.Resolved()
	if err != nil {
		return nil, "", err
	}
	if m.Bare() {
		v, err := c.engine.models.find(c, m.Name)
		if err != nil {
			return nil, "", err
		}
		return v.tok, v.config.Name, nil
	}
	m.Source = c.absolute(m.Source)
	dir, _, err := c.modelDir(m)
	if err != nil {
		return nil, "", err
	}
	tok, err := token.Load(dir)
	return tok, m.Name, err
}

func (c *call) loadModel(m gotune.Model) (*model, error) {
	l := &model{config: m}
	if err := c.loadInto(l); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// loadInto fills l; what it got before an error is l's to close.
func (c *call) loadInto(l *model) error {
	m, start := l.config, time.Now()
	peak := watchHost()
	defer peak.stop()
	dir, commit, err := c.modelDir(m)
	if err != nil {
		return err
	}
	if l.files, err = checkpoint.Open(dir); err != nil {
		return modelError(m, err)
	}
	if l.held, err = heldQuantization(m, l.files); err != nil {
		return modelError(m, err)
	}
	if err = l.readTokenizer(dir); err != nil {
		return modelError(m, err)
	}
	be, err := backend.Open(m.Device)
	if err != nil {
		return &gotune.Error{Kind: gotune.KindNotFound, Object: fmt.Sprintf("model %q", m.Name), Found: err.Error(),
			Wanted: "a device that works", Next: "leave Device out, which takes what there is; gotune.Doctor() shows it"}
	}
	info := backend.Describe(be)
	dtype := m.Quant.ComputeDType
	if dtype == "auto" {
		var gpus []cuda.Device
		if info.GPU != nil {
			gpus = append(gpus, *info.GPU)
		}
		dtype, _ = precision(info.Name, gpus, cuda.Host())
	}
	o := layerwise.LoadOptions{Quant: m.Quant.Type, DoubleQuant: m.Quant.DoubleQuant, BlockSize: m.Quant.BlockSize, ComputeDType: dtype}
	l.base, err = layerwise.Load(c, be, l.files, o, func(p layerwise.Progress) {
		c.progress(wire.Progress{Task: l.loadTask(), Done: p.Done, Total: p.Total, Unit: "bytes", Note: p.Tensor})
	})
	if err != nil {
		return modelError(m, err)
	}
	l.bucketPrice = bucketPrice(info.GPU, l.files.Config.Parameters())
	l.describe(dir, commit, info.Name, dtype)
	l.info.Seconds, l.info.HostPeakBytes = time.Since(start).Seconds(), peak.stop()
	return nil
}

// heldQuantization is how a model's weights are held: as its config says, or as
// bitsandbytes packed them, for a checkpoint that comes packed. Type "nf4" is the
// default, so it stands for either; another that the checkpoint doesn't have is a
// wish that can't be met.
func heldQuantization(m gotune.Model, files *checkpoint.Checkpoint) (gotune.Quantization, error) {
	q, packed := m.Quant, files.Config.Quantization
	if packed == nil {
		return q, nil
	}
	if q.Type != packed.Type && q.Type != "nf4" {
		return q, &gotune.Error{Kind: gotune.KindInvalid, Found: "a checkpoint that bitsandbytes has quantized to " + packed.Type + " already (quantization_config in config.json)",
			Wanted: "weights that can be held as Quant.Type " + quote(q.Type), Next: "leave Quant.Type out to take them as they are, or take the model's unquantized version"}
	}
	q.Type, q.DoubleQuant = packed.Type, packed.DoubleQuant
	for _, name := range files.Names() {
		t, ok, err := files.Quantized(name)
		if err != nil {
			return q, err
		}
		if ok {
			q.BlockSize = t.BlockSize
			break
		}
	}
	return q, nil
}

func (l *model) loadTask() string {
	if l.held.Type == "none" || l.files.Config.Quantization != nil {
		return "load"
	}
	return "load and quantize to " + l.held.Type
}

// readTokenizer reads the tokenizer and the chat template, and holds the
// tokenizer against the model's vocabulary.
func (l *model) readTokenizer(dir string) (err error) {
	if l.tok, err = token.Load(dir); err != nil {
		return err
	}
	if err := l.tok.Check(l.files.Config.VocabSize); err != nil {
		return err
	}
	l.template, err = chat.Load(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, chat.ErrNoTemplate) {
		return nil
	}
	return err
}

var layerNumber = regexp.MustCompile(`\.layers\.\d+\.`)

// describe fills in the table of what was loaded.
func (l *model) describe(dir, commit, backendName, dtype string) {
	c := l.files.Config
	l.info = gotune.ModelInfo{Model: l.config, Path: dir, Commit: commit, Architecture: c.Architecture, Layers: c.NumLayers, HiddenSize: c.HiddenSize,
		IntermediateSize: c.IntermediateSize, Heads: c.NumHeads, KVHeads: c.NumKVHeads, HeadDim: c.HeadDim, VocabSize: c.VocabSize, MaxPositions: c.MaxPositions,
		Params: c.Parameters(), DiskBytes: l.files.Bytes(), DeviceBytes: l.base.Bytes(), Backend: backendName, ComputeDType: dtype,
		Tokenizer: l.tokenizerInfo()}
	l.info.Model.Quant = l.held
	row := map[string]int{}
	for _, t := range l.base.Tensors() {
		name := layerNumber.ReplaceAllString(t.Name, ".layers.*.")
		i, ok := row[name]
		if !ok {
			i = len(l.info.Tensors)
			row[name] = i
			held := t.DType
			if t.Quantized {
				held = fmt.Sprintf("%s/%d", t.DType, l.held.BlockSize)
			}
			stored := ""
			if spec, err := l.files.Tensor(t.Name); err == nil {
				stored = string(spec.DType)
			}
			l.info.Tensors = append(l.info.Tensors, gotune.TensorInfo{Name: name, Shape: t.Shape, DType: stored, HeldAs: held})
		}
		params := int64(1)
		for _, n := range t.Shape {
			params *= int64(n)
		}
		s := &l.info.Tensors[i]
		s.Count, s.Params, s.Bytes = s.Count+1, s.Params+params, s.Bytes+t.Bytes
	}
	if n := l.base.Resident(); n > 0 {
		l.info.Tensors = append(l.info.Tensors, gotune.TensorInfo{Name: "(the 4-bit layers unpacked, kept where memory is plenty)", HeldAs: dtype, Bytes: n})
	}
}

func (l *model) tokenizerInfo() gotune.TokenizerInfo {
	name := func(id int32, ok bool) string {
		if !ok {
			return ""
		}
		return l.tok.Token(id)
	}
	kind := "byte-level BPE"
	if _, ok := l.tok.ID("<0x0A>"); ok {
		kind = "sentencepiece BPE"
	}
	info := gotune.TokenizerInfo{Kind: kind, VocabSize: l.tok.VocabSize(), BOS: name(l.tok.BOS()), EOS: name(l.tok.EOS()), Pad: name(l.tok.Pad()), PaddingSide: "right"}
	if info.Pad == "" {
		info.Pad = info.EOS // the walkthrough's choice; labels come from lengths, so EOS is learned all the same
	}
	return info
}

// reopen opens the model's files once more, for work that outlives the model.
func (l *model) reopen() (*checkpoint.Checkpoint, error) { return checkpoint.Open(l.info.Path) }

// close frees the model's memory.
func (l *model) close() {
	if l.base != nil {
		l.base.Free()
	}
	if l.files != nil {
		_ = l.files.Close() // nothing was written
	}
}

func (e *Engine) modelLoad(c *call, a struct{ Model gotune.Model }) (gotune.ModelInfo, error) {
	c.about(a.Model.Name)
	l, attached, err := c.model(a.Model)
	if err != nil {
		return gotune.ModelInfo{}, err
	}
	info := l.info
	info.Attached = attached
	return info, nil
}

func (e *Engine) modelUnload(c *call, a struct{ Model gotune.Model }) (gotune.StatusInfo, error) {
	c.about(a.Model.Name)
	m, err := a.Model.Resolved()
	if err != nil {
		return gotune.StatusInfo{}, err
	}
	if r := e.runs.running(); r != nil && r.usesModel(m.Name) {
		return gotune.StatusInfo{}, busy(fmt.Sprintf("model %q", m.Name), r)
	}
	for _, r := range e.runs.all() {
		if r.usesModel(m.Name) {
			r.release()
		}
	}
	if l, ok := e.models.remove(m.Name); ok {
		l.close()
	}
	return e.statusInfo(), nil
}

// modelError says which model a failure is about.
func modelError(m gotune.Model, err error) error {
	var g *gotune.Error
	if errors.As(err, &g) {
		return err
	}
	e := *asGotune(wire.VerbModelLoad, err)
	e.Op, e.Object = "load", fmt.Sprintf("model %q (%s)", m.Name, m.Source)
	return &e
}

// hostPeak is the most memory that this process held while it was watched.
type hostPeak struct {
	start int64
	most  atomic.Int64
	quit  chan struct{}
	done  atomic.Bool
}

// watchHost samples the process's resident set from now on.
func watchHost() *hostPeak {
	h := &hostPeak{start: residentSet(), quit: make(chan struct{})}
	go func() {
		t := time.NewTicker(20 * time.Millisecond)
		defer t.Stop()
		for {
			h.most.Store(max(h.most.Load(), residentSet()))
			select {
			case <-h.quit:
				return
			case <-t.C:
			}
		}
	}()
	return h
}

// stop ends the watch and returns the growth over the start.
func (h *hostPeak) stop() int64 {
	if h.done.CompareAndSwap(false, true) {
		close(h.quit)
	}
	return max(h.most.Load()-h.start, 0)
}

// residentSet is the process's anonymous memory: mapped model files are the
// page cache's and leave it by themselves.
func residentSet() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.Sys)
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(b), &size, &resident, &shared); err != nil {
		return 0
	}
	return (resident - shared) * int64(os.Getpagesize())
}
