package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// Every golden file is read, and files of the official writer are written again
// byte for byte.
func TestGoldenFiles(t *testing.T) {
	root := oracle.Dir(t)
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".safetensors" {
			return err
		}
		files++
		f, err := Open(path)
		if err != nil {
			t.Error(err)
			return nil
		}
		defer f.Close()
		readAll(t, f)
		var list []Tensor
		for _, name := range f.Names() {
			w, err := f.Tensor(name)
			if err != nil {
				return err
			}
			list = append(list, w)
		}
		again := filepath.Join(t.TempDir(), "again.safetensors")
		if err := Write(again, list, f.Metadata()); err != nil {
			return err
		}
		got, err := os.ReadFile(again)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, f.data) {
			t.Errorf("%s is written differently: %d bytes, the official writer wrote %d", path, len(got), len(f.data))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Fatalf("no safetensors file under %s", root)
	}
}

// All 65,536 halves and bfloat16s survive the way to float32 and back, and every
// rounding goes to the nearest, ties to even: checked at the midpoints between
// neighbours and beside them.
func TestHalfConversions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		widen  func(uint16) float32
		narrow func(float32) uint16
		inf    uint16
	}{
		{"F16", F16ToF32, F32ToF16, 0x7c00},
		{"BF16", BF16ToF32, F32ToBF16, 0x7f80},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for b := range 1 << 16 {
				h := uint16(b)
				f := tt.widen(h)
				if h&0x7fff > tt.inf {
					if f == f || tt.narrow(f)&0x7fff <= tt.inf {
						t.Fatalf("%04x is a NaN, became %g and %04x", h, f, tt.narrow(f))
					}
					continue
				}
				if got := tt.narrow(f); got != h {
					t.Fatalf("%04x became %g and %04x", h, f, got)
				}
				if h&0x7fff >= tt.inf-1 {
					continue
				}
				up := tt.widen(h + 1)
				mid := float32((float64(f) + float64(up)) / 2)
				even := h + h&1
				if got := tt.narrow(mid); got != even {
					t.Fatalf("the midpoint %g of %04x and %04x became %04x, want %04x", mid, h, h+1, got, even)
				}
				if got := tt.narrow(math.Nextafter32(mid, f)); got != h {
					t.Fatalf("below the midpoint of %04x: %04x", h, got)
				}
				if got := tt.narrow(math.Nextafter32(mid, up)); got != h+1 {
					t.Fatalf("above the midpoint of %04x: %04x", h, got)
				}
			}
			if got := tt.narrow(math.MaxFloat32); got != tt.inf {
				t.Errorf("the largest float32 became %04x, want infinity", got)
			}
			if got := tt.narrow(float32(math.Inf(-1))); got != tt.inf|0x8000 {
				t.Errorf("-Inf became %04x", got)
			}
		})
	}
	if F16ToF32(1) != 0x1p-24 || F16ToF32(0x7bff) != 65504 || F16ToF32(0x3c00) != 1 || F32ToF16(65519.99) != 0x7bff || F32ToF16(65520) != 0x7c00 {
		t.Error("the halves 2^-24, 65504 and 1, or the limit 65520, are wrong")
	}
}

func TestFloat32Into(t *testing.T) {
	values := make([]float32, 1<<17+5)
	for i := range values {
		values[i] = float32(i%251) / 8
	}
	for _, dt := range []DType{F32, F16, BF16, F64} {
		w, err := FromFloat32("w", []int{len(values)}, values, dt)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.Float32()
		if err != nil || !slices.Equal(got, values) {
			t.Errorf("%s: values changed (%v)", dt, err)
		}
		part := make([]float32, 10)
		if err := w.Float32Into(part, 3, 7); err != nil || !slices.Equal(part[:7], values[3:10]) || part[7] != 0 {
			t.Errorf("%s: Float32Into(3, 7) = %v, %v", dt, part, err)
		}
		for _, r := range [][2]int{{-1, 1}, {0, 11}, {0, -1}, {len(values), 1}, {math.MaxInt, 1}, {len(values) - 3, 4}} {
			if err := w.Float32Into(part, r[0], r[1]); err == nil {
				t.Errorf("%s: Float32Into%v succeeded", dt, r)
			}
		}
	}
	if _, err := (Tensor{Name: "i", DType: I64, Shape: []int{1}, Data: make([]byte, 8)}).Float32(); err == nil || !strings.Contains(err.Error(), "I64") {
		t.Errorf("Float32 of I64: %v", err)
	}
	if _, err := (Tensor{Name: "short", DType: F32, Shape: []int{2}, Data: make([]byte, 7)}).Float32(); err == nil {
		t.Error("Float32 of a tensor with too few bytes succeeded")
	}
}

