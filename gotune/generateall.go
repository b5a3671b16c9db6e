package gotune

import (
	"context"
	"fmt"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// GenerateAll is [Model.Generate] for several prompts side by side: a step reads the
// model's weights once for a token of each, so that many answers take little longer than
// the longest of them. Answers come in the prompts' order and show as a table.
func (m Model) GenerateAll(prompts []string, s Sampling) ([]Generation, error) {
	return m.GenerateAllContext(inCell, prompts, s)
}

// GenerateAllContext is [Model.GenerateAll] for programs.
func (m Model) GenerateAllContext(ctx context.Context, prompts []string, s Sampling) ([]Generation, error) {
	m, err := m.Resolved()
	if err != nil {
		return nil, err
	}
	if s, err = s.Resolved(); err != nil {
		return nil, err
	}
	return generateAll(ctx, request{verb: wire.VerbModelGenerateAll, what: "generate with " + quoted("model", m.Name),
		args: struct {
			Model    Model
			Prompts  []string
			Sampling Sampling
		}{m, prompts, s}}, prompts)
}

// GenerateAll is [Trainer.Generate] for several prompts side by side, see
// [Model.GenerateAll].
func (t Trainer) GenerateAll(prompts []string, s Sampling) ([]Generation, error) {
	return t.GenerateAllContext(inCell, prompts, s)
}

// GenerateAllContext is [Trainer.GenerateAll] for programs.
func (t Trainer) GenerateAllContext(ctx context.Context, prompts []string, s Sampling) ([]Generation, error) {
	s, err := s.Resolved()
	if err != nil {
		return nil, err
	}
	return generateAll(ctx, request{verb: wire.VerbRunGenerateAll, what: "generate with " + quoted("run", t.Name),
		args: struct {
			Name     string
			Prompts  []string
			Sampling Sampling
		}{t.Name, prompts, s}}, prompts)
}

func generateAll(ctx context.Context, q request, prompts []string) ([]Generation, error) {
	if len(prompts) == 0 {
		return nil, &Error{Kind: KindInvalid, Op: "generate", Object: "prompts", Found: "none", Wanted: "one or more"}
	}
	v := newProgress(q.what)
	return doView(ctx, q, v, func(all []Generation) (string, string) {
		t := answersTable(all)
		return t.html(), t.columns()
	})
}

func answersTable(all []Generation) table {
	t := table{head: []string{"prompt", "answer"}, left: 2, wrap: true}
	tokens, seconds := 0, 0.0
	for _, g := range all {
		t.rows = append(t.rows, []string{g.Prompt, g.Text + stopMark(g)})
		tokens += g.Tokens
		seconds = max(seconds, g.Seconds)
	}
	t.title = plural(len(all), "answer") + ", " + plural(tokens, "token")
	if seconds > 0 {
		t.title += fmt.Sprintf(", %s together", speedText(float64(tokens)/seconds))
	}
	return t
}
