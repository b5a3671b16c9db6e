package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// A document is one text of the corpus. Documents are independent: none
// continues another.
type document struct {
	Kind    string `json:"kind"`   // "source", "reference", "glossary", "exchange" or "manual"
	Source  string `json:"source"` // import path or file
	Text    string `json:"text"`
	heldOut bool
}

// documentSize is the length in bytes at which a document is closed: about 600
// tokens, so that most fit a training row whole.
const documentSize = 2200

// glossaryTurns is how often the glossary appears, each time in another order.
const glossaryTurns = 3

// makeCorpus renders the packages and manuals as documents, in a fixed shuffled order.
func makeCorpus(root string, pkgs []*pkg, asked map[string]bool, seed uint64) ([]document, error) {
	var docs []document
	var entries []string
	seen := map[string]bool{}
	for _, p := range pkgs {
		held := heldOut(p)
		for _, f := range p.files {
			paras, err := comments(f, seen)
			if err != nil {
				return nil, err
			}
			docs = appendDocuments(docs, "source", p.Path, held, paras)
		}
		if p.Public {
			docs = appendDocuments(docs, "reference", p.Path, held, reference(p))
			entries = append(entries, glossary(p)...)
		}
		docs = append(docs, exchanges(p, asked, held, plainStyle, seed)...)
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for range glossaryTurns {
		r.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		docs = appendDocuments(docs, "glossary", "", false, entries)
	}
	manuals, err := manualDocuments(root)
	if err != nil {
		return nil, err
	}
	docs = append(docs, manuals...)
	r.Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
	return docs, nil
}

// secondStage is what pretraining ends with: of the corpus all but most comments
// of source files, and exchanges of the public names between tags. Its documents
// end with a space, as answers in the chat templates of Llama 2 do.
func secondStage(corpus []document, pkgs []*pkg, asked map[string]bool, seed uint64) []document {
	var docs []document
	for i, d := range corpus {
		if !d.heldOut && (d.Kind != "source" || i%4 == 0) {
			docs = append(docs, d)
		}
	}
	for _, p := range pkgs {
		if p.Public {
			docs = append(docs, exchanges(p, asked, false, taggedStyle, seed)...)
		}
	}
	for i := range docs {
		docs[i].Text += " "
	}
	return docs
}

// heldOut picks about one in forty of the packages users can't import, to
// measure pretraining on; public packages stay, since the data set asks about them.
func heldOut(p *pkg) bool {
	h := fnv.New32a()
	h.Write([]byte(p.Path))
	return !p.Public && h.Sum32()%40 == 0
}

// appendDocuments joins paragraphs to documents of about documentSize bytes.
func appendDocuments(docs []document, kind, source string, held bool, paras []string) []document {
	var b strings.Builder
	flush := func() {
		if b.Len() > 200 {
			docs = append(docs, document{Kind: kind, Source: source, Text: b.String(), heldOut: held})
		}
		b.Reset()
	}
	for _, p := range paras {
		if b.Len() > 0 && b.Len()+len(p) > documentSize {
			flush()
		}
		if b.Len() > 0 {
			b.WriteString("\n\n")
		}
		b.WriteString(p)
	}
	flush()
	return docs
}

// comments returns a file's comments that read as prose, in order, each once
// in the whole corpus.
func comments(path string, seen map[string]bool) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read comments: %w", err)
	}
	if ast.IsGenerated(f) {
		return nil, nil
	}
	var out []string
	for _, g := range f.Comments {
		if directive.MatchString(g.List[0].Text) {
			continue
		}
		text := cleanDoc(g.Text())
		if !isProse(text) || seen[key(text)] {
			continue
		}
		seen[key(text)] = true
		out = append(out, text)
	}
	return out, nil
}

// reference renders a package as go doc does: each name, its signature, its text.
func reference(p *pkg) []string {
	var out []string
	if isProse(p.Doc) {
		out = append(out, "package "+p.Path+"\n\n"+p.Doc)
	}
	seen := map[string]bool{}
	for _, s := range p.Symbols {
		if len(s.Doc) < 30 || len(s.Doc) > 2*documentSize || seen[key(s.Doc)] {
			continue
		}
		seen[key(s.Doc)] = true
		head := s.Qualified()
		if s.Kind == "type" {
			head = "type " + head
		} else if s.Signature != "" && len(s.Signature) < 160 {
			head += "\n" + s.Signature
		}
		out = append(out, head+"\n"+s.Doc)
	}
	return out
}

// glossary renders a package's names as entries that stand alone: the name, a
// dash, the first paragraph. The corpus has the entries of all packages in
// mixed order, so that the name alone must recall the text.
func glossary(p *pkg) []string {
	var out []string
	for _, s := range append([]symbol{{Package: p.Path, Kind: "package", Doc: p.Doc}}, p.Symbols...) {
		para, _, _ := strings.Cut(s.Doc, "\n\n")
		if len(para) < answerMin || len(para) > 2*answerMax || strings.Contains(para, "\n") {
			continue
		}
		name := s.Qualified()
		if s.Kind == "package" {
			name = s.Package
		}
		out = append(out, name+" - "+para)
	}
	return out
}

// manualDocuments reads the specification, the memory model and the longer
// texts beside the source.
func manualDocuments(root string) ([]document, error) {
	var docs []document
	pages, err := filepath.Glob(filepath.Join(root, "doc", "*.html"))
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			return nil, err
		}
		docs = appendDocuments(docs, "manual", filepath.Base(page), false, strings.Split(stripHTML(string(b)), "\n\n"))
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		if err != nil || d.IsDir() && (d.Name() == "testdata" || d.Name() == "vendor" || d.Name() == "pkg") {
			return skip(err, d)
		}
		if d.IsDir() || filepath.Ext(path) != ".md" || rel == d.Name() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		docs = appendDocuments(docs, "manual", filepath.ToSlash(rel), false, markdown(string(b)))
		return nil
	})
	return docs, err
}

func skip(err error, d fs.DirEntry) error {
	if err != nil {
		return err
	}
	return filepath.SkipDir
}

// markdown returns a page's paragraphs, each on one line; code keeps its lines.
func markdown(s string) []string {
	var out []string
	for para := range strings.SplitSeq(tidy(htmlDrop.ReplaceAllString(s, "")), "\n\n") {
		if licence.MatchString(para) {
			continue
		}
		if !strings.HasPrefix(para, "    ") && !strings.Contains(para, "```") && !strings.Contains(para, "|") {
			para = strings.Join(strings.Fields(para), " ")
		}
		out = append(out, para)
	}
	return out
}

// writeCorpus writes train.jsonl, second.jsonl and heldout.jsonl, a document a line.
func writeCorpus(dir string, docs, second []document) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := writeDocuments(filepath.Join(dir, "train.jsonl"), docs, false); err != nil {
		return err
	}
	if err := writeDocuments(filepath.Join(dir, "second.jsonl"), second, false); err != nil {
		return err
	}
	return writeDocuments(filepath.Join(dir, "heldout.jsonl"), docs, true)
}

func writeDocuments(path string, docs []document, held bool) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	count, size := map[string]int{}, 0
	for _, d := range docs {
		if d.heldOut != held {
			continue
		}
		count[d.Kind]++
		size += len(d.Text)
		if err := enc.Encode(d); err != nil {
			return err
		}
	}
	fmt.Printf("%s: %.1f MB of text, documents %v\n", path, float64(size)/1e6, count)
	return w.Flush()
}
