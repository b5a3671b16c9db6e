package hub

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A Card is a model card: the README.md of a model repository. Its first block
// is the YAML that the Hub reads for search and for the model's page. See
// huggingface.co/docs/hub/model-cards.
type Card struct {
	Title       string   // first heading; default: the repository's name
	BaseModel   string   // Hub id of the model that was tuned; a local path is left out
	Library     string   // "peft" for an adapter, "transformers" for a whole model
	PipelineTag string   // default "text-generation"
	Datasets    []string // Hub ids
	Tags        []string // further tags; "gotune" is always there
	Languages   []string // ISO 639-1 codes
	License     string   // identifier of the Hub's list; default: none stated

	Summary  string // paragraphs below the title, Markdown
	Training []Pair // table "Training", in this order
	Results  []Pair // table "Results", in this order
	Usage    string // Markdown; default: how to load it with the library
}

// A Pair is a row of a card's table.
type Pair struct{ Name, Value string }

// Markdown renders the card for the repository id, e.g. "owner/name".
func (c Card) Markdown(id string) string {
	var b strings.Builder
	b.WriteString("---\n")
	yamlField(&b, "license", c.License)
	if ValidID(c.BaseModel) {
		yamlField(&b, "base_model", c.BaseModel)
		if c.Library == "peft" {
			yamlField(&b, "base_model_relation", "adapter")
		}
	}
	yamlField(&b, "library_name", c.Library)
	yamlField(&b, "pipeline_tag", first(c.PipelineTag, "text-generation"))
	var sets []string
	for _, d := range c.Datasets {
		if ValidID(d) {
			sets = append(sets, d)
		}
	}
	yamlList(&b, "datasets", sets)
	yamlList(&b, "language", c.Languages)
	yamlList(&b, "tags", c.allTags())
	b.WriteString("---\n\n")
	fmt.Fprintf(&b, "# %s\n", oneLine(first(c.Title, id[strings.LastIndexByte(id, '/')+1:])))
	if c.Summary != "" {
		fmt.Fprintf(&b, "\n%s\n", strings.TrimSpace(c.Summary))
	}
	table(&b, "Training", "parameter", c.Training)
	table(&b, "Results", "measure", c.Results)
	fmt.Fprintf(&b, "\n## Use\n\n%s\n", first(strings.TrimSpace(c.Usage), c.usage(id)))
	b.WriteString("\nMade with gotune.\n")
	return b.String()
}

// Write puts the card into dir as README.md. A README.md that is there is kept
// unless overwrite: somebody may have written it by hand.
func (c Card) Write(dir, id string, overwrite bool) error {
	p := filepath.Join(dir, "README.md")
	if _, err := os.Stat(p); err == nil && !overwrite {
		return nil
	}
	if err := writeAtomic(p, []byte(c.Markdown(id))); err != nil {
		return diskError("write", p, err)
	}
	return nil
}

func (c Card) allTags() []string {
	tags := append([]string{"gotune"}, c.Tags...)
	if c.Library == "peft" {
		tags = append(tags, "lora")
	}
	var out []string
	seen := map[string]bool{}
	for _, t := range tags {
		if t != "" && !seen[t] {
			seen[t] = true
			out = append(out, t)
		}
	}
	return out
}

func (c Card) usage(id string) string {
	if c.Library == "peft" {
		base := first(c.BaseModel, "BASE_MODEL")
		return fmt.Sprintf("```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\nbase = AutoModelForCausalLM.from_pretrained(%q)\nmodel = PeftModel.from_pretrained(base, %q)\ntokenizer = AutoTokenizer.from_pretrained(%q)\n```", base, id, base)
	}
	return fmt.Sprintf("```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained(%q)\ntokenizer = AutoTokenizer.from_pretrained(%q)\n```", id, id)
}

func table(b *strings.Builder, title, head string, rows []Pair) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n| %s | value |\n|---|---|\n", title, head)
	for _, r := range rows {
		fmt.Fprintf(b, "| %s | %s |\n", cell(r.Name), cell(r.Value))
	}
}

// cell makes a text fit into a Markdown table.
func cell(s string) string { return strings.ReplaceAll(oneLine(s), "|", `\|`) }

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func yamlField(b *strings.Builder, key, value string) {
	if value != "" {
		fmt.Fprintf(b, "%s: %s\n", key, yamlScalar(value))
	}
}

func yamlList(b *strings.Builder, key string, values []string) {
	if len(values) == 0 {
		return
	}
	fmt.Fprintf(b, "%s:\n", key)
	for _, v := range values {
		fmt.Fprintf(b, "- %s\n", yamlScalar(v))
	}
}

// yamlPlain are the texts that need no quotes and that no YAML reader takes for
// a number, a date, a truth value or null.
var yamlPlain = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./-]*$`)

// yamlScalar quotes where needed. A JSON string is also a YAML one. "no", the
// code of Norwegian, is the classic that must be quoted.
func yamlScalar(s string) string {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
	default:
		if yamlPlain.MatchString(s) {
			return s
		}
	}
	q, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(q)
}
