package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/gotune/gotune/gotune/internal/quant"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// Names of a checkpoint's files.
const (
	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"
)

// Checkpoint is an open folder of weights: one file, or shards with an index. It
// is safe for concurrent use, except for Close.
type Checkpoint struct {
	Config *Config

	dir    string
	files  []*safetensors.File
	owner  map[string]*safetensors.File // by tensor name
	names  []string                     // in file order
	packed map[string]bool              // weights that bitsandbytes packed
}

// A CheckpointError reports weights that cannot be used.
type CheckpointError struct {
	Dir    string
	Tensor string // empty if the folder as a whole is meant
	What   string // found, wanted, next step
}

func (e *CheckpointError) Error() string {
	if e.Tensor == "" {
		return fmt.Sprintf("model: open %s: %s", e.Dir, e.What)
	}
	return fmt.Sprintf("model: open %s: tensor %q: %s", e.Dir, e.Tensor, e.What)
}

// Open reads the configuration and maps the weights in dir. Headers are checked,
// so a shard that is missing or cut off is found here, in milliseconds; the
// weights themselves are not read. [Checkpoint.Check] compares them with the
// configuration.
func Open(dir string) (*Checkpoint, error) {
	c, err := ReadConfig(dir)
	if err != nil {
		return nil, err
	}
	files, weightMap, err := listFiles(dir)
	if err != nil {
		return nil, err
	}
	ck := &Checkpoint{Config: c, dir: dir, owner: map[string]*safetensors.File{}, packed: map[string]bool{}}
	for _, name := range files {
		f, err := safetensors.Open(filepath.Join(dir, name))
		if err != nil {
			ck.Close()
			return nil, fmt.Errorf("model: open %s: %w", dir, err)
		}
		ck.files = append(ck.files, f)
		if err := ck.add(f, name, weightMap); err != nil {
			ck.Close()
			return nil, err
		}
	}
	for name, file := range weightMap {
		if ck.owner[name] == nil {
			ck.Close()
			return nil, &CheckpointError{dir, name, fmt.Sprintf("the index places it in %s, which lacks it: the download is mixed up; delete the folder and load the model again", file)}
		}
	}
	return ck, nil
}

// add takes over the tensors of one file.
func (ck *Checkpoint) add(f *safetensors.File, file string, weightMap map[string]string) error {
	for _, name := range f.Names() {
		if weightMap != nil && weightMap[name] != file {
			continue // the index decides: a shard may hold leftovers
		}
		if ck.owner[name] != nil {
			return &CheckpointError{ck.dir, name, fmt.Sprintf("two files hold it, %s and %s", filepath.Base(ck.owner[name].Path()), file)}
		}
		ck.owner[name] = f
		ck.names = append(ck.names, name)
		if w, part := quant.Owner(name); part {
			ck.packed[w] = true
		}
	}
	return nil
}

// listFiles finds the weight files of dir, and for shards which tensor is where.
func listFiles(dir string) ([]string, map[string]string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, indexName))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, singleName)); err != nil {
			return nil, nil, &CheckpointError{dir, "", noWeights(dir)}
		}
		return []string{singleName}, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("model: %w", err)
	}
	weightMap, err := parseIndex(filepath.Join(dir, indexName), raw)
	if err != nil {
		return nil, nil, err
	}
	var files, missing []string
	for _, file := range weightMap {
		if !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	slices.Sort(files)
	for _, file := range files {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			missing = append(missing, file)
		}
	}
	if len(missing) > 0 {
		return nil, nil, &CheckpointError{dir, "", fmt.Sprintf("found %d of %d shards, missing %q: load the model again to fetch them", len(files)-len(missing), len(files), missing)}
	}
	return files, weightMap, nil
}

// noWeights says what a folder without safetensors holds instead.
func noWeights(dir string) string {
	for _, old := range []string{"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"} {
		if _, err := os.Stat(filepath.Join(dir, old)); err == nil {
			return fmt.Sprintf("found %s, wanted %s: gotune reads no pickled weights, since loading them runs code; take a revision or repository with safetensors", old, singleName)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "adapter_config.json")); err == nil {
		return "found an adapter, wanted a model's weights: give the base model here and the adapter beside it"
	}
	return fmt.Sprintf("found neither %s nor %s: the download is incomplete or this is no model's folder; load the model again", singleName, indexName)
}

// parseIndex reads an index: which shard holds which tensor. Shards must be plain
// file names, so that a downloaded index cannot reach outside of its folder.
func parseIndex(path string, raw []byte) (map[string]string, error) {
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	bad := func(format string, args ...any) (map[string]string, error) {
		return nil, &ConfigError{path, "weight_map", fmt.Sprintf(format, args...)}
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, &ConfigError{path, "", fmt.Sprintf("it does not read as an index of shards: %v; delete it and load the model again", err)}
	}
	if len(index.WeightMap) == 0 {
		return bad("it is empty or missing: delete the file and load the model again")
	}
	for name, file := range index.WeightMap {
		if file == "" || file != filepath.Base(file) || !filepath.IsLocal(file) {
			return bad("it places %q in %q, wanted the name of a file in the same folder", name, file)
		}
	}
	return index.WeightMap, nil
}

