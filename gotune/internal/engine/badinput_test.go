package engine

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/gotune/gotune/gotune"
)

// row is one line of a JSON Lines file with a finished text.
func row(text string) string { return `{"text":"` + text + `"}` + "\n" }

const (
	finished = "<s>[INST] a [/INST] b </s>"
	tooFew   = "\n\twant at least one\n\thint: check the split and the file"
)

// longText has more tokens than the model has positions, and ends as it should.
var longText = "<s>[INST] a [/INST] " + strings.Repeat("word ", 1200) + "</s>"

// Each mistake in a data set is told apart, names what was found and wanted, and
// says what to do next.
func TestBadData(t *testing.T) {
	dir, _ := startEngine(t)
	for _, tt := range []struct {
		name, file, text string
		data             gotune.Dataset
		train            bool // what only training finds
		kind             *gotune.Error
		want             string
	}{
		{name: "empty JSON Lines", file: "e.jsonl", kind: gotune.ErrInvalid, want: "read $DIR/e.jsonl [train]: not valid\n\thave no row in 1 files ($DIR/e.jsonl)" + tooFew},
		{name: "empty JSON", file: "e.json", text: "[]", kind: gotune.ErrInvalid, want: "read $DIR/e.json [train]: not valid\n\thave no row in 1 files ($DIR/e.json)" + tooFew},
		{name: "CSV with a header only", file: "e.csv", text: "text\n", kind: gotune.ErrInvalid, want: "read $DIR/e.csv [train]: not valid\n\thave no row in 1 files ($DIR/e.csv)" + tooFew},
		{name: "a slice of nothing", file: "s.jsonl", text: row(finished), data: gotune.Dataset{Split: "train[5:]"}, kind: gotune.ErrInvalid,
			want: "read $DIR/s.jsonl [train[5:]]: not valid\n\thave no row in 1 files ($DIR/s.jsonl)" + tooFew},
		{name: "empty Parquet", file: "e.parquet", kind: gotune.ErrInvalid,
			want: "read $DIR/e.parquet: not valid\n\thave 0 bytes\n\twant a whole Parquet file\n\thint: the file may be cut or damaged: get it again"},
		{name: "cut JSON Lines", file: "cut.jsonl", text: row(finished) + `{"text":` + "\n", kind: gotune.ErrInvalid,
			want: "read $DIR/cut.jsonl, row 1, line 3: not valid\n\thave the file ends in the middle of a row\n\twant a whole JSON object\n\thint: the file may be cut or damaged: get it again"},
		{name: "no such file", data: gotune.Dataset{Source: "./no.jsonl"}, kind: gotune.ErrNotFound,
			want: "find $DIR/no.jsonl: not found\n\thave no such file or folder (looked at $DIR/no.jsonl)\n\twant a file, a folder, or a Hub id OWNER/NAME\n\thint: check the path; a relative one starts at the notebook's folder"},
		{name: "no such split", file: "v.jsonl", text: row(finished), data: gotune.Dataset{Split: "validation"}, kind: gotune.ErrNotFound,
			want: "read $DIR/v.jsonl: not found\n\thave the splits train\n\twant a split \"validation\"\n\thint: name one of them in Split; a slice of it, such as \"train[:10%]\", can serve for evaluation"},
		{name: "missing column", file: "c.jsonl", text: `{"question":"a","answer":"b"}` + "\n", kind: gotune.ErrNotFound,
			want: "read $DIR/c.jsonl [train]: not found\n\thave the columns question, answer\n\twant a column \"text\"\n\thint: set TextColumn to the one that holds the training text"},
		{name: "a column of numbers", file: "n.jsonl", text: `{"text":3}` + "\n", kind: gotune.ErrNotFound,
			want: "read $DIR/n.jsonl, row 0, column \"text\": not found\n\thave an integer\n\twant text\n\thint: name another column in TextColumn, or turn this one into text first"},
		{name: "a row without text", file: "null.jsonl", text: row(finished) + `{"text":null}` + "\n", train: true, kind: gotune.ErrInvalid,
			want: "read column \"text\": not valid\n\thave no text in 1 of 2 rows (rows 1)\n\twant a text in every row\n\thint: remove or fill those rows; an empty field of a CSV file counts as no text"},
		{name: "no end of sequence", file: "noeos.jsonl", text: row("<s>[INST] a [/INST] b"), train: true, kind: gotune.ErrInvalid,
			want: "train data set \"no end of sequence\": not valid\n\thave batch: none of 1 rows (0 clipped) teaches the end-of-sequence token (id 2), so the model can't learn to stop: " +
				"end each row's text with it (Llama-2 form: \"<s>[INST] … [/INST] … </s>\"), or set Parity to train as the original walkthrough did"},
		{name: "rows longer than the limit, all", file: "long.jsonl", text: row(longText), train: true, kind: gotune.ErrInvalid,
			want: "train data set \"rows longer than the limit, all\": not valid\n\thave batch: all 1 rows are longer than MaxSeqLength 64, so each lost its end-of-sequence token (id 2) and the model can't learn to stop: raise MaxSeqLength or shorten the rows"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := tt.data
			d.Name = tt.name
			if tt.file != "" {
				overwritten(tt.file, tt.text)(t, dir)
				d.Source = "./" + tt.file
			}
			var err error
			if r := testRun(tt.name); tt.train {
				r.Dataset = d
				_, err = r.Train()
			} else {
				_, err = d.Load()
			}
			tells(t, err, tt.kind, dir, tt.want)
		})
	}
}

