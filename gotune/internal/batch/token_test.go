package batch_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/batch"
	"github.com/gotune/gotune/gotune/internal/oracle"
	"github.com/gotune/gotune/gotune/internal/token"
)

// TestLlamaTokenizer makes examples of a finished Llama-2 prompt with the golden
// sentencepiece tokenizer, in both modes (DESIGN.md, section 6).
func TestLlamaTokenizer(t *testing.T) {
	tok, err := token.Load(oracle.Dir(t, "tokenizer", "llama2_sp"))
	if err != nil {
		t.Fatal(err)
	}
	bos, _ := tok.BOS()
	eos, ok := tok.EOS()
	if !ok {
		t.Fatal("the tokenizer has no end-of-sequence token")
	}
	const inner = "[INST] What does Close do? [/INST] It closes the file. "
	texts := []string{"<s>" + inner + "</s>", "<s>" + inner + "</s><s>" + inner + "</s>", inner + "</s>"}
	right, err := batch.Tokenize(context.Background(), texts, tok, batch.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	parity, err := batch.Tokenize(context.Background(), texts, tok, batch.Options{Parity: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range texts {
		r, p := right.Examples[i], parity.Examples[i]
		if r.IDs[0] != bos || r.IDs[1] == bos {
			t.Errorf("row %d begins %v, wanted one %d", i, r.IDs[:3], bos)
		}
		if !slices.Equal(r.Labels, r.IDs) || r.Labels[len(r.Labels)-1] != eos {
			t.Errorf("row %d: labels %v of ids %v", i, r.Labels, r.IDs)
		}
		if !slices.Equal(p.IDs, tok.Encode(texts[i], true)) {
			t.Errorf("row %d: parity mode changed the ids", i)
		}
		if twice := p.IDs[0] == bos && p.IDs[1] == bos; twice != (i < 2) {
			t.Errorf("row %d, parity: begins %v", i, p.IDs[:3])
		}
		for j, id := range p.IDs {
			if want := id; id == eos && p.Labels[j] != batch.Ignore || id != eos && p.Labels[j] != want {
				t.Errorf("row %d, parity: token %d (id %d) has label %d", i, j, id, p.Labels[j])
			}
		}
	}
	if right.EOS != 4 || parity.EOS != 0 {
		t.Errorf("%d end-of-sequence labels, %d in parity mode; want 4, 0", right.EOS, parity.EOS)
	}
	var refused *batch.NoEOSError
	if _, err := batch.Tokenize(context.Background(), []string{inner}, tok, batch.Options{}, nil); !errors.As(err, &refused) || refused.EOS != eos {
		t.Errorf("rows without </s>: %v", err)
	}
}
