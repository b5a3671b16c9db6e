package dataset

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
)

// splitWords are the names of files and folders that say what split they are.
var splitWords = []struct {
	split string
	words []string
}{
	{"train", []string{"train", "training"}},
	{"validation", []string{"validation", "valid", "dev", "val"}},
	{"test", []string{"test", "testing", "eval", "evaluation"}},
}

const separators = `[-._ 0-9]` // around such a word

var (
	folderPatterns = []string{"**/%s/**", "**/%s" + separators + "*/**", "**/*" + separators + "%s/**", "**/*" + separators + "%s" + separators + "*/**"}
	filePatterns   = []string{"**/%s" + separators + "*", "**/*" + separators + "%s" + separators + "*"}
	shardedName    = regexp.MustCompile(`^data/([^/]+?)-[0-9]{5}-of-[0-9]{5}[^/]*\.[^/]*$`)
	splitName      = regexp.MustCompile(`^\w+(\.\w+)*$`)
)

// notData are files that never hold rows.
var notData = []string{"README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip", "dataset_dict.json"}

// defaultSplits groups files into splits as datasets.data_files does when
// nothing says otherwise: data/NAME-00000-of-00001.*, else folders named like a
// split, else files named so, else everything is "train".
func defaultSplits(files []string) []fileSplit {
	data := slices.DeleteFunc(slices.Clone(files), func(f string) bool {
		return formatOf(f) == "" || hidden(f, "") || slices.Contains(notData, path.Base(f))
	})
	if s := shardedSplits(data); s != nil {
		return s
	}
	for _, patterns := range [][]string{folderPatterns, filePatterns} {
		var out []fileSplit
		for _, w := range splitWords {
			var found []string
			for _, word := range w.words {
				for _, p := range patterns {
					found = appendNew(found, glob(strings.ReplaceAll(p, "%s", word), data))
				}
			}
			if len(found) > 0 {
				out = append(out, fileSplit{w.split, found})
			}
		}
		if out != nil {
			return out
		}
	}
	return []fileSplit{{"train", data}}
}

// shardedSplits groups data/NAME-00000-of-00001.* by NAME, or returns nil.
func shardedSplits(data []string) []fileSplit {
	by := map[string][]string{}
	for _, f := range data {
		if m := shardedName.FindStringSubmatch(f); m != nil && splitName.MatchString(m[1]) {
			by[m[1]] = append(by[m[1]], f)
		}
	}
	if len(by) == 0 {
		return nil
	}
	var order, others []string
	for _, w := range splitWords {
		if by[w.split] != nil {
			order = append(order, w.split)
		}
	}
	for s := range by {
		if !slices.Contains(order, s) {
			others = append(others, s)
		}
	}
	sort.Strings(others)
	var out []fileSplit
	for _, s := range append(order, others...) {
		out = append(out, fileSplit{s, by[s]})
	}
	return out
}