// Some rows beyond the limit are cut, and the run says so; a prompt beyond it is
// refused. The limit is the model's where MaxSeqLength asks for more.
func TestLongRows(t *testing.T) {
	dir, _ := startEngine(t)
	overwritten("rows.jsonl", strings.Repeat(row(finished), 11)+row(longText))(t, dir)
	run := testRun("long")
	run.Dataset = gotune.Dataset{Name: "rows", Source: "./rows.jsonl"}
	info, err := run.Train()
	if err != nil {
		t.Fatal(err)
	}
	const want = "1 of 12 rows are longer than MaxSeqLength 64 (the longest has 1213 tokens) and are cut"
	if len(info.Notes) == 0 || info.Notes[0] != want {
		t.Errorf("notes %q, want %q", info.Notes, want)
	}
	_, err = testBase.Generate(strings.Repeat("word ", 1200), gotune.Sampling{})
	tells(t, err, gotune.ErrInvalid, dir, "generate with prompt: not valid\n\thave 1210 tokens\n\twant fewer than the model's 1024\n\thint: shorten the prompt")
}

// sourceDir is this package's folder; tests work in others.
var sourceDir, _ = os.Getwd()

// startHub starts a Hub of this machine's own that wants a token, and returns its
// address.
func startHub(t *testing.T, dir, token string) string {
	t.Helper()
	program := filepath.Join(dir, "localhub")
	build := exec.Command("go", "build", "-o", program, "github.com/gotune/gotune/scripts/localhub")
	build.Dir = sourceDir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the local Hub: %v\n%s", err, out)
	}
	c := exec.Command(program, "-dir", filepath.Join(dir, "hub"), "-token", token)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = c.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

// A token that is missing or wrong, and a Hub out of reach.
func TestBadHub(t *testing.T) {
	dir, _ := startEngine(t)
	address := startHub(t, dir, "right")
	t.Setenv("HF_HOME", filepath.Join(dir, "hf"))
	if _, err := (testRun("one")).Train(); err != nil {
		t.Fatal(err)
	}
	if _, err := (gotune.Trainer{Name: "one"}).Save("adapter"); err != nil {
		t.Fatal(err)
	}
	push := func() error { _, err := gotune.Push("adapter", "me/x", gotune.PushOptions{}); return err }
	loadModel := func() error { _, err := gotune.Model{Name: "far", Source: "owner/far"}.Load(); return err }
	loadData := func() error { _, err := gotune.Dataset{Name: "far", Source: "owner/far"}.Load(); return err }
	const nowhere = "http://127.0.0.1:1"
	for _, tt := range []struct {
		name, endpoint, token, offline string
		do                             func() error
		kind                           *gotune.Error
		want                           string
	}{
		{"no token", address, "", "", push, gotune.ErrAuth, "push adapter to me/x: access denied\n\thave no token\n\twant a Hub token with the right to write\n" +
			"\thint: make one in the Hub's settings and set it: %env HF_TOKEN=hf_…; or look first what would be sent: PushOptions{DryRun: true}"},
		{"wrong token, push", address, "wrong", "", push, gotune.ErrAuth, "create model me/x: access denied\n\thave 401 Unauthorized (Invalid credentials in Authorization header)\n" +
			"\thint: the token in use is not valid or has expired: make a new one on the Hub's page Settings, Access Tokens, and set HF_TOKEN"},
		{"wrong token, model", address, "wrong", "", loadModel, gotune.ErrAuth, "look up model owner/far@main: access denied\n\thave 401 Unauthorized (Invalid credentials in Authorization header)\n" +
			"\thint: the token in use is not valid or has expired: make a new one on the Hub's page Settings, Access Tokens, and set HF_TOKEN"},
		{"no such model", address, "right", "", loadModel, gotune.ErrNotFound, "look up model owner/far@main: not found\n\thave 404 Not Found (Repository not found: owner/far)\n\thint: check the name"},
		{"no network, model", nowhere, "", "", loadModel, gotune.ErrNetwork, "look up model owner/far@main: no connection\n\thave no answer from 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused\n" +
			"\thint: check the network and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only what is in the cache is used"},
		{"no network, data", nowhere, "", "", loadData, gotune.ErrNetwork, "look up dataset owner/far@main: no connection\n\thave no answer from 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused\n" +
			"\thint: check the network and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only what is in the cache is used"},
		{"no network, push", nowhere, "right", "", push, gotune.ErrNetwork, "create model me/x: no connection\n\thave no answer from 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused\n" +
			"\thint: check the network and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only what is in the cache is used"},
		{"offline, model", address, "right", "1", loadModel, gotune.ErrNetwork, "download model owner/far@main: no connection\n\thave not in the cache $DIR/hf/hub\n\twant the repository\n" +
			"\thint: unset HF_HUB_OFFLINE and load it once with a network"},
		{"offline, push", address, "right", "1", push, gotune.ErrNetwork, "create model me/x: no connection\n\thave offline mode forbids requests\n\thint: unset HF_HUB_OFFLINE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("HF_ENDPOINT", tt.endpoint)
			t.Setenv("HF_TOKEN", tt.token)
			t.Setenv("HF_HUB_OFFLINE", tt.offline)
			tells(t, tt.do(), tt.kind, dir, tt.want)
		})
	}
}

