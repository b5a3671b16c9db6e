package main

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A pkg is one package of GOROOT with its documentation.
type pkg struct {
	Path    string // import path, e.g. "net/http"
	Public  bool   // importable by users: neither internal, vendored nor a command
	Doc     string // package comment, cleaned
	Symbols []symbol
	files   []string // all its Go files, tests too
}

// A symbol is one documented name of a package.
type symbol struct {
	Package   string // import path
	Name      string // "TrimSpace", or "Buffer.Len" for a method
	Kind      string // "function", "method" or "type"
	Signature string // one line; empty for types
	Doc       string // cleaned doc comment
}

// Qualified is the name as code writes it: "http.Client.Do".
func (s symbol) Qualified() string {
	dir, base := path.Split(s.Package)
	if len(base) == 2 && base[0] == 'v' { // math/rand/v2 is package rand
		base = path.Base(dir)
	}
	return base + "." + s.Name
}

// readPackages reads every package below root/src that keep wants, in order of import path.
func readPackages(root string, keep func(path string) bool) ([]*pkg, error) {
	src := filepath.Join(root, "src")
	var pkgs []*pkg
	err := filepath.WalkDir(src, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(src, dir)
		rel = filepath.ToSlash(rel)
		if base := path.Base(rel); base == "testdata" || base != "." && strings.HasPrefix(base, ".") || !mayUse(rel) {
			return filepath.SkipDir
		}
		if !keep(rel) {
			return nil
		}
		p, err := readPackage(dir, rel)
		if p != nil {
			pkgs = append(pkgs, p)
		}
		return err
	})
	return pkgs, err
}

// mayUse keeps to text of the Go authors: of the vendored code only golang.org/x.
func mayUse(rel string) bool {
	_, vendored, ok := strings.Cut(rel, "vendor/")
	return !ok || vendored == "golang.org" || strings.HasPrefix(vendored, "golang.org/")
}

func readPackage(dir, rel string) (*pkg, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	slices.Sort(files)
	p := &pkg{Path: rel, Public: public(rel), files: files}
	ctx := build.Default
	ctx.GOOS, ctx.GOARCH, ctx.CgoEnabled = "linux", "amd64", true
	bp, err := ctx.ImportDir(dir, build.ImportComment)
	if err != nil { // only tests, or nothing for this platform: its comments still count
		return p, nil
	}
	fset := token.NewFileSet()
	var parsed []*ast.File
	for _, name := range append(bp.GoFiles, bp.CgoFiles...) {
		f, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", rel, err)
		}
		parsed = append(parsed, f)
	}
	mode := doc.PreserveAST
	if !p.Public {
		mode |= doc.AllDecls
	}
	d, err := doc.NewFromFiles(fset, parsed, rel, mode)
	if err != nil {
		return nil, fmt.Errorf("document %s: %w", rel, err)
	}
	p.Doc = cleanDoc(d.Doc)
	p.addFuncs(fset, "", d.Funcs)
	for _, t := range d.Types {
		p.add(symbol{Name: t.Name, Kind: "type", Doc: t.Doc})
		p.addFuncs(fset, "", t.Funcs)
		p.addFuncs(fset, t.Name+".", t.Methods)
	}
	return p, nil
}

func public(rel string) bool {
	for part := range strings.SplitSeq(rel, "/") {
		if part == "internal" || part == "vendor" {
			return false
		}
	}
	return rel != "cmd" && !strings.HasPrefix(rel, "cmd/") && rel != "builtin" && !strings.HasPrefix(rel, "simd")
}

func (p *pkg) addFuncs(fset *token.FileSet, prefix string, fs []*doc.Func) {
	kind := "function"
	if prefix != "" {
		kind = "method"
	}
	for _, f := range fs {
		p.add(symbol{Name: prefix + f.Name, Kind: kind, Doc: f.Doc, Signature: signature(fset, f.Decl)})
	}
}

func (p *pkg) add(s symbol) {
	s.Package, s.Doc = p.Path, cleanDoc(s.Doc)
	if s.Doc != "" {
		p.Symbols = append(p.Symbols, s)
	}
}

// signature prints a function's declaration without body, on one line.
func signature(fset *token.FileSet, d *ast.FuncDecl) string {
	c := *d
	c.Body, c.Doc = nil, nil
	var b strings.Builder
	if err := printer.Fprint(&b, fset, &c); err != nil {
		return ""
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