func appendNew(list, more []string) []string {
	for _, m := range more {
		if !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	return list
}

// hidden reports a file in a folder or with a name that starts with "." or in a
// folder that starts with "__", unless the pattern names as many such parts.
func hidden(file, pattern string) bool {
	count := func(p string) (dots, special int) {
		parts := strings.Split(p, "/")
		for i, s := range parts {
			if strings.HasPrefix(s, ".") && strings.Trim(s, ".") != "" {
				dots++
			}
			if strings.HasPrefix(s, "__") && i < len(parts)-1 {
				special++
			}
		}
		return
	}
	fd, fs := count(file)
	pd, ps := count(pattern)
	return fd != pd || fs != ps
}

var globCache sync.Map // pattern → *regexp.Regexp, or nil when it doesn't compile

// glob returns the files that match a pattern: "*" and "?" stay within a part,
// a part "**" is any number of folders.
func glob(pattern string, files []string) []string {
	v, ok := globCache.Load(pattern)
	if !ok {
		re, err := regexp.Compile(globRegexp(pattern))
		if err != nil {
			re = nil
		}
		v, _ = globCache.LoadOrStore(pattern, re)
	}
	re, _ := v.(*regexp.Regexp)
	if re == nil {
		return nil
	}
	var out []string
	for _, f := range files {
		if re.MatchString(f) && !hidden(f, pattern) && (!slices.Contains(notData, path.Base(f)) || path.Base(f) == path.Base(pattern)) {
			out = append(out, f)
		}
	}
	return out
}

func globRegexp(pattern string) string {
	var b strings.Builder
	b.WriteString("^")
	parts := strings.Split(pattern, "/")
	for i, part := range parts {
		last := i == len(parts)-1
		if part == "**" {
			if last {
				b.WriteString(".*")
			} else {
				b.WriteString("(?:.+/)?")
			}
			continue
		}
		for j := 0; j < len(part); j++ {
			switch c := part[j]; {
			case c == '*':
				b.WriteString("[^/]*")
			case c == '?':
				b.WriteString("[^/]")
			case c == '[' && strings.IndexByte(part[j+1:], ']') > 0:
				end := j + 1 + strings.IndexByte(part[j+1:], ']')
				set := strings.ReplaceAll(part[j+1:end], `\`, `\\`)
				if set[0] == '!' {
					set = "^/" + set[1:]
				}
				b.WriteString("[" + set + "]")
				j = end
			case c >= 0x80:
				b.WriteByte(c)
			default:
				b.WriteString(regexp.QuoteMeta(string(c)))
			}
		}
		if !last {
			b.WriteString("/")
		}
	}
	b.WriteString("$")
	return b.String()
}

// configSplits reads the configs of a README's front matter. It returns nil when
// there are none: the default patterns apply.
func configSplits(object string, readme []byte, files []string, want string) ([]fileSplit, error) {
	configs, err := readConfigs(object, readme)
	if err != nil {
		return nil, err
	}
	if len(configs) == 0 {
		if want != "" {
			return nil, &Error{Op: "find", Object: object, Found: "no configurations", Wanted: fmt.Sprintf("one called %q", want), Kind: ErrConfig, Next: "leave Config empty"}
		}
		return nil, nil
	}
	c, err := pickConfig(object, configs, want)
	if err != nil {
		return nil, err
	}
	dir := strings.Trim(c.DataDir, "/")
	if dir == "." {
		dir = ""
	}
	patterns, err := c.patterns(object)
	if err != nil {
		return nil, err
	}
	if patterns == nil {
		var below []string
		for _, f := range files {
			if dir == "" || strings.HasPrefix(f, dir+"/") {
				below = append(below, f)
			}
		}
		return defaultSplits(below), nil
	}
	var out []fileSplit
	for _, p := range patterns {
		var found []string
		for _, pat := range p.files {
			found = appendNew(found, glob(path.Join(dir, strings.TrimPrefix(pat, "./")), files))
		}
		if len(found) == 0 {
			return nil, &Error{Op: "find", Object: object, Found: fmt.Sprintf("no file for split %q, which README.md puts at %s", p.name, names(p.files)), Wanted: "at least one", Kind: ErrNotFound,
				Next: "check the data_files in README.md"}
		}
		out = append(out, fileSplit{p.name, found})
	}
	return out, nil
}

// A readmeConfig is an element of "configs" in a data card.
type readmeConfig struct {
	Name      string `yaml:"config_name"`
	Default   bool   `yaml:"default"`
	DataDir   string `yaml:"data_dir"`
	DataFiles any    `yaml:"data_files"`
}

func readConfigs(object string, readme []byte) (configs []readmeConfig, err error) {
	text := strings.ReplaceAll(string(readme), "\r\n", "\n")
	if !strings.HasPrefix(text, "---\n") {
		return nil, nil
	}
	head, _, ok := strings.Cut(text[4:], "\n---")
	if !ok || len(head) > 1<<20 {
		return nil, nil
	}
	defer recoverTo(&err, object+": README.md")
	var v struct {
		Configs []readmeConfig `yaml:"configs"`
	}
	if !strings.Contains(head, "configs:") {
		return nil, nil
	}
	if err := yaml.Unmarshal([]byte(head), &v); err != nil {
		line, _, _ := strings.Cut(err.Error(), "\n")
		return nil, &Error{Op: "read", Object: object + ": README.md", Found: "front matter that is no YAML: " + line, Kind: ErrConfig, Err: err, Next: "correct it, or name a data file as Source"}
	}
	return v.Configs, nil
}

func pickConfig(object string, configs []readmeConfig, want string) (*readmeConfig, error) {
	var all []string
	for i := range configs {
		if configs[i].Name == "" {
			configs[i].Name = "default"
		}
		all = append(all, configs[i].Name)
	}
	for i, c := range configs {
		if want == c.Name || (want == "" && (len(configs) == 1 || c.Default)) {
			return &configs[i], nil
		}
	}
	for i, c := range configs {
		if want == "" && c.Name == "default" {
			return &configs[i], nil
		}
	}
	found := "no configuration called " + want
	if want == "" {
		found = "several configurations"
	}
	return nil, &Error{Op: "find", Object: object, Found: found, Wanted: "one of " + names(all), Kind: ErrConfig, Next: "name it in Config"}
}

// patterns reads data_files: a pattern, a list of patterns, a list of {split,
// path}, or a map from splits to patterns. nil means there is none.
func (c *readmeConfig) patterns(object string) ([]fileSplit, error) {
	bad := func(found string) error {
		return &Error{Op: "read", Object: object + ": README.md", Found: found, Wanted: "data_files as a pattern, a list, or a list of split and path", Kind: ErrConfig, Next: "correct it, or name a data file as Source"}
	}
	texts := func(v any) ([]string, bool) {
		switch v := v.(type) {
		case string:
			return []string{v}, true
		case []any:
			var out []string
			for _, e := range v {
				s, ok := e.(string)
				if !ok {
					return nil, false
				}
				out = append(out, s)
			}
			return out, true
		}
		return nil, false
	}
	if c.DataFiles == nil {
		return nil, nil
	}
	if ps, ok := texts(c.DataFiles); ok {
		return []fileSplit{{"train", ps}}, nil
	}
	var out []fileSplit
	add := func(split any, v any) bool {
		ps, ok := texts(v)
		if ok {
			out = append(out, fileSplit{fmt.Sprint(split), ps})
		}
		return ok
	}
	switch v := c.DataFiles.(type) {
	case []any:
		for _, e := range v {
			m, ok := e.(map[string]any)
			if !ok || m["split"] == nil || !add(m["split"], m["path"]) {
				return nil, bad("a data_files entry without split and path")
			}
		}
	case map[string]any:
		var keys []string
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			if !add(k, v[k]) {
				return nil, bad("data_files of split " + k)
			}
		}
	default:
		return nil, bad(fmt.Sprintf("data_files of type %T", v))
	}
	return out, nil
}