// Close unmaps the weights. Views of tensors must not be used any more.
func (ck *Checkpoint) Close() error {
	var errs []error
	for _, f := range ck.files {
		errs = append(errs, f.Close())
	}
	ck.files = nil
	return errors.Join(errs...)
}

// Dir returns the folder.
func (ck *Checkpoint) Dir() string { return ck.dir }

// Files lists the weight files by name.
func (ck *Checkpoint) Files() []string {
	names := make([]string, len(ck.files))
	for i, f := range ck.files {
		names[i] = filepath.Base(f.Path())
	}
	return names
}

// Names lists all stored tensors in the order in which they lie in the files.
// The parts of packed weights (scales and so on) are among them.
func (ck *Checkpoint) Names() []string { return slices.Clone(ck.names) }

// Has reports whether the checkpoint stores a tensor of this name.
func (ck *Checkpoint) Has(name string) bool { return ck.owner[name] != nil }

// Spec describes a stored tensor without touching its values.
func (ck *Checkpoint) Spec(name string) (safetensors.Spec, bool) {
	f := ck.owner[name]
	if f == nil {
		return safetensors.Spec{}, false
	}
	return f.Spec(name)
}

// Tensor returns a stored tensor as a view of the mapped file. For a weight that
// is packed these are its codes: see [Checkpoint.Quantized]. A missing name gives
// an error for which errors.Is(err, fs.ErrNotExist) holds.
func (ck *Checkpoint) Tensor(name string) (safetensors.Tensor, error) {
	f := ck.owner[name]
	if f == nil {
		return safetensors.Tensor{}, &safetensors.NotFoundError{Path: ck.dir, Tensor: name, Have: len(ck.names)}
	}
	return f.Tensor(name)
}

// Reader returns the bytes of a stored tensor to be read a piece at a time, which
// is faster than the view for weights that are read once: see
// [safetensors.File.Reader].
func (ck *Checkpoint) Reader(name string) (io.ReaderAt, safetensors.Spec, error) {
	f := ck.owner[name]
	if f == nil {
		return nil, safetensors.Spec{}, &safetensors.NotFoundError{Path: ck.dir, Tensor: name, Have: len(ck.names)}
	}
	return f.Reader(name)
}

// Quantized returns a weight that bitsandbytes packed; ok is false if the weight
// is stored plainly.
func (ck *Checkpoint) Quantized(name string) (t *quant.Tensor, ok bool, err error) {
	if !ck.packed[name] {
		return nil, false, nil
	}
	t, err = quant.Load(name, ck.Tensor)
	if err != nil {
		return nil, false, fmt.Errorf("model: open %s: %w", ck.dir, err)
	}
	if t == nil {
		return nil, false, &CheckpointError{ck.dir, name, "it has scales but no quant_state: the checkpoint is broken; load the model again"}
	}
	return t, true, nil
}

// Float32 returns a weight's values, dequantized if it is packed, with its shape.
func (ck *Checkpoint) Float32(name string) ([]float32, []int, error) {
	q, ok, err := ck.Quantized(name)
	if err != nil {
		return nil, nil, err
	}
	if ok {
		w := make([]float32, q.Len())
		q.Dequantize(w)
		return w, q.Shape, nil
	}
	t, err := ck.Tensor(name)
	if err != nil {
		return nil, nil, err
	}
	w, err := t.Float32()
	return w, t.Shape, err
}

// Want starts to fetch a weight from disk; Drop gives its pages back. Both take
// the parts of a packed weight along.
func (ck *Checkpoint) Want(name string) { ck.each(name, (*safetensors.File).Want) }

// Drop gives the memory of a weight's pages back; the weight stays readable.
func (ck *Checkpoint) Drop(name string) { ck.each(name, (*safetensors.File).Drop) }

func (ck *Checkpoint) each(name string, do func(*safetensors.File, string)) {
	parts := []string{name}
	if ck.packed[name] {
		parts = append(parts, name+".absmax", name+".nested_absmax")
	}
	for _, p := range parts {
		if f := ck.owner[p]; f != nil {
			do(f, p)
		}
	}
}

// Bytes returns the size of all stored tensors.
func (ck *Checkpoint) Bytes() int64 {
	n := int64(0)
	for _, name := range ck.names {
		if s, ok := ck.Spec(name); ok {
			size, _ := s.Bytes() // the header check has computed it already
			n += size
		}
	}
	return n
}
