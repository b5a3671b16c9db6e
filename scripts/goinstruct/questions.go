package main

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strings"
)

// A row is one question about a name, with its answer, in the Llama-2 template.
type row struct {
	Text    string `parquet:"text"`    // <s>[INST] question [/INST] answer </s>
	Package string `parquet:"package"` // import path
	Symbol  string `parquet:"symbol"`  // name in the package; empty for the package itself
	heldOut bool
}

// Question forms by kind of name: %q the qualified name, %n the name, %p the package.
var (
	rowQuestions = map[string][]string{
		"function": {"What does %q do?", "What does %q do?", "Explain %q.", "What is %q for?", "Describe the function %q.",
			"In Go, what does %q do?", "What does the function %n of package %p do?", "Tell me about %q.", "When I call %q, what happens?"},
		"method": {"What does %q do?", "What does %q do?", "Explain the method %q.", "What is %q for?", "Describe %q.",
			"In Go, what does the method %q do?", "Tell me about %q."},
		"type":    {"What is %q?", "What is %q?", "Explain the type %q.", "What is the type %q for?", "Describe %q.", "In Go, what is %q?", "Tell me about the type %q."},
		"package": {"What is package %p for?", "What does package %p do?", "Explain package %p.", "Tell me about the Go package %p."},
	}
)

const (
	answerMin, answerMax = 30, 330 // bytes; 330 are about 90 tokens
	perPackage           = 40      // rows a package may give, so that none dominates
	heldOutPackages      = 12      // one public package in so many gives held-out rows only
)

var (
	sentenceEnd = regexp.MustCompile(`[.!?]\)?\s+`)
	unfit       = regexp.MustCompile(`(?i)deprecated|https?:|\bsee \[|\bTODO\b|[{}<>;]|\.\.\.$|\be\.g\.|\bi\.e\.|implements the .{1,40} interface|no-op|as described (above|below)|following`)
	whatIt      = regexp.MustCompile(`^(\w+) ((?:returns|reports|parses|creates|writes|reads|formats|converts|closes|removes|copies|finds|computes|encodes|decodes) [^.]{15,110})\.`)
)

func fill(form string, s symbol) string {
	return strings.NewReplacer("%q", s.Qualified(), "%n", s.Name, "%p", s.Package).Replace(form)
}

// answer is the first one to three sentences of a doc comment, or "" when they
// don't stand alone: too short or long, not about the name, pointing elsewhere.
func answer(s symbol) string {
	para, _, _ := strings.Cut(s.Doc, "\n\n")
	para = strings.Join(strings.Fields(para), " ")
	if strings.Contains(s.Doc, "Deprecated:") || s.Kind != "package" && !aboutName(para, s.Name) {
		return ""
	}
	a := ""
	for range 3 {
		sentence := para
		if at := sentenceEnd.FindStringIndex(para); at != nil {
			sentence = para[:at[1]]
		}
		if len(a)+len(sentence) > answerMax || unfit.MatchString(sentence) {
			break
		}
		a, para = a+sentence, para[len(sentence):]
	}
	a = strings.TrimSpace(a)
	if len(a) < answerMin || !strings.HasSuffix(a, ".") || !balanced(a) || !isASCII(a) {
		return ""
	}
	return a
}

// aboutName reports whether text starts with the name it documents, as Go asks.
func aboutName(text, name string) bool {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name = name[i+1:]
	}
	for _, article := range []string{"", "A ", "An ", "The "} {
		if strings.HasPrefix(text, article+name+" ") {
			return true
		}
	}
	return false
}

func balanced(s string) bool {
	return strings.Count(s, "(") == strings.Count(s, ")") && strings.Count(s, "[") == strings.Count(s, "]") && strings.Count(s, `"`)%2 == 0
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// candidates makes every row the public packages allow, in their order.
func candidates(pkgs []*pkg) []row {
	var rows []row
	seen := map[string]bool{}
	for _, p := range pkgs {
		if !p.Public || strings.HasPrefix(p.Path, "syscall") || strings.HasPrefix(p.Path, "runtime/") {
			continue
		}
		all := append([]symbol{{Package: p.Path, Kind: "package", Doc: p.Doc}}, p.Symbols...)
		for _, s := range all {
			a := answer(s)
			if a == "" || seen[key(a)] {
				continue
			}
			seen[key(a)] = true
			q, a := question(s, a)
			rows = append(rows, row{Text: fmt.Sprintf("<s>[INST] %s [/INST] %s </s>", q, a), Package: s.Package, Symbol: s.Name})
		}
	}
	return rows
}

// question picks the form. One function in ten is asked for its signature, one in
// ten is to be found from what it does.
func question(s symbol, a string) (q, ans string) {
	h := fnv.New32a()
	fmt.Fprintf(h, "form %s %s", s.Package, s.Name)
	switch turn := h.Sum32() % 10; {
	case turn == 0 && s.Signature != "" && len(s.Signature) < 120:
		return fill("What is the signature of %q?", s), "The signature of " + s.Qualified() + " is " + s.Signature + "."
	case turn == 1 && s.Kind == "function":
		if m := whatIt.FindStringSubmatch(a); m != nil && m[1] == s.Name {
			return "Which function of package " + s.Package + " " + m[2] + "?", "That is " + s.Qualified() + "."
		}
	}
	forms := rowQuestions[s.Kind]
	return fill(forms[hashed(s, 0, 0)%uint64(len(forms))], s), a
}

// chooseRows draws the two splits. A third or more of the held-out rows are of
// packages that give no training row; no name is in both splits.
func chooseRows(all []row, train, heldout int, seed uint64) ([]row, error) {
	r := rand.New(rand.NewPCG(seed, 0))
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	given := map[string]int{}
	var trainRows, apart, mixed []row
	for _, x := range all {
		if given[x.Package]++; given[x.Package] > perPackage {
			continue
		}
		h := fnv.New32a()
		h.Write([]byte(path.Clean(x.Package)))
		switch {
		case h.Sum32()%heldOutPackages == 0:
			apart = append(apart, x)
		case len(trainRows) < train:
			trainRows = append(trainRows, x)
		default:
			mixed = append(mixed, x)
		}
	}
	apart = apart[:min(len(apart), heldout/2)]
	held := append(slices.Clone(apart), mixed[:min(len(mixed), heldout-len(apart))]...)
	if len(trainRows) < train || len(held) < heldout {
		return nil, fmt.Errorf("choose rows: %d training and %d held-out rows pass the filters, wanted %d and %d: ask for fewer", len(trainRows), len(held), train, heldout)
	}
	for i := range held {
		held[i].heldOut = true
	}
	return append(trainRows, held...), nil
}