func TestInt64s(t *testing.T) {
	for dt, data := range map[DType][]byte{
		I64: binary.LittleEndian.AppendUint64(nil, math.MaxUint64), I32: {255, 255, 255, 255}, I16: {255, 255}, I8: {255},
	} {
		if got, err := (Tensor{"x", dt, []int{1}, data}).Int64s(); err != nil || got[0] != -1 {
			t.Errorf("%s: %v, %v, want -1", dt, got, err)
		}
	}
	if _, err := (Tensor{"x", F32, []int{1}, make([]byte, 4)}).Int64s(); err == nil {
		t.Error("Int64s of F32 succeeded")
	}
}

func TestTruncatedFileSaysWhatToDo(t *testing.T) {
	whole := file("{"+one("a", "100", "0,100")+"}", strings.Repeat("x", 100))
	for _, n := range []int{4, 20, len(whole) - 1} {
		_, err := openBytes(t, whole[:n])
		var te *TruncatedError
		if !errors.As(err, &te) || te.Found != int64(n) || !strings.Contains(err.Error(), "delete the file and load the model again") {
			t.Errorf("Open of the first %d bytes: %v", n, err)
		}
		if n > 60 && te.Wanted != int64(len(whole)) {
			t.Errorf("wanted %d bytes, want %d", te.Wanted, len(whole))
		}
	}
}

func TestTensorNotFound(t *testing.T) {
	f, err := openBytes(t, file("{"+one("a", "1", "0,1")+"}", "x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tensor("b"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("Tensor(b): %v", err)
	}
	f.Drop("b")
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Errorf("Close twice: %v", err)
	}
	if _, err := f.Tensor("a"); err == nil {
		t.Error("Tensor after Close succeeded")
	}
}

func TestWriterKeepsItsPromises(t *testing.T) {
	a := Tensor{"a", U8, []int{2}, []byte{1, 2}}
	b := Tensor{"b", U8, []int{1}, []byte{3}}
	specs := []Spec{a.Spec(), b.Spec()}
	for _, tt := range []struct {
		name string
		do   func(w *Writer) error
	}{
		{"wrong order", func(w *Writer) error { return w.WriteTensor(b) }},
		{"wrong shape", func(w *Writer) error { return w.WriteTensor(Tensor{"a", U8, []int{2, 1}, a.Data}) }},
		{"wrong type", func(w *Writer) error { return w.WriteTensor(Tensor{"a", I8, []int{2}, a.Data}) }},
		{"too few bytes", func(w *Writer) error { return w.WriteTensor(Tensor{"a", U8, []int{2}, a.Data[:1]}) }},
		{"one too many", func(w *Writer) error {
			return errors.Join(w.WriteTensor(a), w.WriteTensor(b), w.WriteTensor(b))
		}},
		{"one missing", func(w *Writer) error { return errors.Join(w.WriteTensor(a), w.Commit()) }},
		{"given up", func(w *Writer) error { w.Abort(); return w.Commit() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x.safetensors")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			w, err := Create(path, specs, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.do(w); err == nil {
				t.Error("no error")
			}
			w.Abort()
			if err := w.WriteTensor(a); err == nil {
				t.Error("WriteTensor after a failure succeeded")
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if old, err := os.ReadFile(path); len(entries) != 1 || err != nil || string(old) != "old" {
				t.Errorf("the folder holds %v and the old file %q", entries, old)
			}
		})
	}
	for _, specs := range [][]Spec{
		{{"a", U8, []int{1}}, {"a", U8, []int{1}}}, {{"__metadata__", U8, []int{1}}}, {{"a", "X", nil}},
		{{"a", U8, []int{-1}}}, {{"a", F32, []int{math.MaxInt}}}, {{"a", U8, []int{1 << 62}}, {"b", U8, []int{1 << 62}}},
	} {
		if _, err := Create(filepath.Join(t.TempDir(), "x"), specs, nil); err == nil {
			t.Errorf("Create of %v succeeded", specs)
		}
	}
}

