package events

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gotune/gotune/gotune/internal/train"
)

// RunDir is the folder for a run's event files that transformers would choose
// under its output folder: runs/Aug05_14-03-59_hostname.
func RunDir(outputDir string, at time.Time, host string) string {
	return filepath.Join(outputDir, "runs", at.Format("Jan02_15-04-05")+"_"+host)
}

// Tag is the name under which transformers shows a logged number: "eval_loss"
// becomes "eval/loss", "test_x" "test/x", and all else "train/…".
func Tag(name string) string {
	for _, prefix := range []string{"eval", "test"} {
		if rest, ok := strings.CutPrefix(name, prefix+"_"); ok {
			return prefix + "/" + rest
		}
	}
	return "train/" + name
}

// A TensorBoard writes one event file. Every call appends a whole record at
// once, so a reader beside it (or after a crash) sees all but the last. It is
// safe for concurrent use.
type TensorBoard struct {
	mu   sync.Mutex
	file *os.File
	size int64
	now  func() time.Time
}

// files tells apart the files that one process begins within a second.
var files atomic.Int64

// CreateTensorBoard begins a new event file in dir, which it makes if needed:
// events.out.tfevents.SECONDS.HOST.PID.N.
func CreateTensorBoard(dir string) (*TensorBoard, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("events: make the folder for TensorBoard: %w", err)
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	now := time.Now()
	name := fmt.Sprintf("events.out.tfevents.%d.%s.%d.%d", now.Unix(), host, os.Getpid(), files.Add(1)-1)
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("events: begin a TensorBoard file: %w", err)
	}
	w := &TensorBoard{file: f, now: time.Now}
	if err := w.append(fileVersion(seconds(now))); err != nil {
		_ = f.Close()
		return nil, err
	}
	return w, nil
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// Path is the file's.
func (w *TensorBoard) Path() string { return w.file.Name() }

// Scalar adds a point to the curve tag.
func (w *TensorBoard) Scalar(tag string, step int64, v float64) error {
	return w.append(summary(seconds(w.now()), step, scalar(tag, float32(v))))
}

// Text adds a text, shown under tag + "/text_summary" as torch names it.
func (w *TensorBoard) Text(tag, text string, step int64) error {
	return w.append(summary(seconds(w.now()), step, textValue(tag+"/text_summary", strings.ToValidUTF8(text, "\uFFFD"))))
}

// Log adds the numbers of a line of the log: train/loss, train/grad_norm,
// train/learning_rate, train/epoch, or eval/loss and so on.
func (w *TensorBoard) Log(e train.LogEntry) error {
	for _, v := range e.Values() {
		if err := w.Scalar(Tag(v.Name), int64(e.Step), v.Value); err != nil {
			return err
		}
	}
	return nil
}

// Resume tells readers of the folder to forget what older files say of steps
// after the given one, since they will come again.
func (w *TensorBoard) Resume(step int64) error {
	return w.append(sessionStarts(seconds(w.now()), step+1))
}

func (w *TensorBoard) append(m message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return appendWhole(w.file, &w.size, record(m))
}

// Close brings the file to disk. Further calls do nothing.
func (w *TensorBoard) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return closeSynced(w.file)
}

// appendWhole writes b at *size, the end of f, and takes back a part that was
// written when it fails, so that a later record follows a whole one.
func appendWhole(f *os.File, size *int64, b []byte) error {
	n, err := f.WriteAt(b, *size)
	if err == nil {
		*size += int64(len(b))
		return nil
	}
	if n > 0 {
		err = errors.Join(err, f.Truncate(*size))
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("events: append %d bytes to %s: the disk is full; the file is whole up to here: free some space: %w", len(b), f.Name(), err)
	}
	return fmt.Errorf("events: append to %s: %w", f.Name(), err)
}

func closeSynced(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("events: close %s: %w", f.Name(), err)
	}
	return nil
}
