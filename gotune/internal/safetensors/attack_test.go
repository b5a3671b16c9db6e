package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// file builds a file from a header's text and the values' bytes.
func file(header, body string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), body...)
}

// one is a header's entry for a U8 tensor.
func one(name, shape, offsets string) string {
	return fmt.Sprintf(`"%s":{"dtype":"U8","shape":[%s],"data_offsets":[%s]}`, name, shape, offsets)
}

// verdicts is the list of attacks: what is in the file, and a part of the error
// that it must give, empty for files that must be read. All verdicts are those of
// the official reader (safetensors 0.8.0), except where stricter is set: there the
// official reader takes the file.
var verdicts = []struct {
	name     string
	data     []byte
	want     string
	stricter bool
}{
	// The first 8 bytes.
	{"empty file", nil, "cut off", false},
	{"seven bytes", make([]byte, 7), "cut off", false},
	{"header length only", file("", ""), "begin with '{'", false},
	{"header longer than the file", append(binary.LittleEndian.AppendUint64(nil, 100), "{}"...), "cut off", false},
	{"header of 100 MB and one byte", append(binary.LittleEndian.AppendUint64(nil, maxHeader+1), "{}"...), "the format allows", false},
	{"header length of all ones", append(binary.LittleEndian.AppendUint64(nil, math.MaxUint64), "{}"...), "the format allows", false},
	{"header length negative as int64", append(binary.LittleEndian.AppendUint64(nil, 1<<63), "{}"...), "the format allows", false},
	{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), "Git LFS pointer", false},
	{"HTML page", []byte("<!DOCTYPE html><html></html>"), "no safetensors file", false},
	{"zip archive", append([]byte("PK\x03\x04"), make([]byte, 60)...), "cut off", false},

	// The header's text.
	{"not JSON", file("{nonsense}", ""), "header", false},
	{"not closed", file("{", ""), "header", false},
	{"a list", file("[]", ""), "begin with '{'", false},
	{"a string", file(`"x"`, ""), "begin with '{'", false},
	{"null", file("null", ""), "begin with '{'", false},
	{"byte order mark", file("\xef\xbb\xbf{}", ""), "begin with '{'", false},
	{"leading space", file(" {"+one("a", "1", "0,1")+"}", "x"), "begin with '{'", true},
	{"not UTF-8", file(`{"\xff":{}}`, ""), "header", false},
	{"invalid byte", file("{\"\xff\":{}}", ""), "UTF-8", false},
	{"overlong UTF-8", file("{\"\xc0\x80\":{}}", ""), "UTF-8", false},
	{"half a surrogate pair", file(`{`+one(`\ud800`, "1", "0,1")+`}`, "x"), "surrogate", false},
	{"second half of a pair", file(`{`+one(`\udc00`, "1", "0,1")+`}`, "x"), "surrogate", false},
	{"trailing text", file(`{"a":1}x`, ""), "header", false},
	{"second object", file("{}{}", ""), "follow the header", false},
	{"trailing null byte", file("{"+one("a", "1", "0,1")+"}\x00", "x"), "follow the header", false},
	{"trailing comma", file("{"+one("a", "1", "0,1")+",}", "x"), "header", false},
	{"comment", file("{/**/}", ""), "header", false},
	{"deep nesting", file(`{"a":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)+`}`, ""), "header", false},

	// Names and fields.
	{"name twice", file("{"+one("a", "1", "0,1")+","+one("a", "1", "0,1")+"}", "x"), "given twice", true},
	{"name twice, other place", file("{"+one("a", "1", "0,1")+","+one("a", "1", "1,2")+"}", "xx"), "given twice", false},
	{"name twice by escape", file("{"+one("a", "1", "0,1")+","+one(`\u0061`, "1", "1,2")+"}", "xx"), "given twice", false},
	{"dtype twice", file(`{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, "x"), "given twice", false},
	{"shape twice", file(`{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}`, "x"), "given twice", false},
	{"offsets twice", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1]}}`, "x"), "given twice", false},
	{"no dtype", file(`{"a":{"shape":[1],"data_offsets":[0,1]}}`, "x"), `"dtype" is missing`, false},
	{"no shape", file(`{"a":{"dtype":"U8","data_offsets":[0,1]}}`, "x"), `"shape" is missing`, false},
	{"no offsets", file(`{"a":{"dtype":"U8","shape":[1]}}`, "x"), `"data_offsets" is missing`, false},
	{"field in capitals", file(`{"a":{"DTYPE":"U8","shape":[1],"data_offsets":[0,1]}}`, "x"), `"dtype" is missing`, false},
	{"unknown dtype", file(`{"a":{"dtype":"F128","shape":[1],"data_offsets":[0,16]}}`, "0123456789abcdef"), "dtype", false},
	{"dtype in small letters", file(`{"a":{"dtype":"u8","shape":[1],"data_offsets":[0,1]}}`, "x"), "dtype", false},
	{"dtype a number", file(`{"a":{"dtype":1,"shape":[1],"data_offsets":[0,1]}}`, "x"), "dtype", false},
	{"packed 4-bit float", file(`{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}`, "x"), "dtype", true},
	{"tensor as a list", file(`{"a":["U8",[1],[0,1]]}`, "x"), "header", true},
	{"tensor null", file(`{"a":null}`, ""), "header", false},
	{"tensor a number", file(`{"a":1}`, ""), "header", false},
	{"metadata twice", file(`{"__metadata__":{},"__metadata__":{}}`, ""), "given twice", false},
	{"metadata key twice", file(`{"__metadata__":{"k":"1","k":"2"}}`, ""), "given twice", true},
	{"metadata of a number", file(`{"__metadata__":{"k":1}}`, ""), "no string", false},
	{"metadata nested", file(`{"__metadata__":{"k":{}}}`, ""), "no string", false},
	{"metadata a list", file(`{"__metadata__":[]}`, ""), "header", false},

	// Shapes.
	{"shape null", file(`{"a":{"dtype":"U8","shape":null,"data_offsets":[0,1]}}`, "x"), "shape", false},
	{"shape a number", file(`{"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}}`, "x"), "shape", false},
	{"dimension negative", file("{"+one("a", "-1", "0,1")+"}", "x"), "shape", false},
	{"dimension minus zero", file("{"+one("a", "-0", "0,0")+"}", ""), "shape", false},
	{"dimension a fraction", file("{"+one("a", "1.0", "0,1")+"}", "x"), "shape", false},
	{"dimension with exponent", file("{"+one("a", "1e0", "0,1")+"}", "x"), "shape", false},
	{"dimension a string", file("{"+one("a", `"1"`, "0,1")+"}", "x"), "shape", false},
	{"dimension of 2^64", file("{"+one("a", "18446744073709551616,0", "0,0")+"}", ""), "63 bits", false},
	{"dimension of 2^63 times zero", file("{"+one("a", "9223372036854775808,0", "0,0")+"}", ""), "63 bits", true},
	{"product overflows", file("{"+one("a", "4294967296,4294967296", "0,0")+"}", ""), "overflows", false},
	{"product overflows to one byte", file("{"+one("a", "4294967297,4294967295,4294967297", "0,1")+"}", "x"), "overflows", false},
	{"product overflows before a zero", file("{"+one("a", "9223372036854775807,9223372036854775807,0", "0,0")+"}", ""), "overflows", false},
	{"size in bytes overflows", file(`{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}`, ""), "overflows", false},
	{"shape larger than the data", file("{"+one("a", "2", "0,1")+"}", "x"), "needs 2", false},
	{"shape smaller than the data", file("{"+one("a", "1", "0,2")+"}", "xx"), "needs 1", false},

	// Offsets.
	{"three offsets", file("{"+one("a", "1", "0,1,1")+"}", "x"), "wanted 2", false},
	{"one offset", file("{"+one("a", "1", "0")+"}", "x"), "wanted 2", false},
	{"offsets an object", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":{"0":0}}}`, "x"), "data_offsets", false},
	{"offsets backwards", file("{"+one("a", "1", "1,0")+"}", "x"), "data_offsets", false},
	{"offset negative", file("{"+one("a", "1", "-1,0")+"}", "x"), "data_offsets", false},
	{"offset beyond the file", file("{"+one("a", "4", "0,4")+"}", "xx"), "cut off", false},
	{"offset near 2^63", file("{"+one("a", "9223372036854775807", "0,9223372036854775807")+"}", "x"), "data_offsets", false},
	{"gap at the start", file("{"+one("a", "1", "1,2")+"}", "xx"), "gaps", false},
	{"gap in the middle", file("{"+one("a", "1", "0,1")+","+one("b", "1", "2,3")+"}", "xxx"), "gaps", false},
	{"overlap", file("{"+one("a", "2", "0,2")+","+one("b", "2", "1,3")+"}", "xxx"), "overlap", false},
	{"same place", file("{"+one("a", "1", "0,1")+","+one("b", "1", "0,1")+"}", "x"), "overlap", false},
	{"empty tensor inside another", file("{"+one("a", "2", "0,2")+","+one("b", "0", "1,1")+"}", "xx"), "overlap", false},
	{"bytes after the last tensor", file("{"+one("a", "1", "0,1")+"}", "xx"), "follow the last tensor", false},
	{"bytes without tensors", file("{}", "x"), "follow the last tensor", false},

	// Unusual, but by the rules.
	{"no tensors", file("{}", ""), "", false},
	{"metadata null", file(`{"__metadata__":null}`, ""), "", false},
	{"metadata only", file(`{"__metadata__":{"k":"v"}}`, ""), "", false},
	{"padded with spaces", file("{"+one("a", "1", "0,1")+"}     ", "x"), "", false},
	{"newline at the end", file("{"+one("a", "1", "0,1")+"}\n", "x"), "", false},
	{"unknown field", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{"y":[1]}}}`, "x"), "", false},
	{"empty name", file("{"+one("", "1", "0,1")+"}", "x"), "", false},
	{"escaped field name", file(`{"a":{"\u0064type":"U8","shape":[1],"data_offsets":[0,1]}}`, "x"), "", false},
	{"surrogate pair", file(`{`+one(`\ud83d\ude00`, "1", "0,1")+`}`, "x"), "", false},
	{"escaped backslash before u", file(`{`+one(`\\ud800`, "1", "0,1")+`}`, "x"), "", false},
	{"scalar", file("{"+one("a", "", "0,1")+"}", "x"), "", false},
	{"dimension of zero", file("{"+one("a", "0", "0,0")+"}", ""), "", false},
	{"zero before what would overflow", file("{"+one("a", "0,9223372036854775807,9223372036854775807", "0,0")+"}", ""), "", false},
	{"empty tensor between", file("{"+one("a", "1", "0,1")+","+one("b", "0", "1,1")+","+one("c", "1", "1,2")+"}", "xx"), "", false},
	{"out of order", file("{"+one("b", "1", "1,2")+","+one("a", "1", "0,1")+"}", "xx"), "", false},
}

func TestOpenVerdicts(t *testing.T) {
	for _, tt := range verdicts {
		t.Run(tt.name, func(t *testing.T) {
			f, err := openBytes(t, tt.data)
			if tt.want == "" {
				if err != nil {
					t.Fatalf("Open: %v, want no error", err)
				}
				readAll(t, f)
				return
			}
			if err == nil {
				t.Fatalf("Open found %q, want an error with %q", f.Names(), tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open: %v, want %q in it", err, tt.want)
			}
			var fe *FormatError
			var te *TruncatedError
			if !errors.As(err, &fe) && !errors.As(err, &te) {
				t.Errorf("Open: %T, want a *FormatError or *TruncatedError", err)
			}
		})
	}
}

func openBytes(t testing.TB, data []byte) (*File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err == nil {
		t.Cleanup(func() { f.Close() })
	}
	return f, err
}

// readAll touches every value and checks that the tensors add up to the file.
func readAll(t testing.TB, f *File) {
	t.Helper()
	sum := int64(0)
	for _, name := range f.Names() {
		w, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		if w.Len()*w.DType.Size() != len(w.Data) {
			t.Fatalf("tensor %q: %d values of %s in %d bytes", name, w.Len(), w.DType, len(w.Data))
		}
		sum += int64(len(bytes.Clone(w.Data)))
		f.Want(name)
		f.Drop(name)
	}
	if f.header.size+sum != int64(len(f.data)) {
		t.Fatalf("header %d and values %d, but the file has %d bytes", f.header.size, sum, len(f.data))
	}
}

// FuzzOpen: no file makes the reader panic or hand out bytes outside of it, and
// what it reads is read again after writing.
func FuzzOpen(f *testing.F) {
	for _, v := range verdicts {
		f.Add(v.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		first := data[:min(8, len(data))]
		n, err := headerSize("x", first, int64(len(data)))
		if err != nil {
			return
		}
		h, err := parseHeader("x", data[8:8+n], int64(len(data)))
		if err != nil {
			return
		}
		in := &File{path: "x", header: h, data: data}
		var tensors []Tensor
		for _, name := range in.Names() {
			w, err := in.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			tensors = append(tensors, w)
		}
		path := filepath.Join(t.TempDir(), "again")
		if err := Write(path, tensors, in.Metadata()); err != nil {
			t.Fatal(err)
		}
		again, err := Open(path)
		if err != nil {
			t.Fatalf("Open of what was written: %v", err)
		}
		defer again.Close()
		for _, w := range tensors {
			if got, err := again.Tensor(w.Name); err != nil || !bytes.Equal(got.Data, w.Data) || got.DType != w.DType {
				t.Fatalf("tensor %q changed: %v", w.Name, err)
			}
		}
	})
}
