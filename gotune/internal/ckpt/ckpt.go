// Package ckpt keeps a run's checkpoints: folders checkpoint-N under the run's
// output folder, laid out as transformers and PEFT name things, so that PEFT
// loads one as an adapter and transformers reads its log.
//
//	checkpoint-25/
//	  adapter_config.json, adapter_model.safetensors   PEFT's
//	  optimizer.safetensors                            the optimizer's state
//	  trainer_state.json                               transformers' TrainerState, with log_history
//	  gotune_state.json                                where to go on, and the size and SHA-256 of each file
//
// # Crashes
//
// A checkpoint is written to a hidden folder beside its place, brought to disk,
// and renamed, so it is there whole or not at all; whatever kills the process, at
// any moment, the earlier ones stay as they are. Removing one begins with a
// rename, too. [Latest] verifies every byte and passes over damaged ones, saying
// which and why.
package ckpt

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/safetensors"
	"github.com/gotune/gotune/gotune/internal/train"
)

// Prefix begins the names of checkpoint folders; the step follows.
const Prefix = "checkpoint-"

// Files of a checkpoint.
const (
	optimizerName = "optimizer.safetensors"
	trainerName   = "trainer_state.json"
	stateName     = "gotune_state.json"
)

// Hidden folders on their way in and out.
const (
	incoming = ".incoming-"
	outgoing = ".outgoing-"
)

// A Checkpoint is one that was loaded.
type Checkpoint struct {
	Dir      string
	Adapter  *lora.Adapter
	Snapshot train.Snapshot // its Name is the folder's
}

// An Entry is a checkpoint's place; its content may be anything.
type Entry struct {
	Step int
	Dir  string
}

// Options of [Save].
type Options struct {
	// Limit is the number of checkpoints to keep, the oldest are removed
	// (transformers' save_total_limit). 0 keeps all.
	Limit int

	// Copy are files, such as the tokenizer's, to put into the checkpoint under
	// their own names.
	Copy []string
}

// An Error reports an operation on a checkpoint that failed.
type Error struct {
	Op   string // "save", "load", "remove"
	Dir  string // the checkpoint
	Next string // what to do
	Err  error
}

