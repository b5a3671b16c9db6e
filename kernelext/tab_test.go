package kernelext

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMagicTab(t *testing.T) {
	all := "[status runs pause resume lr sample stop free restart-engine log version help]"
	for _, tt := range []struct {
		kind, before, after string // around the cursor
		want                string // matches or a part of the text, "" for not ours
	}{
		{"complete_request", "%go", "", "[%goflags %gotune %goworkfix]"},
		{"complete_request", "%gotun", "", "[%gotune]"},
		{"complete_request", "%tens", "", "[%tensorboard]"},
		{"complete_request", "%lo", "", "[%load_ext]"},
		{"complete_request", "%%b", "", "[%%bash]"},
		{"complete_request", "x\n%%b", "", "[]"}, // not in the first line
		{"complete_request", "%goflags", "", "[%goflags]"},
		{"complete_request", "%gotune ", "", all},
		{"complete_request", "x\n%gotune st", "\ny", "[status stop]"},
		{"complete_request", "//gonb:%gotune fr", "", "[free]"},
		{"complete_request", "%gotune nix ", "", "[]"},
		{"complete_request", "%gotune stop ", "", `[lr3 "two words" other]`},
		{"complete_request", "%gotune stop lr3 o", "", "[other]"},
		{"complete_request", "%gotune pause l", "", "[lr3]"},
		{"complete_request", "%gotune lr lr3 ", "", "[]"},
		{"complete_request", "%gotune sample ot", "", "[other]"},
		{"complete_request", "%gotune status ", "", "[]"},
		{"complete_request", "%tensorboard --lo", "", "[--logdir]"},
		{"complete_request", "%load_ext ", "", "[tensorboard]"},
		{"complete_request", "%cd /tm", "", ""},
		{"complete_request", "fmt.Pri", "", ""},
		{"complete_request", "!ls", "", ""},
		{"inspect_request", "%gotune res", "tart-engine", "start a new one"},
		{"inspect_request", "%gotune lr", " run1 1e-4", "peak learning rate"},
		{"inspect_request", "%got", "une", "free"},
		{"inspect_request", "%tensorboard ", "--logdir x", "--logdir DIR"},
		{"inspect_request", "%load_ext", " tensorboard", "is not needed"},
		{"inspect_request", "%%", "", ""},
		{"inspect_request", "%goflags", "", ""},
		{"inspect_request", "fmt.Println", "", ""},
	} {
		content, ok := magicTab(tt.kind, tt.before+tt.after, len([]rune(tt.before)), func() []string { return []string{"lr3", `"two words"`, "other"} })
		got := ""
		if ok && tt.kind == "complete_request" {
			got = fmt.Sprint(content["matches"])
		} else if ok {
			got = content["data"].(object)["text/plain"].(string)
		}
		if ok != (tt.want != "") || !strings.Contains(got, tt.want) || strings.HasPrefix(tt.want, "[") && got != tt.want {
			t.Errorf("%s %q|%q: %q, want %q", tt.kind, tt.before, tt.after, got, tt.want)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []string
		bad  bool
	}{
		{"", nil, false},
		{" a  b\tc\r", []string{"a", "b", "c"}, false},
		{`sample "What is Go?" x`, []string{"sample", "What is Go?", "x"}, false},
		{`a "" b`, []string{"a", "", "b"}, false},
		{`"a \" b\\"`, []string{`a " b\`}, false},
		{`'a "b" \'`, []string{`a "b" \`}, false},
		{"don't stop", []string{"don't", "stop"}, false},
		{"--logdir='my runs'", []string{"--logdir=my runs"}, false},
		{`--logdir="my runs"`, []string{"--logdir=my runs"}, false},
		{`sample "open`, []string{"sample", "open"}, true},
		{"日本 \"語 x\"", []string{"日本", "語 x"}, false},
	} {
		got, err := splitWords(tt.line)
		if !slices.Equal(got, tt.want) || (err != nil) != tt.bad {
			t.Errorf("splitWords(%q) = %q, %v, want %q and an error %v", tt.line, got, err, tt.want, tt.bad)
		}
	}
}

// What is quoted for completion is read back as it was.
func FuzzQuoteWord(f *testing.F) {
	for _, s := range []string{"run1", "two words", `a"b`, `\`, "", "don't", "\t"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, '\uFFFD') || strings.ToValidUTF8(s, "") != s {
			t.Skip("names are UTF-8")
		}
		got, err := splitWords(quoteWord(s))
		if err != nil || len(got) != 1 || got[0] != s {
			t.Errorf("%q is quoted as %s and read back as %q, %v", s, quoteWord(s), got, err)
		}
	})
}

func TestNearest(t *testing.T) {
	names := []string{"status", "runs", "pause", "resume", "lr", "sample", "stop", "free", "restart-engine", "log", "version", "help"}
	for word, want := range map[string]string{"statsu": "status", "stats": "status", "Status": "status", "puase": "pause", "restart": "restart-engine", "restart-engin": "restart-engine",
		"rusn": "runs", "versoin": "version", "halp": "help", "learning-rate": "", "xyzzy": "", "l": "lr", "lo": "log"} {
		if got := nearest(word, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestAbsoluteLogdir(t *testing.T) {
	t.Setenv("HOME", "/home/ada")
	for _, tt := range []struct {
		args      []string
		want, dir string // "" for an error
	}{
		{[]string{"--logdir", "runs"}, "--logdir=/w/runs", "/w/runs"},
		{[]string{"--logdir=../runs", "--port", "6007"}, "--logdir=/runs --port 6007", "/runs"},
		{[]string{"--port=1", "--logdir", "~/my runs"}, "--port=1 --logdir=/home/ada/my runs", "/home/ada/my runs"},
		{[]string{"--logdir=~"}, "--logdir=/home/ada", "/home/ada"},
		{[]string{"--logdir", "gs://b/x"}, "--logdir=gs://b/x", "gs://b/x"},
		{[]string{"--logdir_spec", "a:/x,b:/y"}, "--logdir_spec=a:/x,b:/y", "a:/x,b:/y"},
		{[]string{"--logdir"}, "", ""},
		{[]string{"--logdir="}, "", ""},
		{[]string{"runs"}, "", ""},
		{nil, "", ""},
	} {
		got, dir, err := absoluteLogdir(slices.Clone(tt.args), "/w")
		if strings.Join(got, " ") != tt.want || dir != tt.dir || (err != nil) != (tt.want == "") {
			t.Errorf("absoluteLogdir(%q) = %q, %q, %v, want %q, %q", tt.args, got, dir, err, tt.want, tt.dir)
		}
	}
}

func TestOwnDir(t *testing.T) {
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	if err := os.Symlink(root, at("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string // "" for no error
		mode       os.FileMode
		owner      int
	}{
		{"new", "", 0, -1},
		{"deep/er", "", 0, -1},
		{"private", "", 0o700, -1},
		{"readable", "", 0o755, -1},
		{"open", "other users can write", 0o777, -1},
		{"group", "other users can write", 0o770, -1},
		{"link", "is no folder", 0, -1},
		{"file", "file", 0, -1},
		{"foreign", "belongs to user 12345", 0o700, 12345},
	} {
		if tt.owner >= 0 && os.Getuid() != 0 {
			continue // only root can give a folder away
		}
		if tt.mode != 0 {
			if err := os.Mkdir(at(tt.name), tt.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(at(tt.name), tt.mode); err != nil {
				t.Fatal(err)
			}
		}
		if tt.owner >= 0 {
			if err := os.Chown(at(tt.name), tt.owner, -1); err != nil {
				t.Fatal(err)
			}
		}
		err := ownDir(at(tt.name))
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if err == nil && tt.mode == 0 {
			if st, err := os.Stat(at(tt.name)); err != nil || st.Mode().Perm() != 0o700 {
				t.Errorf("%s was made with %v, %v, want mode 0700", tt.name, st.Mode(), err)
			}
		}
	}
}

// A cell of live magics runs beside another only when it comes alone.
func TestTakesTurn(t *testing.T) {
	now := time.Now()
	other := &cell{}
	for _, tt := range []struct {
		name, source string
		under        *cell
		after        time.Duration // since the last cell that queued
		want         bool
	}{
		{"nothing under way", "%gotune status", nil, time.Hour, true},
		{"live", "%gotune status", other, 2 * time.Second, false},
		{"several", "%gotune pause\n\n%gotune lr 1e-4\n%gotune resume\n", other, 2 * time.Second, false},
		{"TensorBoard", "%load_ext tensorboard\n%tensorboard --logdir x", other, 2 * time.Second, false},
		{"misspelt", "%gotune statsu", other, 2 * time.Second, false},
		{"in one go", "%gotune status", other, 100 * time.Millisecond, true},
		{"free waits", "%gotune free", other, 2 * time.Second, true},
		{"one of two waits", "%gotune status\n%gotune restart-engine", other, 2 * time.Second, true},
		{"with code", "%gotune status\n%%\nx", other, 2 * time.Second, true},
		{"only code", "%%\nx", other, 2 * time.Second, true},
		{"empty", "", other, 2 * time.Second, true},
		{"GoNB's magic", "%list", other, 2 * time.Second, true},
	} {
		k := &kernel{cell: tt.under, queuedAt: now.Add(-tt.after)}
		if got := k.takesTurn(&cell{source: tt.source}, now); got != tt.want {
			t.Errorf("%s: takes its turn %v, want %v", tt.name, got, tt.want)
		}
		if got := k.queuedAt.Equal(now); got != tt.want {
			t.Errorf("%s: counted as queued %v, want %v", tt.name, got, tt.want)
		}
	}
}
