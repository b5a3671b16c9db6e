package engine

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/sample"
	"github.com/gotune/gotune/gotune/internal/wire"
)

func (e *Engine) modelGenerateAll(c *call, a struct {
	Model    gotune.Model
	Prompts  []string
	Sampling gotune.Sampling
}) ([]gotune.Generation, error) {
	c.about(a.Model.Name)
	l, _, err := c.model(a.Model)
	if err != nil {
		return nil, err
	}
	return c.generateAll(l, nil, a.Prompts, a.Sampling)
}

func (e *Engine) runGenerateAll(c *call, a struct {
	Name     string
	Prompts  []string
	Sampling gotune.Sampling
}) ([]gotune.Generation, error) {
	c.about(a.Name)
	r, err := e.find(a.Name)
	if err != nil {
		return nil, err
	}
	l, _, err := c.model(r.config.Model)
	if err != nil {
		return nil, err
	}
	if a.Sampling.Base {
		return c.generateAll(l, nil, a.Prompts, a.Sampling)
	}
	r.lent.RLock()
	defer r.lent.RUnlock()
	ad, err := r.onDevice(l)
	if err != nil {
		return nil, err
	}
	return c.generateAll(l, ad, a.Prompts, a.Sampling)
}

// mostRows is the most sequences that are generated side by side.
const mostRows = 32

// rowsSideBySide is how many sequences of that many tokens are generated at once: a
// power of two, so that few programs are compiled, whose keys and values take at most
// half of the free memory where that is known.
func (l *model) rowsSideBySide(prompts, tokens int, free int64) int {
	rows := min(prompts, mostRows)
	c := l.files.Config
	each := 2 * int64(c.NumLayers) * int64(c.NumKVHeads) * int64(c.HeadDim) * int64(tokens) * int64(l.elementSize())
	rows = 1 << bits.Len(uint(rows-1))
	for rows > 1 && free > 0 && int64(rows)*each > free/2 {
		rows /= 2
	}
	return rows
}

// generateAll answers prompts, several at a time. A caller that interrupts gets what
// there is.
func (c *call) generateAll(l *model, ad *layerwise.DeviceAdapter, prompts []string, s gotune.Sampling) ([]gotune.Generation, error) {
	s, err := s.Resolved()
	if err != nil {
		return nil, err
	}
	if len(prompts) == 0 {
		return nil, &gotune.Error{Kind: gotune.KindInvalid, Object: "prompts", Found: "none", Wanted: "one or more"}
	}
	all := make([]gotune.Generation, len(prompts))
	ids := make([][]int32, len(prompts))
	most := l.files.Config.MaxPositions
	longest, shortest := 0, most
	for i, p := range prompts {
		g := &all[i]
		*g = gotune.Generation{Prompt: p, Base: ad == nil, Sampling: s, Stop: string(sample.StopInterrupted)}
		if g.Rendered, err = l.render(p, s.Raw); err != nil {
			return nil, err
		}
		ids[i] = l.tok.Encode(g.Rendered, false)
		g.PromptTokens = len(ids[i])
		if len(ids[i]) >= most {
			return nil, &gotune.Error{Kind: gotune.KindInvalid, Object: fmt.Sprintf("prompt %d of %d", i+1, len(prompts)), Found: fmt.Sprintf("%d tokens", len(ids[i])),
				Wanted: fmt.Sprintf("fewer than the model's %d", most), Next: "shorten the prompt"}
		}
		longest, shortest = max(longest, len(ids[i])), min(shortest, len(ids[i]))
	}
	cfg := sample.Config{MaxLength: s.MaxLength, MaxNewTokens: s.MaxNewTokens, Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP,
		RepetitionPenalty: s.RepetitionPenalty, Seed: s.Seed, EOS: l.stopIDs()}
	answer := max(s.MaxLength-shortest, 1) // the longest
	if s.MaxNewTokens > 0 {
		answer = s.MaxNewTokens
	}
	limit := longest + answer
	if limit > most {
		limit, cfg.MaxLength, cfg.MaxNewTokens = most, 0, most-longest
	}
	rows := l.rowsSideBySide(len(prompts), limit, l.deviceFree())
	for at := 0; at < len(prompts); at += rows {
		end := min(at+rows, len(prompts))
		if err := c.generateSome(l, ad, all[at:end], ids[at:end], rows, limit, cfg, at, len(prompts)); err != nil {
			if errors.Is(err, c.Err()) && !errors.Is(err, wire.ErrGone) {
				return all, nil
			}
			return all, err
		}
	}
	return all, nil
}

// generateSome answers at most rows prompts at once. Rows without one read the first
// again and end with their first token.
func (c *call) generateSome(l *model, ad *layerwise.DeviceAdapter, out []gotune.Generation, ids [][]int32, rows, limit int, cfg sample.Config, before, total int) error {
	dec, err := l.base.NewBatchDecoder(ad, rows, limit)
	if err != nil {
		return err
	}
	defer dec.Close()
	start := time.Now()
	ended := 0
	c.progress(wire.Progress{Task: "answer", Done: int64(before), Total: int64(total), Unit: "prompts"})
	stops := map[int32]bool{}
	for _, id := range cfg.EOS {
		stops[id] = true
	}
	answers, err := sample.GenerateBatch(c, &filledDecoder{dec, rows, len(ids)}, ids, cfg, func(row int, id int32) error {
		out[row].Tokens++
		if stops[id] {
			ended++
			c.progress(wire.Progress{Task: "answer", Done: int64(before + ended), Total: int64(total), Unit: "prompts"})
		}
		return nil
	})
	for i, a := range answers {
		g := &out[i]
		stream := l.tok.Stream(true)
		for _, id := range a.IDs {
			g.Text += stream.Add(id)
		}
		g.Text += stream.Flush()
		g.Tokens, g.Stop, g.Seconds = len(a.IDs), string(a.Stop), time.Since(start).Seconds()
		if g.Seconds > 0 {
			g.TokensPerSecond = float64(g.Tokens) / g.Seconds
		}
	}
	if err == nil {
		c.progress(wire.Progress{Task: "answer", Done: int64(before + len(ids)), Total: int64(total), Unit: "prompts"})
	}
	return err
}

// filledDecoder is a decoder of rows sequences for fewer: the others repeat the first.
type filledDecoder struct {
	*layerwise.BatchDecoder
	rows, used int
}

// Prefill implements sample.BatchDecoder.
func (d *filledDecoder) Prefill(prompts [][]int32) ([][]float32, error) {
	all := append([][]int32(nil), prompts...)
	for len(all) < d.rows {
		all = append(all, prompts[0])
	}
	return d.cut(d.BatchDecoder.Prefill(all))
}

// Step implements sample.BatchDecoder.
func (d *filledDecoder) Step(ids []int32) ([][]float32, error) {
	all := append([]int32(nil), ids...)
	for len(all) < d.rows {
		all = append(all, ids[0])
	}
	return d.cut(d.BatchDecoder.Step(all))
}

// Greedy implements sample.GreedyBatch.
func (d *filledDecoder) Greedy(n int, each func(ids []int32) (more bool, err error)) error {
	return d.BatchDecoder.Greedy(n, func(ids []int32) (bool, error) { return each(ids[:d.used]) })
}

func (d *filledDecoder) cut(logits [][]float32, err error) ([][]float32, error) {
	if err != nil {
		return nil, err
	}
	return logits[:d.used], nil
}