// A folder that can't be written, told before anything is done.
func TestBadFolders(t *testing.T) {
	dir, _ := startEngine(t)
	overwritten("file", "")(t, dir)
	if _, err := testRun("one").Train(); err != nil {
		t.Fatal(err)
	}
	bare := gotune.Trainer{Name: "one"}
	train := testRun("two")
	train.OutputDir = "file/two"
	for _, tt := range []struct {
		name string
		do   func() error
		want string
	}{
		{"train", func() error { _, err := train.Train(); return err },
			"train run \"two\": reading or writing failed\n\thave mkdir $DIR/file: not a directory\n\twant a folder that can be made and written\n\thint: give another OutputDir"},
		{"save", func() error { _, err := bare.Save("file/adapter"); return err },
			"save run \"one\": reading or writing failed\n\thave mkdir $DIR/file: not a directory\n\twant a folder that can be made and written\n\thint: give another folder"},
		{"merge", func() error { _, err := bare.Merge("file", gotune.MergeOptions{}); return err },
			"merge run \"one\": reading or writing failed\n\thave $DIR/file is a file\n\twant a folder, or a path that is free\n\thint: give another folder"},
	} {
		t.Run(tt.name, func(t *testing.T) { tells(t, tt.do(), gotune.ErrIO, dir, tt.want) })
	}
}

// A disk that fills up ends the run with its last checkpoint whole; with room it
// goes on from there.
func TestFullDisk(t *testing.T) {
	dir, _ := startEngine(t)
	small := filepath.Join(dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=900k"); err != nil {
		t.Skipf("a small disk can't be mounted here (%v); package ckpt's test has files of limited size instead", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, 0) })
	run := testRun("full")
	run.OutputDir = "small"
	// told compares with the sizes taken out.
	told := func(err error, want string) {
		t.Helper()
		if err == nil {
			t.Fatalf("it succeeded, want\n%s", want)
		}
		numbers := regexp.MustCompile(`\d{4,}`)
		e := gotune.AsError("", err)
		e.Found = strings.ReplaceAll(e.Found, dir, "$DIR")
		tells(t, &gotune.Error{Kind: e.Kind, Op: e.Op, Object: e.Object, Found: numbers.ReplaceAllString(e.Found, "N"), Wanted: e.Wanted, Next: e.Next}, gotune.ErrIO, dir, want)
	}
	_, err := run.Train()
	told(err, "train run \"full\": reading or writing failed\n\thave train: saving after step 4: ckpt: save $DIR/small/checkpoint-4: "+
		"safetensors: write $DIR/small/.incoming-checkpoint-4-N/optimizer.safetensors: the disk is full: the file takes N bytes, N are free: free some space or choose another folder, "+
		"then run it again: the earlier checkpoints are whole; free some space or lower SaveTotalLimit, then train again to go on\n\thint: free some disk space, then run the cell again: nothing half-written is kept")
	if r, err := (gotune.Trainer{Name: "full"}).Record(); err != nil || r.State != gotune.RunFailed || len(r.Checkpoints) != 1 {
		t.Errorf("the record: %s with checkpoints %v, %v; want failed with one", r.State, r.Checkpoints, err)
	}
	if err := syscall.Mount("tmpfs", small, "tmpfs", syscall.MS_REMOUNT, "size=3m"); err != nil {
		t.Fatal(err)
	}
	if r, err := run.Train(); err != nil || r.State != gotune.RunDone || r.ResumedFrom != 2 {
		t.Errorf("going on: %s, resumed from %d, %v; want done, from 2", r.State, r.ResumedFrom, err)
	}
	_, err = run.Merge("small/merged", gotune.MergeOptions{})
	told(err, "merge run \"full\": reading or writing failed\n\thave safetensors: write $DIR/small/merged: the disk is full: the file takes N bytes, N are free: "+
		"free some space or choose another folder, then run it again\n\thint: free some disk space, then run the cell again: nothing half-written is kept")
	if left, err := filepath.Glob(filepath.Join(small, "*merged*")); err != nil || len(left) != 0 {
		t.Errorf("left of the merge: %v, %v", left, err)
	}
}
