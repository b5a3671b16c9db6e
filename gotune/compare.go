package gotune

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/gotune/gotune/gotune/internal/wire"
)

// Comparison is what a model wrote before and after training.
type Comparison struct {
	_ struct{}

	Prompt string
	Base   Generation // the adapter off
	Tuned  Generation // the adapter on
}

// Compare lets the model follow each prompt twice, without and with the run's
// adapter, and shows the texts side by side. Choices are greedy;
// [Trainer.CompareWith] takes others.
func (t Trainer) Compare(prompts ...string) ([]Comparison, error) {
	return t.CompareContext(inCell, Sampling{}, prompts...)
}

// CompareWith is Compare with a choice of sampling. s.Base is not looked at.
func (t Trainer) CompareWith(s Sampling, prompts ...string) ([]Comparison, error) {
	return t.CompareContext(inCell, s, prompts...)
}

// CompareContext is [Trainer.CompareWith] for programs.
func (t Trainer) CompareContext(ctx context.Context, s Sampling, prompts ...string) ([]Comparison, error) {
	if len(prompts) == 0 {
		return nil, &Error{Kind: KindInvalid, Op: "compare", Object: quoted("run", t.Name), Found: "no prompts", Wanted: "one or more"}
	}
	what := "compare " + quoted("run", t.Name) + " with its base"
	v := &compareView{progressView: newProgress(what), done: make([]Comparison, len(prompts))}
	for i, p := range prompts {
		v.done[i].Prompt = p
	}
	for i, p := range prompts {
		for _, base := range []bool{true, false} {
			s.Base = base
			g, stopped, err := v.one(ctx, t, p, s)
			if base {
				v.done[i].Base = g
			} else {
				v.done[i].Tuned = g
			}
			if err != nil {
				v.stop(what, err)
				v.s.sync()
				if stopped && ctx.Value(cellKey{}) != nil {
					endInterrupted(what, err)
				}
				return v.done[:i], err
			}
		}
		v.s.print(compareTable(v.done[i:i+1]).columns() + "\n")
	}
	v.finish(nil)
	if v.s.nb != nil {
		t := compareTable(v.done)
		v.s.show(t.html(), t.columns())
	}
	v.s.sync()
	return v.done, nil
}

// compareView shows the table as it fills.
type compareView struct {
	*progressView
	done []Comparison
	text strings.Builder
	cell *string // where the text under way goes
}

func (v *compareView) one(ctx context.Context, t Trainer, prompt string, s Sampling) (g Generation, stopped bool, err error) {
	q, err := t.generation(prompt, s)
	if err != nil {
		return g, false, err
	}
	for i := range v.done {
		if v.done[i].Prompt != prompt {
			continue
		}
		v.cell = &v.done[i].Tuned.Text
		if s.Base {
			v.cell = &v.done[i].Base.Text
		}
		break
	}
	v.text.Reset()
	stopped, err = call(ctx, q, &g, v)
	return g, stopped, err
}

func (v *compareView) event(m *wire.Message) {
	if m.Event != wire.EventToken {
		v.take(m)
		v.tick()
		return
	}
	var t wire.Token
	if json.Unmarshal(m.Data, &t) == nil {
		v.text.WriteString(t.Text)
		*v.cell = v.text.String() + "▌"
		v.dirty = true
		v.tick()
	}
}

func (v *compareView) tick() {
	if v.text.Len() == 0 {
		v.progressView.tick()
		return
	}
	if v.dirty && v.live.due() {
		v.dirty = false
		v.live.draw("<div>"+escape(v.what)+" …</div>"+compareTable(v.done).html(), v.what+" …")
	}
}

// stop leaves what is there in the live block's place.
func (v *compareView) stop(what string, err error) {
	line := what + ": " + endWord(err)
	v.live.finish("<div>"+escape(line)+"</div>"+compareTable(v.done).html(), line)
}

func compareTable(list []Comparison) table {
	t := table{head: []string{"prompt", "base", "tuned"}, left: 3, wrap: true}
	for _, c := range list {
		t.rows = append(t.rows, []string{c.Prompt, c.Base.Text + stopMark(c.Base), c.Tuned.Text + stopMark(c.Tuned)})
	}
	return t
}

// stopMark shows that a text was cut.
func stopMark(g Generation) string {
	if g.Stop == "length" {
		return " …[cut at the length limit]"
	}
	return ""
}

// columns is a table of long texts in text: each cell on lines of its own.
func (t table) columns() string {
	var b strings.Builder
	for _, row := range t.rows {
		for j, cell := range row {
			b.WriteString(t.head[j] + ":\n    " + strings.ReplaceAll(plainText(cell), "\n", "\n    ") + "\n")
		}
	}
	return b.String()
}
