package gotune

import (
	"context"
	"fmt"
	"strings"
)

// ShowTemplate shows row i of the data set with the parts of its prompt template
// marked and explained: where the text begins and ends, what the user says and
// what the model is to answer. It returns the row's text.
func (d Dataset) ShowTemplate(i int) (string, error) { return d.ShowTemplateContext(inCell, i) }

// ShowTemplateContext is [Dataset.ShowTemplate] for programs.
func (d Dataset) ShowTemplateContext(ctx context.Context, i int) (string, error) {
	d, err := d.Resolved()
	if err != nil {
		return "", err
	}
	rows, err := d.RowsContext(ctx, i, 1)
	if err != nil {
		return "", err
	}
	object := fmt.Sprintf("row %d of data set %q", i, d.Name)
	if len(rows.Values) == 0 {
		return "", &Error{Kind: KindNotFound, Op: "show", Object: object, Found: plural(rows.Total, "row"), Wanted: "a row from 0 on"}
	}
	column := d.TextColumn
	if column == "" {
		column = "text" // a bare literal: the engine knows the column, the default is tried
	}
	text := rows.Text(0, column)
	if text == "" {
		return "", &Error{Kind: KindNotFound, Op: "show", Object: object, Found: "columns " + strings.Join(rows.Columns, ", "),
			Wanted: fmt.Sprintf("a text in the column %q", column), Next: "set TextColumn"}
	}
	parts := templateParts(text)
	s := current()
	s.show(templateHTML(object, parts), templateText(object, parts))
	s.sync()
	return text, nil
}

// A part is a piece of a text in the Llama-2 template.
type part struct {
	text string
	role *role
}

// A role is what a part is there for.
type role struct {
	name, mark, explain, tint string
}

// The roles, in the order that they are explained. Tints are weak enough for
// text in light and dark.
var (
	roleBOS    = &role{"begin", "<s>", "BOS, the token that begins a text. gotune adds it if it is missing, and never twice.", "rgba(128,128,128,.35)"}
	roleInst   = &role{"instruction marks", "[INST]", "[INST] and [/INST] enclose what the user says. They are plain text, a few tokens each.", "rgba(232,113,10,.35)"}
	roleSystem = &role{"system prompt", "<<SYS>>", "between <<SYS>> and <</SYS>>: how the model should behave in general.", "rgba(143,111,201,.35)"}
	rolePrompt = &role{"prompt", "", "what the user says.", "rgba(59,142,234,.30)"}
	roleAnswer = &role{"answer", "", "what the model is to learn to say.", "rgba(44,162,95,.35)"}
	roleEOS    = &role{"end", "</s>", "EOS, the token that ends a text. The model learns to stop by it.", "rgba(215,64,47,.35)"}
	roleText   = &role{"text", "", "outside of the template.", "transparent"}

	allRoles = []*role{roleBOS, roleInst, roleSystem, rolePrompt, roleAnswer, roleEOS, roleText}
)

// templateParts cuts a text at the marks of the Llama-2 template. A text without
// marks is one part.
func templateParts(text string) []part {
	marks := []struct {
		mark        string
		role, after *role
	}{{"<s>", roleBOS, roleText}, {"</s>", roleEOS, roleText}, {"[INST]", roleInst, rolePrompt}, {"[/INST]", roleInst, roleAnswer},
		{"<<SYS>>", roleSystem, roleSystem}, {"<</SYS>>", roleSystem, rolePrompt}}
	var parts []part
	now := roleText
	for text != "" {
		first, found := len(text), -1
		for i, m := range marks {
			if at := strings.Index(text, m.mark); at >= 0 && at < first {
				first, found = at, i
			}
		}
		if first > 0 {
			role := now
			if strings.TrimSpace(text[:first]) == "" {
				role = roleText
			}
			parts = append(parts, part{text[:first], role})
		}
		if found < 0 {
			break
		}
		m := marks[found]
		parts = append(parts, part{m.mark, m.role})
		text, now = text[first+len(m.mark):], m.after
	}
	return parts
}

// used are the roles that the parts have.
func used(parts []part) []*role {
	var roles []*role
	for _, r := range allRoles {
		for _, p := range parts {
			if p.role == r && (r != roleText || strings.TrimSpace(p.text) != "") {
				roles = append(roles, r)
				break
			}
		}
	}
	return roles
}

func templateHTML(title string, parts []part) string {
	var b strings.Builder
	b.WriteString(`<div style="font-weight:bold;margin:4px 0">` + escape(title) + `</div><div style="white-space:pre-wrap;max-width:52em;line-height:1.7;padding:6px 0">`)
	for _, p := range parts {
		weight := ""
		if p.role.mark != "" && p.role != roleSystem || p.text == "<<SYS>>" || p.text == "<</SYS>>" {
			weight = ";font-weight:bold"
		}
		b.WriteString(`<span title="` + escape(p.role.name) + `" style="background-color:` + p.role.tint + weight + `;border-radius:3px;padding:1px 2px">` + escape(p.text) + `</span>`)
	}
	b.WriteString(`</div><table><tbody>`)
	for _, r := range used(parts) {
		b.WriteString(`<tr><td style="text-align:left"><span style="background-color:` + r.tint + `;border-radius:3px;padding:1px 6px">` + escape(r.name) +
			`</span></td><td style="text-align:left">` + escape(r.explain) + `</td></tr>`)
	}
	b.WriteString(`</tbody></table>`)
	return b.String()
}

func templateText(title string, parts []part) string {
	var b strings.Builder
	b.WriteString(plainText(title) + "\n\n")
	for _, p := range parts {
		b.WriteString(plainText(p.text))
	}
	b.WriteString("\n\n")
	for _, p := range parts {
		if strings.TrimSpace(p.text) != "" {
			fmt.Fprintf(&b, "%-18s %s\n", p.role.name, plainText(oneLine(strings.TrimSpace(p.text), 60)))
		}
	}
	b.WriteString("\n")
	for _, r := range used(parts) {
		fmt.Fprintf(&b, "%-18s %s\n", r.name, r.explain)
	}
	return b.String()
}
