package lora

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// MergeOptions says how the merged model is stored.
type MergeOptions struct {
	// DType of all weights: F32, F16 or BF16. Empty means the type that the
	// checkpoint's config.json names, or F16 if its weights are quantized or it
	// names none.
	DType safetensors.DType

	// MaxShardBytes is the most that one file holds, unless a single tensor is
	// larger. 0 means 5 GB, as transformers 4 writes.
	MaxShardBytes int64
}

// defaultShardBytes is transformers' "5GB".
const defaultShardBytes = 5_000_000_000

// Merge writes the model with the adapter's update added to its weights to the
// new folder outDir, in the Hugging Face layout: weights, config.json,
// generation_config.json, tokenizer and licence files.
//
// It computes what PEFT's merge_and_unload does after the base was loaded in the
// target type: the base weight is rounded to DType (dequantized first if it is
// packed), s·B·A is added in float32, a DoRA row is scaled to its length, and the
// sum is rounded to DType. A nil adapter only converts.
//
// One tensor after another goes through, so memory stays near the size of one.
// outDir appears whole or not at all; an older model there is replaced, but a
// folder that holds no model is an error. progress, if not nil, is told the bytes
// written and to be written. Errors: [*AdapterError] if adapter and model do not
// fit, [*model.CheckpointError], [*safetensors.DiskFullError] before anything is
// written if the disk is too small, and ctx's own.
func Merge(ctx context.Context, ck *model.Checkpoint, a *Adapter, outDir string, o MergeOptions, progress func(done, total int64)) error {
	m := merger{ctx: ctx, ck: ck, adapter: a, dtype: o.DType, progress: progress}
	if err := m.check(); err != nil {
		return err
	}
	outDir, err := filepath.Abs(outDir)
	if err != nil {
		return fmt.Errorf("lora: merge: %w", err)
	}
	if err := checkTarget(outDir, ck.Dir()); err != nil {
		return err
	}
	shards, err := m.plan(o.MaxShardBytes)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(outDir), 0o755); err != nil {
		return fmt.Errorf("lora: merge: %w", err)
	}
	if free, ok := safetensors.FreeSpace(filepath.Dir(outDir)); ok && free < m.total {
		return &safetensors.DiskFullError{Path: outDir, Wanted: m.total, Free: free}
	}
	temp, err := os.MkdirTemp(filepath.Dir(outDir), "."+filepath.Base(outDir)+".*.incomplete")
	if err != nil {
		return fmt.Errorf("lora: merge: %w", err)
	}
	defer os.RemoveAll(temp) // after success there is nothing under this name
	if err := os.Chmod(temp, 0o755); err != nil {
		return fmt.Errorf("lora: merge: %w", err)
	}
	if err := m.write(temp, shards); err != nil {
		return err
	}
	return replaceDir(outDir, temp)
}

// merger is one merge under way.
type merger struct {
	ctx      context.Context
	ck       *model.Checkpoint
	adapter  *Adapter // nil for none
	dtype    safetensors.DType
	progress func(done, total int64)

	done, total int64
	params      int64
	buf         []byte // of the weight under way
}

// check compares adapter, checkpoint and options before any work.
func (m *merger) check() error {
	if m.dtype == "" {
		m.dtype, _ = model.DType(m.ck.Config.DType)
		if m.ck.Config.Quantization != nil || m.dtype == "" || m.dtype == safetensors.F64 {
			m.dtype = safetensors.F16
		}
	}
	switch m.dtype {
	case safetensors.F32, safetensors.F16, safetensors.BF16:
	default:
		return fmt.Errorf("lora: merge: the type is %q, wanted F32, F16 or BF16", m.dtype)
	}
	if err := m.ck.Check(); err != nil {
		return err
	}
	if m.adapter == nil {
		return nil
	}
	if err := m.adapter.Config.Validate(); err != nil {
		return err
	}
	return m.adapter.Check(m.ck.Config)
}

// shard is one file to write and its tensors.
type shard struct {
	file  string
	specs []safetensors.Spec
}

// plan distributes the weights over files in the model's order, and orders each
// file as the official writer does.
func (m *merger) plan(maxBytes int64) ([]shard, error) {
	if maxBytes <= 0 {
		maxBytes = defaultShardBytes
	}
	var shards []shard
	size := int64(0)
	for _, s := range m.ck.Config.Weights() {
		s.DType = m.dtype
		n, err := s.Bytes()
		if err != nil {
			return nil, fmt.Errorf("lora: merge: %w", err)
		}
		if len(shards) == 0 || size+n > maxBytes && size > 0 {
			shards, size = append(shards, shard{}), 0
		}
		last := &shards[len(shards)-1]
		last.specs = append(last.specs, s)
		size += n
		m.total += n
		m.params += n / int64(m.dtype.Size())
	}
	for i := range shards {
		shards[i].file = "model.safetensors"
		if len(shards) > 1 {
			shards[i].file = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		}
		safetensors.SortSpecs(shards[i].specs)
	}
	return shards, nil
}

