package gotune

import (
	"strconv"
	"strings"
)

// A Dataset names rows of text to train or evaluate on. It is a literal: making
// one does no I/O, and its verbs ([Dataset.Load], [Dataset.Show],
// [Dataset.ShowLengths], …) do the work.
//
//	var data = gotune.Dataset{Name: "guanaco", Source: "mlabonne/guanaco-llama2-1k"}
//
// Each row's text column holds one finished example in the prompt template of
// the model, for Llama 2: <s>[INST] question [/INST] answer </s>.
type Dataset struct {
	_ struct{}

	// Name is the data set's identity: the same name with the same fields is the
	// same object in every cell; with other fields it is ErrConflict. A literal
	// with nothing but a Name attaches to what an earlier cell loaded. Default:
	// the last part of Source.
	Name string

	// Source says where the rows are: "embedded" (about 1,000 rows made of Go
	// doc comments, held in the gotune binary) or "embedded:heldout" (rows kept
	// out of it), a Hub id "owner/name", or the path of a file (.parquet, .jsonl,
	// .json, .csv, .arrow) or a folder of them.
	Source string

	// Revision is a branch, tag or commit of the Hub repository. Default "main".
	// Must be empty for other sources.
	Revision string

	// Split names a part of the data set, with an optional slice of rows:
	// "train[:100]", "test[100:200]". Default "train".
	Split string

	// TextColumn is the column with the text. Default "text".
	TextColumn string
}

// Bare says whether the literal has nothing but a Name, and so stands for what
// an earlier cell loaded.
func (d Dataset) Bare() bool { return d == Dataset{Name: d.Name} }

// Resolved returns d with its defaults filled in. The error names the first
// field that can't be right, what it holds and what it should hold. A bare
// literal comes back unchanged.
func (d Dataset) Resolved() (Dataset, error) {
	c := checker{where: "Dataset"}
	if d.Bare() {
		c.name("Name", d.Name)
		return d, c.result()
	}
	defaulted(&d.Name, lastPart(d.Source))
	defaulted(&d.Split, "train")
	defaulted(&d.TextColumn, "text")
	c.name("Name", d.Name)
	c.source(d.Source, d.Revision, "embedded", "embedded:heldout")
	if hubID(d.Source) {
		defaulted(&d.Revision, "main")
	}
	if _, _, _, ok := ParseSplit(d.Split); !ok {
		c.fail("Split", d.Split, `a split's name, with a slice of rows if you like, e.g. "train[:100]"`, "")
	}
	return d, c.result()
}

// source checks Source and Revision, which data sets and models share.
func (c *checker) source(source, revision string, embedded ...string) {
	switch {
	case source == "":
		c.fail("Source", source, `"embedded", a Hub id "owner/name", or a path`, "")
	case strings.HasPrefix(source, "embedded"):
		c.oneOf("Source", source, embedded...)
	}
	if revision != "" && source != "" && !hubID(source) {
		c.fail("Revision", revision, "nothing, since only sources on the Hub have revisions", "remove Revision, or write ./"+source+" nowhere but in Source")
	}
}

// hubID says whether source has the form of a Hub id, "owner/name", and is not
// spelled as a path ("./x/y", "/x/y", "~/x", "a/b/c", "data/rows.jsonl"). A
// folder x/y that exists still wins over the Hub in the engine.
func hubID(source string) bool {
	owner, name, ok := strings.Cut(source, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") || strings.ContainsAny(owner[:1], ".~") {
		return false
	}
	for _, ext := range []string{".parquet", ".jsonl", ".json", ".csv", ".arrow", ".safetensors"} {
		if strings.HasSuffix(name, ext) {
			return false
		}
	}
	return true
}

// ParseSplit reads "name", "name[from:to]", "name[:to]" and "name[from:]" as
// the datasets library does. Negative and percent bounds are not known. to is
// -1 for "to the end"; ok is false if split has another form.
func ParseSplit(split string) (name string, from, to int, ok bool) {
	name, rest, sliced := strings.Cut(split, "[")
	if name == "" || strings.ContainsAny(name, "]: ") {
		return "", 0, 0, false
	}
	if !sliced {
		return name, 0, -1, true
	}
	rest, closed := strings.CutSuffix(rest, "]")
	first, last, colon := strings.Cut(rest, ":")
	if !closed || !colon {
		return "", 0, 0, false
	}
	to = -1
	for _, bound := range []struct {
		text string
		into *int
	}{{first, &from}, {last, &to}} {
		if bound.text == "" {
			continue
		}
		n, err := strconv.Atoi(bound.text)
		if err != nil || n < 0 {
			return "", 0, 0, false
		}
		*bound.into = n
	}
	return name, from, to, to == -1 || from <= to
}
