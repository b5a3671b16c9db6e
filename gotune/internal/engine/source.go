package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/hub"
	"github.com/gotune/gotune/gotune/internal/wire"
	"github.com/gotune/gotune/notebooks"
)

// embedded is the Source of what gotune carries with it.
const embedded = "embedded"

// absolute makes a Source that is a path absolute, so that the same literal
// means the same in every folder. A Source "a/b" is a path if there is one.
func (c *call) absolute(source string) string {
	if source == "" || strings.HasPrefix(source, embedded) {
		return source
	}
	if strings.HasPrefix(source, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, source[2:])
		}
	}
	p := c.path(source)
	if _, err := os.Stat(p); err == nil {
		return p
	}
	if hub.ValidID(source) && strings.Contains(source, "/") && !strings.HasPrefix(source, ".") && !filepath.IsAbs(source) {
		return source
	}
	return p
}

// modelFiles are the files of a model's repository that gotune reads.
var modelFiles = hub.SnapshotOptions{Allow: []string{"*.safetensors", "*.json", "*.model", "*.jinja", "tokenizer*"},
	Ignore: []string{"original/*", "consolidated*", "*.bin*", "onnx/*"}}

// modelDir returns the folder with a model's files, downloading them if they
// are on the Hub, and the commit they are of ("" for others).
func (c *call) modelDir(m gotune.Model) (dir, commit string, err error) {
	if m.Source == embedded {
		root, err := notebooks.Unpack(filepath.Join(c.engine.options.CacheDir, embedded))
		return filepath.Join(root, notebooks.ModelDir), "", err
	}
	if filepath.IsAbs(m.Source) {
		st, err := os.Stat(m.Source)
		switch {
		case err != nil:
			return "", "", &gotune.Error{Kind: gotune.KindNotFound, Object: fmt.Sprintf("model %q", m.Name), Found: err.Error(),
				Wanted: `a folder with config.json and *.safetensors, a Hub id "owner/name", or "embedded"`, Next: "correct Source"}
		case !st.IsDir():
			return "", "", &gotune.Error{Kind: gotune.KindInvalid, Object: fmt.Sprintf("model %q", m.Name), Found: m.Source + " is a file",
				Wanted: "the folder that holds it, with config.json and the tokenizer", Next: "correct Source"}
		}
		return m.Source, "", nil
	}
	o := modelFiles
	o.Progress = func(p hub.Progress) {
		c.progress(wire.Progress{Task: "download", Done: p.Done, Total: p.Total, Unit: "bytes", Note: p.File})
	}
	dir, err = c.hub().Snapshot(c, hub.Model(m.Source, m.Revision), o)
	return dir, filepath.Base(dir), err
}
