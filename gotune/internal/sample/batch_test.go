package sample

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// bigrams are bigram decoders side by side; picking ones implement GreedyBatch.
type bigrams struct {
	*bigram
	last []int32
}

func (b *bigrams) Prefill(prompts [][]int32) (out [][]float32, err error) {
	for _, p := range prompts {
		b.last = append(b.last, p[len(p)-1])
	}
	return b.logits(), nil
}

func (b *bigrams) Step(ids []int32) ([][]float32, error) {
	copy(b.last, ids)
	if _, err := b.bigram.Step(ids[0]); err != nil {
		return nil, err
	}
	return b.logits(), nil
}

func (b *bigrams) logits() (out [][]float32) {
	for _, id := range b.last {
		out = append(out, b.table[id])
	}
	return out
}

type picking struct{ bigrams }

func (p *picking) Greedy(n int, each func(ids []int32) (bool, error)) error {
	for range n {
		for r, z := range p.logits() {
			p.last[r] = Argmax(z)
		}
		if more, err := each(p.last); err != nil || !more {
			return err
		}
	}
	return nil
}

func TestGenerateBatch(t *testing.T) {
	ctx := context.Background()
	prompts := [][]int32{letters("together."), letters("th"), letters("a gopher")}
	for name, d := range map[string]func() BatchDecoder{
		"host":   func() BatchDecoder { return &bigrams{bigram: newBigram(text)} },
		"device": func() BatchDecoder { return &picking{bigrams{bigram: newBigram(text)}} },
	} {
		for _, cfg := range []Config{{MaxNewTokens: 6, EOS: end}, {MaxLength: 12, EOS: end}, {MaxNewTokens: 9, RepetitionPenalty: 1.3}} {
			count := make([]int, len(prompts))
			got, err := GenerateBatch(ctx, d(), prompts, cfg, func(row int, _ int32) error { count[row]++; return nil })
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for r, p := range prompts {
				want, why, err := Generate(ctx, newBigram(text), p, cfg, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got[r].IDs, want) || got[r].Stop != why || count[r] != len(want) {
					t.Errorf("%s %+v row %d: %q (%s), %d passed on; alone %q (%s)", name, cfg, r, spell(got[r].IDs), got[r].Stop, count[r], spell(want), why)
				}
			}
		}
	}
	drawn, err := GenerateBatch(ctx, &bigrams{bigram: newBigram(text)}, [][]int32{prompts[1], prompts[1]}, Config{MaxNewTokens: 30, Temperature: 1, Seed: 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want, _, _ := Generate(ctx, newBigram(text), prompts[1], Config{MaxNewTokens: 30, Temperature: 1, Seed: 3}, nil)
	if !slices.Equal(drawn[0].IDs, want) || slices.Equal(drawn[0].IDs, drawn[1].IDs) {
		t.Errorf("row 0 drew %q, alone %q; row 1 %q", spell(drawn[0].IDs), spell(want), spell(drawn[1].IDs))
	}
}

func TestGenerateBatchFailures(t *testing.T) {
	lost := newBigram(text)
	lost.fail = 2
	got, err := GenerateBatch(context.Background(), &bigrams{bigram: lost}, [][]int32{letters("th"), letters("a")}, Config{MaxNewTokens: 6}, nil)
	if err == nil || len(got) != 2 || len(got[1].IDs) != 2 || got[0].Stop != StopFailed {
		t.Errorf("a device that was lost: %v, %v", got, err)
	}
	for _, device := range []bool{false, true} {
		ctx, cancel := context.WithCancel(context.Background())
		var d BatchDecoder = &bigrams{bigram: newBigram(text)}
		if device {
			d = &picking{bigrams{bigram: newBigram(text)}}
		}
		got, err = GenerateBatch(ctx, d, [][]int32{letters("th")}, Config{MaxNewTokens: 6}, func(int, int32) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) || got[0].Stop != StopInterrupted || len(got[0].IDs) != 1 {
			t.Errorf("cancelled: %v, %v", got, err)
		}
		full := errors.New("pipe closed")
		got, err = GenerateBatch(context.Background(), d, [][]int32{letters("th")}, Config{MaxNewTokens: 6}, func(int, int32) error { return full })
		if !errors.Is(err, full) || got[0].Stop != StopFailed {
			t.Errorf("a failing listener: %v, %v", got, err)
		}
	}
	for _, prompts := range [][][]int32{nil, {{}}, {letters("th"), nil}} {
		if _, err := GenerateBatch(context.Background(), &bigrams{bigram: newBigram(text)}, prompts, Config{}, nil); err == nil {
			t.Errorf("prompts %v were taken", prompts)
		}
	}
}

// A decoder that picks tokens gives what the host would pick.
func TestGreedyDecoder(t *testing.T) {
	for _, cfg := range []Config{{MaxNewTokens: 7}, {EOS: end}, {MaxLength: 5}} {
		want, why, err := Generate(context.Background(), newBigram(text), letters("th"), cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, stop, err := Generate(context.Background(), &pickingOne{newBigram(text), 0}, letters("th"), cfg, nil)
		if err != nil || !slices.Equal(got, want) || stop != why {
			t.Errorf("%+v: %q (%s), %v; want %q (%s)", cfg, spell(got), stop, err, spell(want), why)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	got, stop, err := Generate(ctx, &pickingOne{newBigram(text), 0}, letters("th"), Config{}, func(int32) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) || stop != StopInterrupted || len(got) != 1 {
		t.Errorf("cancelled: %v, %s, %v", got, stop, err)
	}
	full := errors.New("pipe closed")
	if _, stop, err = Generate(context.Background(), &pickingOne{newBigram(text), 0}, letters("th"), Config{}, func(int32) error { return full }); !errors.Is(err, full) || stop != StopFailed {
		t.Errorf("a failing listener: %s, %v", stop, err)
	}
}

type pickingOne struct {
	*bigram
	last int32
}

func (p *pickingOne) Prefill(ids []int32) ([]float32, error) {
	p.last = ids[len(ids)-1]
	return p.bigram.Prefill(ids)
}

func (p *pickingOne) Greedy(n int, each func(id int32) (bool, error)) error {
	for range n {
		p.last = Argmax(p.table[p.last])
		if more, err := each(p.last); err != nil || !more {
			return err
		}
	}
	return nil
}
