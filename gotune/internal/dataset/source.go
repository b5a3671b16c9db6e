package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/gotune/gotune/gotune/internal/hub"
)

// A source is a data set whose files per split are known but not fetched.
type source struct {
	object   string // for messages
	format   string // of all files; "" when each says its own
	splits   []fileSplit
	revision string // commit, of a Hub data set
	root     string // folder of the paths, of a local one

	client *hub.Client // of a Hub data set
	repo   hub.Repo
}

// A fileSplit is the files of one split, in order.
type fileSplit struct {
	name  string
	files []string // relative to the source's root, or absolute
}

// resolve finds out what spec.Source is and which files its splits have.
func resolve(ctx context.Context, spec Spec) (*source, error) {
	if spec.Source == "" {
		return nil, &Error{Op: "find", Object: "the data set", Found: "no Source", Wanted: "a file, a folder or a Hub id", Kind: ErrNotFound}
	}
	path := spec.Source
	if path == "~" || strings.HasPrefix(path, "~/") {
		if h, err := os.UserHomeDir(); err == nil {
			path = filepath.Join(h, path[1:])
		}
	}
	if !filepath.IsAbs(path) && spec.Dir != "" {
		path = filepath.Join(spec.Dir, path)
	}
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return resolveFolder(path, spec)
	case err == nil:
		return &source{object: spec.Source, splits: []fileSplit{{"train", []string{path}}}}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, &Error{Op: "find", Object: spec.Source, Found: err.Error(), Wanted: "a readable file or folder", Kind: ErrNotFound, Err: err}
	}
	if !hub.ValidID(spec.Source) || formatOf(spec.Source) != "" || strings.HasPrefix(spec.Source, ".") {
		return nil, &Error{Op: "find", Object: spec.Source, Found: "no such file or folder (looked at " + path + ")", Wanted: "a file, a folder, or a Hub id OWNER/NAME", Kind: ErrNotFound,
			Next: "check the path; a relative one starts at the notebook's folder"}
	}
	return resolveHub(ctx, spec)
}

// resolveFolder looks at a folder: what save_to_disk wrote, or data files.
func resolveFolder(dir string, spec Spec) (*source, error) {
	if src, err := savedToDisk(dir, spec); src != nil || err != nil {
		return src, err
	}
	var files []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if st, serr := os.Stat(p); serr != nil || !st.Mode().IsRegular() {
			return serr
		}
		rel, err := filepath.Rel(dir, p)
		files = append(files, filepath.ToSlash(rel))
		return err
	})
	if err != nil {
		return nil, &Error{Op: "list", Object: spec.Source, Found: err.Error(), Wanted: "a readable folder", Kind: ErrNotFound, Err: err}
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		readme = nil // most folders have none
	}
	src := &source{object: spec.Source, root: dir}
	return src, src.choose(files, readme, spec)
}

// resolveHub lists a Hub data set at one commit.
func resolveHub(ctx context.Context, spec Spec) (*source, error) {
	c := spec.Hub
	if c == nil {
		c = hub.FromEnv(nil)
	}
	repo, err := c.Pin(ctx, hub.Dataset(spec.Source, spec.Revision))
	if err != nil {
		return nil, err
	}
	list, err := c.Files(ctx, repo)
	if errors.Is(err, hub.ErrOffline) || errors.Is(err, hub.ErrNetwork) || errors.Is(err, hub.ErrServer) {
		if cached := c.CachedFiles(repo); len(cached) > 0 {
			list, err = cached, nil
		}
	}
	if err != nil {
		return nil, err
	}
	var files []string
	var readme []byte
	for _, f := range list {
		files = append(files, f.Path)
	}
	if slices.Contains(files, "README.md") {
		p, err := c.Download(ctx, repo, "README.md", nil)
		if err != nil {
			return nil, err
		}
		if readme, err = os.ReadFile(p); err != nil {
			return nil, &Error{Op: "read", Object: p, Found: err.Error(), Kind: ErrNotFound, Err: err}
		}
	}
	src := &source{object: spec.Source, client: c, repo: repo, revision: repo.Revision}
	return src, src.choose(files, readme, spec)
}

// choose fills in splits and format from a list of files.
func (s *source) choose(files []string, readme []byte, spec Spec) error {
	sort.Strings(files)
	splits, err := configSplits(s.object, readme, files, spec.Config)
	if err != nil {
		return err
	}
	if splits == nil {
		splits = defaultSplits(files)
	}
	s.format = commonFormat(splits)
	if s.format == "" {
		return &Error{Op: "find", Object: s.object, Found: "files of other kinds: " + names(files), Wanted: "parquet, json, jsonl, csv, tsv, txt or arrow files", Kind: ErrFormat,
			Next: "a data set made by a script often has parquet files under the revision refs/convert/parquet"}
	}
	for _, sp := range splits {
		sp.files = slices.DeleteFunc(sp.files, func(f string) bool { return formatOf(f) != s.format })
		if len(sp.files) > 0 {
			s.splits = append(s.splits, sp)
		}
	}
	return nil
}

