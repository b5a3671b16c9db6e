package gotune

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// Generate writes a text that follows the prompt, with the model as it was
// loaded; it shows token by token. The prompt is put into the model's prompt
// form unless s.Raw is set. The model is loaded first if need be.
func (m Model) Generate(prompt string, s Sampling) (Generation, error) {
	return m.GenerateContext(inCell, prompt, s)
}

// GenerateContext is [Model.Generate] for programs.
func (m Model) GenerateContext(ctx context.Context, prompt string, s Sampling) (Generation, error) {
	m, err := m.Resolved()
	if err != nil {
		return Generation{}, err
	}
	if s, err = s.Resolved(); err != nil {
		return Generation{}, err
	}
	return generate(ctx, request{verb: wire.VerbModelGenerate, what: "generate with " + quoted("model", m.Name),
		args: struct {
			Model    Model
			Prompt   string
			Sampling Sampling
		}{m, prompt, s}}, prompt)
}

// Generate writes a text that follows the prompt, with the run's adapter on the
// model, or without it if s.Base is set; it shows token by token. It works while
// the run trains, too; [Trainer.Sample] then keeps the answer in the record.
func (t Trainer) Generate(prompt string, s Sampling) (Generation, error) {
	return t.GenerateContext(inCell, prompt, s)
}

// GenerateContext is [Trainer.Generate] for programs.
func (t Trainer) GenerateContext(ctx context.Context, prompt string, s Sampling) (Generation, error) {
	q, err := t.generation(prompt, s)
	if err != nil {
		return Generation{}, err
	}
	return generate(ctx, q, prompt)
}

func (t Trainer) generation(prompt string, s Sampling) (request, error) {
	s, err := s.Resolved()
	return request{verb: wire.VerbRunGenerate, what: "generate with " + quoted("run", t.Name),
		args: struct {
			Name, Prompt string
			Sampling     Sampling
		}{t.Name, prompt, s}}, err
}

func generate(ctx context.Context, q request, prompt string) (Generation, error) {
	v := &tokenView{progressView: newProgress(q.what), prompt: prompt}
	return doView(ctx, q, v, func(g Generation) (string, string) { return g.html(), g.text(v.written && v.s.nb == nil) })
}

// tokenView shows a text as it is written.
type tokenView struct {
	*progressView
	prompt  string
	text    strings.Builder
	written bool // some of the text has come; a text screen has it already
}

func (v *tokenView) event(m *wire.Message) {
	if m.Event != wire.EventToken {
		v.take(m)
		v.tick()
		return
	}
	var t wire.Token
	if json.Unmarshal(m.Data, &t) != nil {
		return
	}
	v.text.WriteString(t.Text)
	v.written, v.dirty = true, true
	v.s.print(plainText(t.Text))
	v.tick()
}

func (v *tokenView) tick() {
	if !v.written {
		v.progressView.tick()
		return
	}
	if v.dirty && v.live.due() {
		v.dirty = false
		v.live.draw(exchangeHTML(v.prompt, v.text.String()+"▌", ""), v.text.String())
	}
}

// finish leaves the prompt in the live block's place: the final output has the
// text. After a failure what was written stays.
func (v *tokenView) finish(err error) {
	if v.written {
		v.s.print("\n")
	}
	if err != nil && v.written {
		v.live.finish(exchangeHTML(v.prompt, v.text.String(), endWord(err)), v.text.String())
		return
	}
	v.progressView.finish(err)
}

// exchangeHTML shows a prompt, what the model wrote, and a note below.
func exchangeHTML(prompt, text, note string) string {
	var b strings.Builder
	b.WriteString(`<div style="max-width:52em;padding:4px 0"><div style="white-space:pre-wrap;opacity:.7">` + escape(prompt) + `</div>`)
	b.WriteString(`<div style="white-space:pre-wrap;border-left:3px solid ` + accent + `;padding:2px 0 2px 10px;margin:6px 0">` + escape(text) + `</div>`)
	if note != "" {
		b.WriteString(`<div><small>` + escape(note) + `</small></div>`)
	}
	b.WriteString(`</div>`)
	return b.String()
}

// note is the generation's numbers in a line.
func (g Generation) note() string {
	how := "greedy"
	if g.Sampling.Temperature > 0 {
		how = fmt.Sprintf("temperature %g", g.Sampling.Temperature)
		if g.Sampling.TopK > 0 {
			how += fmt.Sprintf(", top-k %d", g.Sampling.TopK)
		}
		if g.Sampling.TopP < 1 {
			how += fmt.Sprintf(", top-p %g", g.Sampling.TopP)
		}
	}
	if g.Sampling.RepetitionPenalty != 1 && g.Sampling.RepetitionPenalty != 0 {
		how += fmt.Sprintf(", repetition penalty %g", g.Sampling.RepetitionPenalty)
	}
	stop := map[string]string{"eos": "ended by itself", "length": "cut at the length limit", "interrupted": "interrupted"}[g.Stop]
	if stop == "" {
		stop = g.Stop
	}
	parts := []string{plural(g.Tokens, "token") + " after " + plural(g.PromptTokens, "prompt token"), stop, speedText(g.TokensPerSecond), how}
	if g.Base {
		parts = append(parts, "adapter off")
	}
	return strings.Join(parts, " · ")
}

func (g Generation) html() string { return exchangeHTML(g.Prompt, g.Text, g.note()) }

func (g Generation) text(written bool) string {
	if written {
		return "[" + g.note() + "]\n"
	}
	return plainText(g.Text) + "\n[" + g.note() + "]\n"
}
