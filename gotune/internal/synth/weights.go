package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/parallel"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// std is the standard deviation of a projection's weights.
const std = 0.02

// options say how a model is written.
type options struct {
	shards int
	seed   int64
}

// write makes the folder dir with a whole model and returns the bytes of its
// weights. A folder that holds a config.json already is an error.
func write(dir string, s shape, o options) (int64, error) {
	if _, err := os.Stat(filepath.Join(dir, "config.json")); !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("write %s: it holds a model already: delete it or name another folder", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, fmt.Errorf("write model: %w", err)
	}
	tokenizer, tokenizerConfig, err := s.tokenizerFiles()
	if err != nil {
		return 0, err
	}
	for name, v := range map[string]any{"config.json": s.config(), "generation_config.json": s.generationConfig(),
		"tokenizer.json": tokenizer, "tokenizer_config.json": tokenizerConfig,
		"special_tokens_map.json": s.specialTokensMap()} {
		if err := writeJSON(filepath.Join(dir, name), v); err != nil {
			return 0, err
		}
	}
	c, err := model.ReadConfig(dir)
	if err != nil {
		return 0, err
	}
	return writeShards(dir, c, s, o)
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write model: %w", err)
	}
	return nil
}

// writeShards writes the weights and their index.
func writeShards(dir string, c *model.Config, s shape, o options) (int64, error) {
	specs := c.Weights()
	total := int64(0)
	for i := range specs {
		specs[i].DType = s.dtype
		n, err := specs[i].Bytes()
		if err != nil {
			return 0, err
		}
		total += n
	}
	parts := split(specs, total, max(o.shards, 1))
	weightMap := map[string]string{}
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(parts))
		if len(parts) == 1 {
			name = "model.safetensors"
		}
		for _, sp := range part {
			weightMap[sp.Name] = name
		}
		wg.Go(func() { errs[i] = writeShard(filepath.Join(dir, name), part, s, o) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil || len(parts) == 1 {
		return total, err
	}
	index := map[string]any{"metadata": map[string]any{"total_size": total}, "weight_map": weightMap}
	return total, writeJSON(filepath.Join(dir, "model.safetensors.index.json"), index)
}

// split cuts the weights into n runs of about equal size.
func split(specs []safetensors.Spec, total int64, n int) (parts [][]safetensors.Spec) {
	part, size := []safetensors.Spec(nil), int64(0)
	for _, sp := range specs {
		b, _ := sp.Bytes() // summed before, without an error
		if size > 0 && size+b/2 > total/int64(n) && len(parts) < n-1 {
			parts, part, size = append(parts, part), nil, 0
		}
		part, size = append(part, sp), size+b
	}
	return append(parts, part)
}

// writeShard makes one file: a tensor is computed while the one before is written.
func writeShard(path string, specs []safetensors.Spec, s shape, o options) error {
	out, err := safetensors.Create(path, specs, map[string]string{"format": "pt"})
	if err != nil {
		return err
	}
	defer out.Abort()
	ready, done := make(chan safetensors.Tensor, 1), make(chan struct{})
	go func() {
		defer close(ready)
		for _, sp := range specs {
			select {
			case ready <- s.tensor(sp, o.seed):
			case <-done:
				return
			}
		}
	}()
	defer close(done)
	for t := range ready {
		if err := out.WriteTensor(t); err != nil {
			return err
		}
	}
	return out.Commit()
}

// tensor computes one weight.
func (s shape) tensor(sp safetensors.Spec, seed int64) safetensors.Tensor {
	mean, dev := 0.0, std
	switch {
	case strings.HasSuffix(sp.Name, "norm.weight"):
		mean = 1
	case strings.HasSuffix(sp.Name, "o_proj.weight"), strings.HasSuffix(sp.Name, "down_proj.weight"):
		dev = std / math.Sqrt(2*float64(s.layers))
	}
	t := safetensors.Tensor{Name: sp.Name, DType: sp.DType, Shape: sp.Shape}
	t.Data = make([]byte, 2*t.Len())
	h := fnv.New64a()
	h.Write([]byte(sp.Name))
	fill(t.Data, quantiles(mean, dev, sp.DType), h.Sum64()^mix(uint64(seed)))
	return t
}

// fill writes table[16 random bits] to each value of data.
func fill(data []byte, table *[1 << 16]uint16, key uint64) {
	n := len(data) / 2
	parallel.For(n, 4, func(from, to int) {
		i := from
		for ; i+4 <= to; i += 4 {
			r := mix(key + uint64(i/4)*0x9E3779B97F4A7C15)
			v := uint64(table[r&0xffff]) | uint64(table[r>>16&0xffff])<<16 | uint64(table[r>>32&0xffff])<<32 | uint64(table[r>>48])<<48
			binary.LittleEndian.PutUint64(data[2*i:], v)
		}
		r := mix(key + uint64(i/4)*0x9E3779B97F4A7C15)
		for ; i < to; i++ {
			binary.LittleEndian.PutUint16(data[2*i:], table[r&0xffff])
			r >>= 16
		}
	})
}

// mix is the output function of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// unit are the 65,536 quantiles of the standard normal distribution at
// (i + ½)/65,536.
var unit = sync.OnceValue(func() *[1 << 16]float64 {
	var q [1 << 16]float64
	for i := range q {
		q[i] = math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/(1<<16)-1)
	}
	return &q
})

// quantiles is mean + dev·unit in the stored type.
func quantiles(mean, dev float64, dt safetensors.DType) *[1 << 16]uint16 {
	var out [1 << 16]uint16
	for i, q := range unit() {
		v := float32(mean + dev*q)
		if dt == safetensors.BF16 {
			out[i] = safetensors.F32ToBF16(v)
		} else {
			out[i] = safetensors.F32ToF16(v)
		}
	}
	return &out
}