// commonFormat is the format of most files of the first split that has any; on a
// draw parquet, arrow, json, csv, text, as datasets prefers.
func commonFormat(splits []fileSplit) string {
	for _, sp := range splits {
		count := map[string]int{}
		for _, f := range sp.files {
			if k := formatOf(f); k != "" {
				count[k]++
			}
		}
		best := ""
		for _, k := range []string{formatParquet, formatArrow, formatJSON, formatCSV, formatText} {
			if count[k] > count[best] {
				best = k
			}
		}
		if best != "" {
			return best
		}
	}
	return ""
}

// fetch returns the local paths of a split's files.
func (s *source) fetch(ctx context.Context, split string, progress func(Progress)) ([]string, error) {
	var known []string
	for _, sp := range s.splits {
		known = append(known, sp.name)
		if sp.name != split {
			continue
		}
		if s.client == nil {
			out := make([]string, len(sp.files))
			for i, f := range sp.files {
				out[i] = f
				if s.root != "" {
					out[i] = filepath.Join(s.root, filepath.FromSlash(f))
				}
			}
			return out, nil
		}
		return s.client.DownloadFiles(ctx, s.repo, sp.files, func(p hub.Progress) {
			progress(Progress{Task: "download", File: p.File, Done: p.Done, Total: p.Total})
		})
	}
	return nil, &Error{Op: "read", Object: s.object, Found: "the splits " + names(known), Wanted: "a split " + strconv.Quote(split), Kind: ErrSplit,
		Next: "name one of them in Split; a slice of it, such as " + strconv.Quote(firstOr(known, "train")+"[:10%]") + ", can serve for evaluation"}
}

func firstOr(ss []string, other string) string {
	if len(ss) > 0 {
		return ss[0]
	}
	return other
}

// savedToDisk reads the file list of a folder written by Dataset.save_to_disk
// (state.json) or DatasetDict.save_to_disk (dataset_dict.json), or returns nil.
func savedToDisk(dir string, spec Spec) (*source, error) {
	src := &source{object: spec.Source, root: dir, format: formatArrow}
	if b, err := os.ReadFile(filepath.Join(dir, "dataset_dict.json")); err == nil {
		var v struct{ Splits []string }
		if err := json.Unmarshal(b, &v); err != nil {
			return nil, corrupt(filepath.Join(dir, "dataset_dict.json"), err.Error(), "the list of splits")
		}
		for _, name := range v.Splits {
			if name == "" || strings.ContainsAny(name, `/\`) || strings.HasPrefix(name, ".") {
				return nil, corrupt(filepath.Join(dir, "dataset_dict.json"), "the split "+strconv.Quote(name), "a name")
			}
			_, files, err := savedState(dir, name)
			if err != nil {
				return nil, err
			}
			src.splits = append(src.splits, fileSplit{name, files})
		}
		return src, nil
	}
	if _, err := os.Stat(filepath.Join(dir, "state.json")); err != nil {
		return nil, nil
	}
	split, files, err := savedState(dir, "")
	if err != nil {
		return nil, err
	}
	if split == "" {
		split = "train" // saved without a name; the default finds it
	}
	src.splits = []fileSplit{{split, files}}
	return src, nil
}

// savedState reads one state.json.
func savedState(dir, sub string) (split string, files []string, err error) {
	p := filepath.Join(dir, sub, "state.json")
	b, err := os.ReadFile(p)
	if err != nil {
		return "", nil, &Error{Op: "read", Object: p, Found: err.Error(), Wanted: "the file list of save_to_disk", Kind: ErrCorrupt, Err: err}
	}
	var v struct {
		Files []struct {
			Filename string `json:"filename"`
		} `json:"_data_files"`
		Split   *string `json:"_split"`
		Indices any     `json:"_indices_files"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return "", nil, corrupt(p, err.Error(), "the file list of save_to_disk")
	}
	if v.Split != nil {
		split = *v.Split
	}
	for _, f := range v.Files {
		if f.Filename == "" || strings.ContainsAny(f.Filename, `/\`) || strings.HasPrefix(f.Filename, ".") {
			return "", nil, corrupt(p, fmt.Sprintf("the file name %q", f.Filename), "a name in the same folder")
		}
		files = append(files, filepath.ToSlash(filepath.Join(sub, f.Filename)))
	}
	if l, ok := v.Indices.([]any); ok && len(l) > 0 {
		return "", nil, &Error{Op: "read", Object: p, Found: "an index file", Wanted: "rows in their order", Kind: ErrFormat, Next: "call flatten_indices() before save_to_disk"}
	}
	return split, files, nil
}
