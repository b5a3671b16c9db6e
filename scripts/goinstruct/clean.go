package main

import (
	"go/doc/comment"
	"html"
	"regexp"
	"strings"
	"unicode"
)

var (
	directive  = regexp.MustCompile(`^(//|/\*)\s*(go:|line |export |nolint|extern |\+build)`)
	licence    = regexp.MustCompile(`(?i)copyright|licen[cs]e|all rights reserved`)
	note       = regexp.MustCompile(`^(TODO|FIXME|XXX|BUG|HACK)\b`)
	spaces     = regexp.MustCompile(`[ \t]+`)
	blankLines = regexp.MustCompile(`\n{3,}`)
	digits     = regexp.MustCompile(`[0-9]+`)
	docLink    = regexp.MustCompile(`(^|[^\w\])])\[(\*?(?:[A-Z]\w*|\w+\.\w+)(?:\.\w+)*)\]`)
	tag        = regexp.MustCompile(`(?s)<[^>]*>`)
	htmlDrop   = regexp.MustCompile(`(?s)<!--.*?-->|<style.*?</style>|<script.*?</script>`)
	htmlBreak  = regexp.MustCompile(`</?(p|h[1-6]|li|ul|ol|dl|dt|dd|tr|table|div)\b[^>]*>`)
	htmlPre    = regexp.MustCompile(`(?s)<pre[^>]*>(.*?)</pre>`)
)

// cleanDoc renders a doc comment as plain paragraphs, one line each, with code
// blocks indented by four spaces and links as their bare names. Comments that
// are notes to self or carry a licence come back empty.
func cleanDoc(text string) string {
	if note.MatchString(text) || licence.MatchString(text) {
		return ""
	}
	var p comment.Parser
	pr := comment.Printer{TextWidth: -1, TextCodePrefix: "    "}
	lines := strings.Split(tidy(string(pr.Text(p.Parse(text)))), "\n")
	for i, l := range lines {
		if !strings.HasPrefix(l, "    ") {
			lines[i] = docLink.ReplaceAllString(l, "$1$2")
		}
	}
	return strings.Join(lines, "\n")
}

// tidy turns typography into ASCII, tabs into spaces, and drops trailing space.
func tidy(s string) string {
	s = strings.NewReplacer("\t", "    ", "\r", "", "“", `"`, "”", `"`, "‘", "'", "’", "'", "–", "-", "—", "-", "…", "...", " ", " ").Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRightFunc(l, unicode.IsSpace)
	}
	return strings.TrimSpace(blankLines.ReplaceAllString(strings.Join(lines, "\n"), "\n\n"))
}

// isProse reports whether s reads as English sentences: enough words, mostly
// letters, nearly all ASCII, and an end.
func isProse(s string) bool {
	words := strings.Fields(s)
	if len(words) < 8 || len(s) < 50 {
		return false
	}
	letters, odd := 0, 0
	for _, r := range s {
		switch {
		case unicode.IsLetter(r) || r == ' ':
			letters++
		case r > 126:
			odd++
		}
	}
	if letters*100 < 78*len(s) || odd*50 > len(s) {
		return false
	}
	common := 0
	for _, w := range words {
		switch strings.ToLower(w) {
		case "the", "a", "an", "is", "are", "to", "of", "in", "that", "and", "for", "we", "it", "if", "this", "be", "by", "with", "not", "or":
			common++
		}
	}
	return common*8 >= len(words)
}

// key is what two paragraphs share when they differ only in numbers, case and spacing.
func key(s string) string {
	return strings.Join(strings.Fields(digits.ReplaceAllString(strings.ToLower(s), "#")), " ")
}

// stripHTML turns an HTML page of Go's documentation into plain paragraphs.
func stripHTML(s string) string {
	s = htmlDrop.ReplaceAllString(s, "")
	if i := strings.Index(s, "<h2"); i > 0 {
		s = s[i:]
	}
	var pres []string
	s = htmlPre.ReplaceAllStringFunc(s, func(m string) string {
		code := html.UnescapeString(tag.ReplaceAllString(htmlPre.FindStringSubmatch(m)[1], ""))
		pres = append(pres, "    "+strings.ReplaceAll(strings.Trim(code, "\n"), "\n", "\n    "))
		return "<p>\x00<p>"
	})
	s = htmlBreak.ReplaceAllString(s, "\x01")
	s = html.UnescapeString(tag.ReplaceAllString(s, ""))
	var out []string
	for para := range strings.SplitSeq(s, "\x01") {
		para = strings.TrimSpace(spaces.ReplaceAllString(strings.ReplaceAll(para, "\n", " "), " "))
		if para == "\x00" {
			para, pres = pres[0], pres[1:]
		}
		if strings.TrimSpace(para) != "" {
			out = append(out, para)
		}
	}
	return tidy(strings.Join(out, "\n\n"))
}
