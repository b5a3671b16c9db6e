package dataset

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/hub"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// write makes a folder of files and returns it.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Every bad input has its kind of error, which says what was found and where.
func TestErrors(t *testing.T) {
	parquet, err := os.ReadFile(oracle.Dir(t, "dataset", "data.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := os.ReadFile(oracle.Dir(t, "dataset", "saved_to_disk", "data-00000-of-00001.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(oracle.Dir(t, "dataset", "data_file.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	ok := `{"text": "a"}` + "\n"
	for _, tt := range []struct {
		name string
		data string
		spec Spec
		kind error
		says []string
	}{
		{"empty.jsonl", "", Spec{}, ErrEmpty, []string{"no row", "empty.jsonl"}},
		{"empty.json", "[]", Spec{}, ErrEmpty, nil},
		{"header.csv", "text,n\n", Spec{}, ErrEmpty, nil},
		{"nothing.csv", "", Spec{}, ErrEmpty, nil},
		{"cut.jsonl", ok + `{"text": "b`, Spec{}, ErrCorrupt, []string{"row 1, line 2", "ends"}},
		{"cut in the middle.jsonl", `{"text": "b` + "\n" + ok, Spec{}, ErrCorrupt, []string{"row 0, line 1"}},
		{"cut.json", `[{"text": "a"}, {"text": "b"}`, Spec{}, ErrCorrupt, []string{"inside the array"}},
		{"comma.json", `[{"text": "a"} {"text": "b"}]`, Spec{}, ErrCorrupt, []string{"comma"}},
		{"after.json", `[{"text": "a"}] x`, Spec{}, ErrCorrupt, []string{"after the array"}},
		{"number.jsonl", "1\n", Spec{}, ErrCorrupt, nil},
		{"list of numbers.json", "[1, 2]", Spec{}, ErrCorrupt, []string{"row 0", "an integer"}},
		{"utf8.jsonl", "{\"text\": \"\xff\"}\n", Spec{}, ErrCorrupt, []string{"UTF-8"}},
		{"utf8.txt", "ok\n\xff\n", Spec{}, ErrCorrupt, []string{"line 2"}},
		{"wide.csv", "text,n\na,1\nb,2,3\n", Spec{}, ErrCorrupt, []string{"3 fields", "line"}},
		{"open.csv", "text\n\"a\n", Spec{}, ErrCorrupt, []string{"quoted"}},
		{"cut.parquet", string(parquet[:len(parquet)/2]), Spec{}, ErrCorrupt, []string{"PAR1"}},
		{"tiny.parquet", "PAR1", Spec{}, ErrCorrupt, nil},
		{"not.parquet", strings.Repeat("x", 100), Spec{}, ErrCorrupt, nil},
		{"cut.arrow", string(stream[:len(stream)-1000]), Spec{}, ErrCorrupt, []string{"are left"}},
		{"no end mark.arrow", string(stream[:len(stream)-8]), Spec{}, ErrCorrupt, nil},
		{"cut file.arrow", string(file[:len(file)-1]), Spec{}, ErrCorrupt, []string{"ARROW1"}},
		{"not.arrow", strings.Repeat("x", 100), Spec{}, ErrCorrupt, nil},
		{"cut.jsonl.gz", "\x1f\x8b\x08\x00", Spec{}, ErrCorrupt, []string{"cut.jsonl.gz"}},
		{"kind.xlsx", "x", Spec{}, ErrFormat, []string{"parquet"}},
		{"columns.jsonl", `{"prompt": "a", "answer": "b"}` + "\n", Spec{}, ErrColumn, []string{"prompt, answer", `"text"`, "TextColumn"}},
		{"numbers.jsonl", `{"text": 1}` + "\n", Spec{}, ErrColumn, []string{"row 0", "an integer"}},
		{"split.jsonl", ok, Spec{Split: "test"}, ErrSplit, []string{"train", `"test"`}},
		{"bad split.jsonl", ok, Spec{Split: "train[1"}, ErrSplit, []string{"train[:100]"}},
		{"empty slice.jsonl", ok, Spec{Split: "train[5:]"}, ErrEmpty, nil},
		{"large.jsonl", strings.Repeat(ok, 100), Spec{MaxBytes: 50}, ErrTooLarge, []string{"slice"}},
		{"deep.jsonl", `{"text": ` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + "}\n", Spec{}, ErrCorrupt, []string{"nested"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.Dir, tt.spec.Source = write(t, map[string]string{tt.name: tt.data}), tt.name
			_, err := Open(context.Background(), tt.spec, nil)
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, tt.kind) {
				t.Fatalf("error %v, want the kind %v", err, tt.kind)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q is missing in: %v", s, err)
				}
			}
		})
	}
}

func TestMissingSource(t *testing.T) {
	for _, src := range []string{"", "./none.jsonl", "/none/at/all", "none.parquet", "a/b/c", "../x"} {
		if _, err := Open(context.Background(), Spec{Source: src, Dir: t.TempDir(), Hub: &hub.Client{Offline: true}}, nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", src, err)
		}
	}
	_, err := Open(context.Background(), Spec{Source: "owner/name", Dir: t.TempDir(), Hub: &hub.Client{Offline: true, CacheDir: t.TempDir()}}, nil)
	if !errors.Is(err, hub.ErrOffline) {
		t.Errorf("a Hub id without a network: %v", err)
	}
}

func TestNullTexts(t *testing.T) {
	d, err := openText1(t, "x.jsonl", "")
	if err == nil {
		t.Fatal("no error for no rows", d)
	}
	var b strings.Builder
	for i := range 40 {
		if i%3 == 0 {
			fmt.Fprintf(&b, "{\"n\": %d}\n", i)
		} else {
			fmt.Fprintf(&b, "{\"text\": \"t%d\", \"n\": %d}\n", i, i)
		}
	}
	d, err = Open(context.Background(), Spec{Source: "x.jsonl", Dir: write(t, map[string]string{"x.jsonl": b.String()})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CheckText(); !errors.Is(err, ErrNullText) || !strings.Contains(err.Error(), "14 of 40 rows (rows 0, 3, 6, 9, 12, 15, 18, 21, 24, 27, …)") {
		t.Error(err)
	}
	w := d.WithoutNull()
	if w.Len() != 26 || w.CheckText() != nil || w.Text(0) != "t1" || w.Row(25).String() != `{"n":38,"text":"t38"}` {
		t.Error(w.Len(), w.CheckText(), w.Row(25))
	}
}

// Slices of a real file, and of a split used twice.
func TestSlices(t *testing.T) {
	src := oracle.Dir(t, "dataset", "shards")
	all, err := Open(context.Background(), Spec{Source: src}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := all.Len()
	for _, tt := range []struct {
		split string
		rows  []int
	}{
		{"train[:3]", []int{0, 1, 2}}, {"train[-2:]", []int{n - 2, n - 1}}, {"train[:2]+train[1:3]+train[-1:]", []int{0, 1, 1, 2, n - 1}},
	} {
		d, err := Open(context.Background(), Spec{Source: src, Split: tt.split}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d.Len() != len(tt.rows) {
			t.Fatalf("%s: %d rows", tt.split, d.Len())
		}
		var size int64
		for i, r := range tt.rows {
			if d.Row(i).String() != all.Row(r).String() || d.Text(i) != all.Text(r) {
				t.Errorf("%s: row %d is %s, want %s", tt.split, i, d.Row(i), all.Row(r))
			}
			size += int64(len(d.texts[i]) + len(d.rest[i]))
		}
		if d.Bytes() != size {
			t.Errorf("%s: %d bytes, want %d", tt.split, d.Bytes(), size)
		}
	}
}

// The README's configs decide about files and splits.
func TestReadmeConfigs(t *testing.T) {
	row := func(s string) string { return fmt.Sprintf("{\"text\": %q}\n", s) }
	files := map[string]string{"a/one.jsonl": row("one"), "a/two.jsonl": row("two"), "b/three.jsonl": row("three"), "held.jsonl": row("held")}
	for _, tt := range []struct {
		name, configs string
		spec          Spec
		want          []string
		kind          error
	}{
		{"one pattern", "- config_name: x\n  data_files: a/*.jsonl", Spec{}, []string{"one", "two"}, nil},
		{"list of splits", "- config_name: default\n  data_files:\n  - split: train\n    path: [b/*, a/two.jsonl]\n  - split: test\n    path: held.jsonl", Spec{Split: "train+test"}, []string{"three", "two", "held"}, nil},
		{"map of splits", "- data_files:\n    train: a/**\n    test: held.jsonl", Spec{Split: "test"}, []string{"held"}, nil},
		{"folder", "- config_name: default\n  data_dir: b", Spec{}, []string{"three"}, nil},
		{"marked", "- config_name: x\n  data_files: a/one.jsonl\n- config_name: y\n  data_files: b/*\n  default: true", Spec{}, []string{"three"}, nil},
		{"named", "- config_name: x\n  data_files: a/one.jsonl\n- config_name: y\n  data_files: b/*", Spec{Config: "x"}, []string{"one"}, nil},
		{"not named", "- config_name: x\n  data_files: a/one.jsonl\n- config_name: y\n  data_files: b/*", Spec{}, nil, ErrConfig},
		{"unknown", "- config_name: x\n  data_files: a/one.jsonl", Spec{Config: "z"}, nil, ErrConfig},
		{"no file", "- config_name: x\n  data_files: c/*", Spec{}, nil, ErrNotFound},
		{"out of the folder", "- config_name: x\n  data_files: ../../*", Spec{}, nil, ErrNotFound},
		{"wrong type", "- config_name: x\n  data_files: 7", Spec{}, nil, ErrConfig},
		{"no YAML", "- {", Spec{}, nil, ErrConfig},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files["README.md"] = "---\nlicense: mit\nconfigs:\n" + tt.configs + "\n---\n# x\n"
			tt.spec.Source = write(t, files)
			d, err := Open(context.Background(), tt.spec, nil)
			if !errors.Is(err, tt.kind) || (err == nil) != (tt.kind == nil) {
				t.Fatal(err)
			}
			if err == nil && !slices.Equal(d.Texts(), tt.want) {
				t.Errorf("%q, want %q", d.Texts(), tt.want)
			}
		})
	}
}

// A folder of several splits that save_to_disk wrote.
func TestDatasetDict(t *testing.T) {
	arrow, err := os.ReadFile(oracle.Dir(t, "dataset", "saved_to_disk", "data-00000-of-00001.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	state := `{"_data_files": [{"filename": "d.arrow"}], "_split": null}`
	files := map[string]string{"dataset_dict.json": `{"splits": ["train", "test"]}`, "train/state.json": state, "train/d.arrow": string(arrow), "test/state.json": state, "test/d.arrow": string(arrow)}
	d, err := Open(context.Background(), Spec{Source: write(t, files), Split: "test[:5]"}, nil)
	if err != nil || d.Len() != 5 {
		t.Error(err)
	}
	for name, bad := range map[string]string{"dataset_dict.json": `{"splits": ["../x"]}`, "train/state.json": `{"_data_files": [{"filename": "../../x"}]}`} {
		evil := map[string]string{}
		for k, v := range files {
			evil[k] = v
		}
		evil[name] = bad
		if _, err := Open(context.Background(), Spec{Source: write(t, evil)}, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A data set of the Hub: the files of its split are fetched and no others, and
// the second time works without a network.
func TestHub(t *testing.T) {
	cmd := exec.Command("python3", oracle.Dir(t, "tools", "hub_stub.py"), "--dir", t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; the Hub's stand-in needs Python 3", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	c := &hub.Client{Endpoint: strings.TrimPrefix(strings.TrimSpace(line), "READY "), Token: hub.NewSecret("hf_test"), CacheDir: t.TempDir()}
	shards, err := filepath.Glob(oracle.Dir(t, "dataset", "shards") + "/*.parquet")
	if err != nil || len(shards) < 2 {
		t.Fatal(shards, err)
	}
	files := map[string]string{"README.md": "---\nlicense: mit\n---\n", "data/test-00000-of-00001.parquet": "never fetched"}
	for _, s := range shards {
		b, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		files["data/"+filepath.Base(s)] = string(b)
	}
	ctx := context.Background()
	repo := hub.Dataset("tester/data", "")
	if _, err := c.CreateRepo(ctx, repo, hub.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Upload(ctx, repo, write(t, files), hub.UploadOptions{}); err != nil {
		t.Fatal(err)
	}
	want := expectation(t, "shards")
	for _, offline := range []bool{false, true} {
		c.Offline = offline
		var downloaded, read bool
		d, err := Open(ctx, Spec{Source: "tester/data", Dir: t.TempDir(), Hub: c}, func(p Progress) {
			downloaded = downloaded || p.Task == "download"
			read = read || p.Task == "read"
		})
		if err != nil {
			t.Fatal(err)
		}
		if d.Len() != len(want) || len(d.Revision) != 40 || len(d.Files) != len(shards) || !read || !downloaded {
			t.Errorf("offline %v: %d rows of %q in %v", offline, d.Len(), d.Revision, d.Files)
		}
		if _, err := Open(ctx, Spec{Source: "tester/data", Split: "validation", Dir: t.TempDir(), Hub: c}, nil); !errors.Is(err, ErrSplit) {
			t.Errorf("unknown split: %v", err)
		}
	}
}
