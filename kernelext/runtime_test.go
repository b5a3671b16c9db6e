package kernelext

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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

func TestCloseDir(t *testing.T) {
	root := t.TempDir()
	open := filepath.Join(root, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{open, filepath.Join(root, "new", "er")} {
		if err := closeDir(dir); err != nil {
			t.Error(err)
		}
		if i, err := os.Stat(dir); err != nil || i.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v, want mode 0700", dir, i.Mode(), err)
		}
	}
}
