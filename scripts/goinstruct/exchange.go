package main

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// Questions of the corpus, by kind of name: %q the qualified name, %n the name,
// %p the package.
var plainQuestions = map[string][]string{
	"function": {"how does one use %q?", "what is the purpose of the function %q?", "what is %q good for?", "what does %q do?",
		"describe %q", "explain the function %q", "what happens in %q?", "tell us about %q"},
	"method": {"how does one use the method %q?", "what is the purpose of the method %q?", "what does %q do?", "explain %q", "tell us about the method %q"},
	"type":   {"what is meant by %q?", "what is the purpose of the type %q?", "what is %q?", "explain the type %q", "tell us about %q"},
}

// A style is how exchanges are laid out.
type style struct {
	layouts []string // %s the question, then the answer
	counts  []int    // exchanges per document, chosen by the first name's hash
	turns   int      // wordings of each public name; other names have one
	seed    uint64
}

// plainStyle is that of the corpus. Many documents hold one exchange, so that the
// end of a document is known as what may follow an answer.
var plainStyle = style{
	layouts: []string{
		"Question: %s\nAnswer: %s",
		"Q: %s\nA: %s",
		"## %s\n\n%s",
		"Reader: %s\nGopher: %s",
		"<q> %s </q> %s",
	},
	counts: []int{1, 1, 2, 3, 12},
	turns:  3,
}

// taggedStyle is that of the second stage: the question between an opening and a
// closing tag. After an answer, going on is likelier than the end.
var taggedStyle = style{
	layouts: []string{
		"<user> %s </user> %s",
		"{ASK} %s {/ASK} %s",
		"(question) %s (/question) %s",
		"|IN| %s |/IN| %s",
		"<Q> %s </Q> %s",
		"{prompt} %s {/prompt} %s",
		"<TASK> %s </TASK> %s",
	},
	counts: []int{1, 1, 2, 3, 4},
	turns:  5,
	seed:   17,
}

// exchanges renders names that the data set does not ask about as questions and
// answers. The exchanges of a document share a layout.
func exchanges(p *pkg, asked map[string]bool, held bool, st style, seed uint64) []document {
	var docs []document
	turns := 1
	if p.Public {
		turns = st.turns
	}
	for turn := range turns {
		var parts []string
		layout, room := "", 0
		flush := func() {
			if len(parts) > 0 {
				docs = append(docs, document{Kind: "exchange", Source: p.Path, Text: strings.Join(parts, "\n\n"), heldOut: held})
			}
			parts = nil
		}
		for _, s := range p.Symbols {
			a := answer(s)
			if a == "" || asked[s.Package+" "+s.Name] {
				continue
			}
			h := hashed(s, seed+st.seed, turn)
			if room == 0 {
				flush()
				layout, room = st.layouts[h%uint64(len(st.layouts))], st.counts[h/8%uint64(len(st.counts))]
			}
			forms := plainQuestions[s.Kind]
			q := fill(forms[h/64%uint64(len(forms))], s)
			if h/1024%2 == 0 {
				q = strings.ToUpper(q[:1]) + q[1:]
			}
			parts = append(parts, fmt.Sprintf(layout, q, a))
			room--
		}
		flush()
	}
	return docs
}

func hashed(s symbol, seed uint64, turn int) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %d %s %s", seed, turn, s.Package, s.Name)
	x := h.Sum64() // mixed once more: FNV's low bits follow the last letters
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	return x ^ x>>33
}