// Error says what failed, why, and what to do.
func (e *Error) Error() string {
	if e.Next == "" {
		return fmt.Sprintf("ckpt: %s %s: %v", e.Op, e.Dir, e.Err)
	}
	return fmt.Sprintf("ckpt: %s %s: %v: %s", e.Op, e.Dir, e.Err, e.Next)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// List returns the checkpoints of an output folder by step, the oldest first,
// without looking inside. A folder that does not exist has none.
func List(outputDir string) ([]Entry, error) {
	items, err := os.ReadDir(outputDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ckpt: list the checkpoints: %w", err)
	}
	var out []Entry
	for _, it := range items {
		digits, ok := strings.CutPrefix(it.Name(), Prefix)
		step, err := strconv.Atoi(digits)
		if ok && err == nil && step >= 0 && strconv.Itoa(step) == digits && it.IsDir() {
			out = append(out, Entry{step, filepath.Join(outputDir, it.Name())})
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return cmp.Compare(a.Step, b.Step) })
	return out, nil
}

// A NoneError says that an output folder has no checkpoint that can be loaded.
// errors.Is(err, fs.ErrNotExist) holds.
type NoneError struct {
	Dir     string
	Damaged int
}

// Error says where it looked.
func (e *NoneError) Error() string {
	if e.Damaged > 0 {
		return fmt.Sprintf("ckpt: none of the %d checkpoints in %s can be loaded: train anew", e.Damaged, e.Dir)
	}
	return fmt.Sprintf("ckpt: %s holds no checkpoint: train first, or give the run's output folder", e.Dir)
}

// Is makes errors.Is(err, fs.ErrNotExist) hold.
func (e *NoneError) Is(target error) bool { return target == fs.ErrNotExist }

// Latest loads the checkpoint of the highest step that is whole. damaged holds
// an [*Error] for each newer one that is not. Without any it returns a
// [*NoneError].
func Latest(outputDir string) (c *Checkpoint, damaged []error, err error) {
	entries, err := List(outputDir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range slices.Backward(entries) {
		c, err := Load(e.Dir)
		if err == nil {
			return c, damaged, nil
		}
		damaged = append(damaged, err)
	}
	return nil, damaged, &NoneError{outputDir, len(damaged)}
}

// Save writes the checkpoint of s and a into outputDir, then removes the oldest
// above o.Limit, and returns the new folder. One that has the same step is
// replaced. When it fails, the disk being full, say, nothing is left of the new
// one and the earlier ones are as they were.
func Save(outputDir string, a *lora.Adapter, s train.Snapshot, o Options) (string, error) {
	s.Name = Prefix + strconv.Itoa(s.State.Step)
	dir := filepath.Join(outputDir, s.Name)
	fail := func(err error) (string, error) {
		next := "the earlier checkpoints are whole; look at the folder's permissions"
		var full *safetensors.DiskFullError
		if errors.As(err, &full) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			next = "the earlier checkpoints are whole; free some space or lower SaveTotalLimit, then train again to go on"
		}
		return "", &Error{"save", dir, next, err}
	}
	if s.State.Step < 0 || a == nil {
		return fail(fmt.Errorf("step %d, adapter %v: wanted a step of 0 or more and an adapter", s.State.Step, a != nil))
	}
	if err := os.MkdirAll(outputDir, 0o755); err != nil {
		return fail(err)
	}
	if err := sweep(outputDir); err != nil {
		return fail(err)
	}
	temp, err := os.MkdirTemp(outputDir, incoming+s.Name+"-")
	if err != nil {
		return fail(err)
	}
	if err = write(temp, a, s, o.Copy); err == nil {
		err = place(temp, dir)
	}
	if err != nil {
		return fail(errors.Join(err, os.RemoveAll(temp)))
	}
	if err := syncDir(outputDir); err != nil {
		return fail(err)
	}
	return dir, limit(outputDir, dir, o.Limit)
}

// write fills the folder and brings it to disk.
func write(dir string, a *lora.Adapter, s train.Snapshot, files []string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := a.Save(dir); err != nil {
		return err
	}
	if err := safetensors.Write(filepath.Join(dir, optimizerName), s.Tensors, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	for _, f := range files {
		if err := copyFile(filepath.Join(dir, filepath.Base(f)), f); err != nil {
			return err
		}
	}
	if err := writeTrainerState(filepath.Join(dir, trainerName), s); err != nil {
		return err
	}
	if err := writeState(dir, s); err != nil {
		return err
	}
	return syncDir(dir)
}

// place gives temp its name. If there is one already, the two change places in
// one step (where the system can), and the old one is removed.
func place(temp, dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(temp, dir)
	}
	if err := exchange(temp, dir); err == nil {
		return os.RemoveAll(temp)
	}
	old := outName(dir)
	if err := os.Rename(dir, old); err != nil {
		return err
	}
	if err := os.Rename(temp, dir); err != nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	return os.RemoveAll(old)
}

// limit removes the oldest checkpoints but for keep of them; saved stays.
func limit(outputDir, saved string, keep int) error {
	if keep <= 0 {
		return nil
	}
	entries, err := List(outputDir)
	if err != nil {
		return err
	}
	extra := len(entries) - keep
	for _, e := range entries {
		if extra <= 0 {
			return nil
		}
		if e.Dir == saved {
			continue
		}
		if err := remove(e.Dir); err != nil {
			return err
		}
		extra--
	}
	return nil
}

// RemoveAfter removes the checkpoints of steps after the given one: those of
// another course that the run did not take, or damaged. -1 removes all.
func RemoveAfter(outputDir string, step int) error {
	entries, err := List(outputDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Step <= step {
			continue
		}
		if err := remove(e.Dir); err != nil {
			return err
		}
	}
	return nil
}

// remove takes a checkpoint out of sight at once, then deletes it.
func remove(dir string) error {
	old := outName(dir)
	err := os.Rename(dir, old)
	if err == nil {
		err = os.RemoveAll(old)
	}
	if err != nil {
		return &Error{"remove", dir, "look at the folder's permissions", err}
	}
	return nil
}

func outName(dir string) string {
	return filepath.Join(filepath.Dir(dir), fmt.Sprintf("%s%s-%d", outgoing, filepath.Base(dir), os.Getpid()))
}

// sweep deletes what a process that was killed left on its way in or out.
func sweep(outputDir string) error {
	items, err := os.ReadDir(outputDir)
	if err != nil {
		return err
	}
	for _, it := range items {
		if n := it.Name(); strings.HasPrefix(n, incoming) || strings.HasPrefix(n, outgoing) {
			if err := os.RemoveAll(filepath.Join(outputDir, n)); err != nil {
				return err
			}
		}
	}
	return nil
}