// write fills the folder dir.
func (m *merger) write(dir string, shards []shard) error {
	index := map[string]string{}
	for _, s := range shards {
		if err := m.writeShard(filepath.Join(dir, s.file), s); err != nil {
			return err
		}
		for _, spec := range s.specs {
			index[spec.Name] = s.file
		}
	}
	if len(shards) > 1 {
		text, err := json.MarshalIndent(map[string]any{
			"metadata":   map[string]int64{"total_parameters": m.params, "total_size": m.total},
			"weight_map": index,
		}, "", "  ")
		if err != nil {
			return fmt.Errorf("lora: merge: %w", err)
		}
		if err := writeFile(filepath.Join(dir, "model.safetensors.index.json"), append(text, '\n')); err != nil {
			return err
		}
	}
	config, err := m.ck.Config.Rewrite(model.DTypeName(m.dtype))
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "config.json"), config); err != nil {
		return err
	}
	side, err := model.SideFiles(m.ck.Dir())
	if err != nil {
		return err
	}
	for _, name := range side {
		if err := copyFile(filepath.Join(dir, name), filepath.Join(m.ck.Dir(), name)); err != nil {
			return err
		}
	}
	return nil
}

func (m *merger) writeShard(path string, s shard) error {
	w, err := safetensors.Create(path, s.specs, map[string]string{"format": "pt"})
	if err != nil {
		return fmt.Errorf("lora: merge: %w", err)
	}
	defer w.Abort()
	for i, spec := range s.specs {
		if err := m.ctx.Err(); err != nil {
			return fmt.Errorf("lora: merge: stopped after %d of %d bytes, nothing was kept: %w", m.done, m.total, err)
		}
		if i+1 < len(s.specs) {
			m.ck.Want(s.specs[i+1].Name)
		}
		t, err := m.tensor(spec)
		if err != nil {
			return err
		}
		if err := w.WriteTensor(t); err != nil {
			return fmt.Errorf("lora: merge: %w", err)
		}
		m.ck.Drop(spec.Name)
		m.done += int64(len(t.Data))
		if m.progress != nil {
			m.progress(m.done, m.total)
		}
	}
	return w.Commit()
}

// checkTarget refuses a target that would destroy something else than a model.
func checkTarget(outDir, source string) error {
	bad := func(what string) error {
		return fmt.Errorf("lora: merge into %s: %s: choose another folder", outDir, what)
	}
	src, err := filepath.Abs(source)
	if err != nil {
		return fmt.Errorf("lora: merge: %w", err)
	}
	for _, p := range []*string{&outDir, &src} {
		if real, err := filepath.EvalSymlinks(*p); err == nil {
			*p = real
		}
	}
	if rel, err := filepath.Rel(outDir, src); err == nil && (rel == "." || !strings.HasPrefix(rel, "..")) {
		return bad("this is the base model's own folder, or one above it")
	}
	info, err := os.Stat(outDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lora: merge: %w", err)
	}
	if !info.IsDir() {
		return bad("this is a file")
	}
	entries, err := os.ReadDir(outDir)
	if err != nil {
		return fmt.Errorf("lora: merge: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := os.Stat(filepath.Join(outDir, "config.json")); err != nil {
		return bad(fmt.Sprintf("the folder exists and holds %q, but no config.json, so it is no model that could be replaced", entries[0].Name()))
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != ".cache" {
			return bad(fmt.Sprintf("the folder holds the folder %q, which is no part of a merged model", e.Name()))
		}
	}
	return nil
}

// replaceDir gives the finished folder temp its name. An older folder there is
// moved away first and removed last, so that one of the two is always whole.
func replaceDir(outDir, temp string) error {
	old := temp + ".old"
	err := os.Rename(outDir, old)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lora: merge into %s: move the older model away: %w", outDir, err)
	}
	hadOld := err == nil
	if err := os.Rename(temp, outDir); err != nil {
		if hadOld {
			err = errors.Join(err, os.Rename(old, outDir))
		}
		return fmt.Errorf("lora: merge into %s: %w", outDir, err)
	}
	if err := syncDir(filepath.Dir(outDir)); err != nil {
		return err
	}
	if hadOld {
		if err := os.RemoveAll(old); err != nil {
			return fmt.Errorf("lora: merge into %s: the merged model is in place, but remove the older one: %w", outDir, err)
		}
	}
	return nil
}
