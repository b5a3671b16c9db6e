package events

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A Line is one entry of a journal:
//
//	{"kind":"step","time":"2026-01-02T03:04:05.678Z","data":{…}}
type Line struct {
	Kind string          `json:"kind"`
	Time time.Time       `json:"time"`
	Data json.RawMessage `json:"data,omitempty"`
}

// The kinds that gotune writes.
const (
	KindConfig  = "config"  // the resolved configuration, first, and again when a run goes on
	KindStep    = "step"    // a step's record
	KindControl = "control" // what was done to the run from outside: paused, its learning rate set, …
	KindState   = "state"   // the run began, went on, was saved, ended
)

// A Journal is the record of a run, JSON lines in a file that is only ever
// appended to. One write a line: a crash can tear the last line only, which
// readers ignore and the next writer removes. It is safe for concurrent use.
type Journal struct {
	mu   sync.Mutex
	file *os.File
	size int64
}

// OpenJournal opens the journal at path for appending, and makes it and its
// folder if needed. A torn last line is removed.
func OpenJournal(path string) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("events: make the journal's folder: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("events: open the journal: %w", err)
	}
	size, err := wholeLines(f)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("events: open the journal %s: %w", path, err)
	}
	return &Journal{file: f, size: size}, nil
}

// wholeLines is the size of f up to and with its last newline.
func wholeLines(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for end := info.Size(); end > 0; {
		from := max(0, end-int64(len(buf)))
		part := buf[:end-from]
		if _, err := f.ReadAt(part, from); err != nil && err != io.EOF {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		end = from
	}
	return 0, nil
}

// Append adds a line with v as its data. It fails if v can't be JSON or the disk
// is full; the journal stays readable.
func (j *Journal) Append(kind string, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		data, err = json.Marshal(Line{Kind: kind, Time: time.Now().UTC().Truncate(time.Millisecond), Data: data})
	}
	if err != nil {
		return fmt.Errorf("events: write a %s line: %w", kind, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return appendWhole(j.file, &j.size, append(data, '\n'))
}

// Sync brings the lines so far to disk, for example before a checkpoint counts.
func (j *Journal) Sync() error {
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("events: sync the journal %s: %w", j.file.Name(), err)
	}
	return nil
}

// Close brings the journal to disk. Further calls do nothing.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return closeSynced(j.file)
}

// maxLine bounds the memory a damaged journal can take.
const maxLine = 64 << 20

// ReadJournal reads the journal at path. A missing file is an error that
// fs.ErrNotExist matches.
func ReadJournal(path string) (lines []Line, damaged []int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("events: read the journal: %w", err)
	}
	defer f.Close()
	lines, damaged, err = ParseJournal(f)
	if err != nil {
		return lines, damaged, fmt.Errorf("events: read the journal %s: %w", path, err)
	}
	return lines, damaged, nil
}

// ParseJournal reads lines. A last line without its newline is ignored: it is
// being written, or a crash tore it. Other lines that are no journal lines are
// left out and their numbers, from 1, returned as damaged. The error is the
// reader's.
func ParseJournal(r io.Reader) (lines []Line, damaged []int, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	for number := 1; ; number++ {
		text, whole, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return lines, damaged, nil
		}
		if err != nil {
			return lines, damaged, err
		}
		var l Line
		if !whole || json.Unmarshal(text, &l) != nil || l.Kind == "" {
			damaged = append(damaged, number)
			continue
		}
		lines = append(lines, l)
	}
}

// readLine returns the next line that ends with a newline, or io.EOF. Of a line
// longer than maxLine it returns a part, and false.
func readLine(in *bufio.Reader) (text []byte, whole bool, err error) {
	whole = true
	for {
		part, err := in.ReadSlice('\n')
		if len(text)+len(part) > maxLine {
			whole = false
		} else {
			text = append(text, part...)
		}
		if err == nil {
			return text, whole, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, false, err
		}
	}
}

// Replay decodes the lines of one kind as the steps of one run: a record of step
// s undoes all earlier ones of step s and later, since the run went back to a
// checkpoint before s. Lines that don't decode are left out.
func Replay[T any](lines []Line, kind string, step func(T) int) []T {
	var out []T
	for _, l := range lines {
		var v T
		if l.Kind != kind || json.Unmarshal(l.Data, &v) != nil {
			continue
		}
		n := len(out)
		for n > 0 && step(out[n-1]) >= step(v) {
			n--
		}
		out = append(out[:n], v)
	}
	return out
}
