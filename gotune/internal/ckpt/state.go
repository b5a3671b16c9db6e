package ckpt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/safetensors"
	"github.com/gotune/gotune/gotune/internal/train"
)

// stateFormat is the version of gotune_state.json.
const stateFormat = 1

// stateFile is gotune_state.json.
type stateFile struct {
	Format  int
	State   train.State
	History []entry
	Epoch   float64
	Steps   int
	Config  train.Config
	Files   map[string]fileSum // all other files of the checkpoint
}

type fileSum struct {
	Size   int64
	SHA256 string
}

// entry is a train.LogEntry whose numbers may be infinite.
type entry struct {
	Step                         int
	Epoch                        number
	Eval                         bool `json:",omitempty"`
	Loss, GradNorm, LearningRate number
	Seconds                      number `json:",omitempty"`
	Rows, Batches                int    `json:",omitempty"`
}

// number is a float64 whose NaN and infinities survive JSON, as strings.
type number float64

// MarshalJSON writes a number, or "NaN", "+Inf", "-Inf".
func (n number) MarshalJSON() ([]byte, error) {
	f := float64(n)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return json.Marshal(strconv.FormatFloat(f, 'g', -1, 64))
	}
	return json.Marshal(f)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (n *number) UnmarshalJSON(b []byte) error {
	var f float64
	if len(b) > 1 && b[0] == '"' {
		var err error
		if f, err = strconv.ParseFloat(string(b[1:len(b)-1]), 64); err != nil {
			return fmt.Errorf("number %s: %w", b, err)
		}
	} else if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	*n = number(f)
	return nil
}

func toEntry(e train.LogEntry) entry {
	return entry{e.Step, number(e.Epoch), e.Eval, number(e.Loss), number(e.GradNorm), number(e.LearningRate), number(e.Seconds), e.Rows, e.Batches}
}

func (e entry) log() train.LogEntry {
	return train.LogEntry{Step: e.Step, Epoch: float64(e.Epoch), Eval: e.Eval, Loss: float64(e.Loss), GradNorm: float64(e.GradNorm),
		LearningRate: float64(e.LearningRate), Seconds: float64(e.Seconds), Rows: e.Rows, Batches: e.Batches}
}

// writeState writes gotune_state.json, which sums up the other files, so it
// comes last.
func writeState(dir string, s train.Snapshot) error {
	f := stateFile{Format: stateFormat, State: s.State, Epoch: s.Epoch, Steps: s.Steps, Config: s.Config, Files: map[string]fileSum{}}
	for _, e := range s.State.History {
		f.History = append(f.History, toEntry(e))
	}
	items, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, it := range items {
		if f.Files[it.Name()], err = sum(filepath.Join(dir, it.Name())); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", stateName, err)
	}
	return writeFile(filepath.Join(dir, stateName), append(text, '\n'))
}

// Load reads a checkpoint and verifies each of its files by size and SHA-256. It
// returns an [*Error] that says which file is wrong, and how.
func Load(dir string) (*Checkpoint, error) {
	c, err := load(dir)
	if err != nil {
		return nil, &Error{"load", dir, "the checkpoint is damaged or not gotune's; use another one", err}
	}
	return c, nil
}

func load(dir string) (*Checkpoint, error) {
	f, err := readState(dir)
	if err != nil {
		return nil, err
	}
	for name, want := range f.Files {
		if filepath.Base(name) != name {
			return nil, fmt.Errorf("%s names %q, wanted a file of the same folder", stateName, name)
		}
		got, err := sum(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%s is missing", name)
		case err != nil:
			return nil, err
		case got.Size != want.Size:
			return nil, fmt.Errorf("%s has %d bytes, wanted %d", name, got.Size, want.Size)
		case got != want:
			return nil, fmt.Errorf("%s has other content than was written (SHA-256 %.12s…, wanted %.12s…)", name, got.SHA256, want.SHA256)
		}
	}
	c := &Checkpoint{Dir: dir, Snapshot: train.Snapshot{State: f.State, Epoch: f.Epoch, Steps: f.Steps, Config: f.Config, Name: filepath.Base(dir)}}
	for _, e := range f.History {
		c.Snapshot.State.History = append(c.Snapshot.State.History, e.log())
	}
	if c.Adapter, err = lora.Load(dir); err != nil {
		return nil, err
	}
	c.Snapshot.Tensors, err = readTensors(filepath.Join(dir, optimizerName))
	return c, err
}

func readState(dir string) (*stateFile, error) {
	text, err := os.ReadFile(filepath.Join(dir, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing", stateName)
	}
	if err != nil {
		return nil, err
	}
	return parseState(text)
}

// parseState reads gotune_state.json.
func parseState(text []byte) (*stateFile, error) {
	var f stateFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", stateName, err)
	}
	if f.Format != stateFormat {
		return nil, fmt.Errorf("%s has format %d, this gotune reads %d", stateName, f.Format, stateFormat)
	}
	if _, ok := f.Files[optimizerName]; !ok {
		return nil, fmt.Errorf("%s does not list %s", stateName, optimizerName)
	}
	return &f, nil
}

// readTensors copies all tensors out of a file, in their order there.
func readTensors(path string) ([]safetensors.Tensor, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []safetensors.Tensor
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return nil, err
		}
		t.Data = slices.Clone(t.Data)
		out = append(out, t)
	}
	return out, nil
}
