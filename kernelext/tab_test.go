package kernelext

import (
	"fmt"
	"strings"
	"testing"
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
