package engine

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/chat"
	"github.com/gotune/gotune/gotune/internal/ckpt"
	"github.com/gotune/gotune/gotune/internal/layerwise"
	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/quant"
	"github.com/gotune/gotune/gotune/internal/sample"
	"github.com/gotune/gotune/gotune/internal/wire"
)

func (e *Engine) modelGenerate(c *call, a struct {
	Model    gotune.Model
	Prompt   string
	Sampling gotune.Sampling
}) (gotune.Generation, error) {
	c.about(a.Model.Name)
	l, _, err := c.model(a.Model)
	if err != nil {
		return gotune.Generation{}, err
	}
	return c.generate(l, nil, a.Prompt, a.Sampling)
}

func (e *Engine) runGenerate(c *call, a struct {
	Name     string
	Prompt   string
	Sampling gotune.Sampling
}) (gotune.Generation, error) {
	c.about(a.Name)
	r, err := e.find(a.Name)
	if err != nil {
		return gotune.Generation{}, err
	}
	return c.ask(r, a.Prompt, a.Sampling)
}

// onDevice is the run's adapter on its model's device: the one in training, or
// the trained one, uploaded once.
func (r *run) onDevice(l *model) (*layerwise.DeviceAdapter, error) {
	r.mu.Lock()
	trainer := r.live
	r.mu.Unlock()
	if trainer != nil {
		return trainer.Device(), nil
	}
	a, err := r.trained()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tuned == nil {
		if r.tuned, err = l.base.Upload(a); err != nil {
			return nil, err
		}
	}
	return r.tuned, nil
}

// trained is the run's adapter in host memory; after a restart of the engine it
// comes from the last checkpoint.
func (r *run) trained() (*lora.Adapter, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live != nil {
		return r.live.Adapter()
	}
	if r.adapter != nil {
		return r.adapter, nil
	}
	latest, _, err := ckpt.Latest(r.config.OutputDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if latest == nil {
		return nil, &gotune.Error{Kind: gotune.KindNotFound, Object: "adapter of run " + quote(r.config.Name), Found: "no checkpoint in " + r.config.OutputDir,
			Wanted: "a run that has trained", Next: "run the cell that trains it"}
	}
	r.adapter = latest.Adapter
	return r.adapter, nil
}

// render puts a prompt into the model's prompt form.
func (l *model) render(prompt string, raw bool) (string, error) {
	bos := ""
	if id, ok := l.tok.BOS(); ok {
		bos = l.tok.Token(id)
	}
	switch {
	case raw && chat.HasBOS(prompt, bos):
		return prompt, nil
	case raw:
		return bos + prompt, nil
	case l.template == nil:
		return chat.Prompt("", prompt), nil
	}
	return l.template.Render([]chat.Message{{Role: "user", Content: prompt}}, chat.Options{AddGenerationPrompt: true})
}

// generate writes an answer and streams it to the caller.
func (c *call) generate(l *model, ad *layerwise.DeviceAdapter, prompt string, s gotune.Sampling) (g gotune.Generation, err error) {
	s, err = s.Resolved()
	if err != nil {
		return g, err
	}
	g = gotune.Generation{Prompt: prompt, Base: ad == nil, Sampling: s}
	if g.Rendered, err = l.render(prompt, s.Raw); err != nil {
		return g, err
	}
	ids := l.tok.Encode(g.Rendered, false)
	g.PromptTokens = len(ids)
	cfg := sample.Config{MaxLength: s.MaxLength, MaxNewTokens: s.MaxNewTokens, Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP,
		RepetitionPenalty: s.RepetitionPenalty, Seed: s.Seed, EOS: l.stopIDs()}
	limit := s.MaxLength
	if s.MaxNewTokens > 0 {
		limit = len(ids) + s.MaxNewTokens
	}
	if most := l.files.Config.MaxPositions; len(ids) >= most {
		return g, &gotune.Error{Kind: gotune.KindInvalid, Object: "prompt", Found: fmt.Sprintf("%d tokens", len(ids)), Wanted: fmt.Sprintf("fewer than the model's %d", most), Next: "shorten the prompt"}
	} else if limit > most {
		limit, cfg.MaxLength, cfg.MaxNewTokens = most, most, 0
	}
	dec, err := l.base.NewDecoder(ad, limit)
	if err != nil {
		return g, err
	}
	defer dec.Close()
	stream := l.tok.Stream(true)
	start := time.Now()
	say := func(text string) {
		if text != "" {
			g.Text += text
			c.emit(wire.EventToken, wire.Token{Text: text})
		}
	}
	out, stop, err := sample.Generate(c, dec, ids, cfg, func(id int32) error { say(stream.Add(id)); return nil })
	say(stream.Flush())
	g.Tokens, g.Stop, g.Seconds = len(out), string(stop), time.Since(start).Seconds()
	if g.Seconds > 0 {
		g.TokensPerSecond = float64(g.Tokens) / g.Seconds
	}
	if stop == sample.StopInterrupted && !errors.Is(c.Err(), wire.ErrGone) {
		err = nil
	}
	return g, err
}

// stopIDs are the tokens that end an answer: the model's and the tokenizer's.
func (l *model) stopIDs() []int32 {
	var out []int32
	for _, id := range l.files.Config.EOS {
		out = append(out, int32(id))
	}
	if id, ok := l.tok.EOS(); ok {
		out = append(out, id)
	}
	return out
}

// weight is a base weight as training sees it: quantized and back where the
// model is held in 4 bits.
func (l *model) weight(name string) ([]float32, []int, error) {
	w, shape, err := l.files.Float32(name)
	if err != nil || l.config.Quant.Type == "none" || l.files.Config.Quantization != nil {
		return w, shape, err
	}
	q, err := quant.Quantize(quant.Type(l.config.Quant.Type), shape, w, l.config.Quant.BlockSize, l.config.Quant.DoubleQuant)
	if err != nil {
		return nil, nil, err
	}
	q.Dequantize(w)
	return w, shape, nil
}