// A file that cannot fit is refused before a byte is written; a disk that runs
// full on the way gives the same error.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	var full *DiskFullError
	_, err := Create(filepath.Join(dir, "x"), []Spec{{"a", U8, []int{1 << 60}}}, nil)
	if !errors.As(err, &full) || full.Free <= 0 || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("Create of an exabyte: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("the folder holds %v", entries)
	}
	if runtime.GOOS != "linux" {
		return // /dev/full is Linux's
	}
	dev, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "full") // fail removes the file by its name
	if err := os.Symlink("/dev/full", link); err != nil {
		t.Fatal(err)
	}
	dev.Close()
	if dev, err = os.OpenFile(link, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	w := &Writer{path: filepath.Join(dir, "x"), file: dev, specs: []Spec{{"a", U8, []int{1}}}, total: 1}
	if err := w.WriteTensor(Tensor{"a", U8, []int{1}, []byte{1}}); !errors.As(err, &full) {
		t.Errorf("WriteTensor to a full disk: %v", err)
	}
}

// Dropping each tensor after use keeps the process's memory near one tensor.
func TestDropKeepsMemorySmall(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc/self/smaps_rollup, which only Linux has")
	}
	const tensors, size = 16, 8 << 20
	data := bytes.Repeat([]byte{1}, size)
	var list []Tensor
	for i := range tensors {
		list = append(list, Tensor{fmt.Sprintf("t%02d", i), U8, []int{size}, data})
	}
	path := filepath.Join(t.TempDir(), "big")
	if err := Write(path, list, nil); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before, peak := fileRSS(t), int64(0)
	for _, name := range f.Names() {
		w, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, b := range w.Data {
			sum += int(b)
		}
		if sum != size {
			t.Fatalf("the sum of %s is %d", name, sum)
		}
		peak = max(peak, fileRSS(t)-before)
		f.Drop(name)
	}
	if peak > 3*size {
		t.Errorf("reading %d MiB held %d MiB, want about one tensor of %d MiB", tensors*size>>20, peak>>20, size>>20)
	}
}

// fileRSS returns the bytes of mapped files that are in this process's memory.
func fileRSS(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "RssFile:")
	var kb int64
	if n, err := fmt.Sscan(rest, &kb); !ok || n != 1 {
		t.Fatalf("no RssFile in /proc/self/status: %v", err)
	}
	return kb << 10
}

// BenchmarkBF16ToF32 reads a mapped BF16 tensor into float32; bytes are those of
// the file.
func BenchmarkBF16ToF32(b *testing.B) {
	const n = 32 << 20
	path := filepath.Join(b.TempDir(), "x")
	if err := Write(path, []Tensor{{"w", BF16, []int{n}, make([]byte, 2*n)}}, nil); err != nil {
		b.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w, err := f.Tensor("w")
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]float32, n)
	b.SetBytes(2 * n)
	for b.Loop() {
		if err := w.Float32Into(dst, 0, n); err != nil {
			b.Fatal(err)
		}
	}
}

// A reader gives the bytes of the view, also in pieces, and an error once the file
// is shorter.
func TestReaderEqualsView(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	var tensors []Tensor
	for i, name := range []string{"a", "b"} {
		x, err := FromFloat32(name, []int{3, 5}, make([]float32, 15), F32)
		if err != nil {
			t.Fatal(err)
		}
		for j := range x.Data {
			x.Data[j] = byte(100*i + j)
		}
		tensors = append(tensors, x)
	}
	if err := Write(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, x := range tensors {
		r, spec, err := f.Reader(x.Name)
		if err != nil || spec.Name != x.Name || !slices.Equal(spec.Shape, x.Shape) {
			t.Fatalf("reader of %q: %+v, %v", x.Name, spec, err)
		}
		got := make([]byte, len(x.Data))
		for at := 0; at < len(got); at += 7 {
			piece := got[at:min(at+7, len(got))]
			if n, err := r.ReadAt(piece, int64(at)); n != len(piece) {
				t.Fatalf("%q at %d: %d bytes, %v", x.Name, at, n, err)
			}
		}
		if !bytes.Equal(got, x.Data) {
			t.Errorf("%q: read %v, want %v", x.Name, got, x.Data)
		}
		if n, err := r.ReadAt(make([]byte, 1), int64(len(got))); n != 0 || err == nil {
			t.Errorf("%q: read behind its end: %d bytes, %v", x.Name, n, err)
		}
	}
	if _, _, err := f.Reader("c"); err == nil {
		t.Error("a tensor that is not there has a reader")
	}
	r, _, err := f.Reader("b")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, f.Size()-4); err != nil {
		t.Fatal(err)
	}
	if n, err := r.ReadAt(make([]byte, 60), 0); n != 56 || err == nil {
		t.Errorf("shortened file: %d bytes, %v", n, err)
	}
}
