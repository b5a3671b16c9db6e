package token

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// hfCase is what transformers gives for one text.
type hfCase struct {
	Text               string
	IDs                []int32 `json:"ids"`
	NoSpecial          []int32 `json:"ids_no_special"`
	Decoded            string  `json:"decoded"`
	DecodedSkipSpecial string  `json:"decoded_skip_special"`
	DecodedNoSpecial   string  `json:"decoded_no_special"`
}

// spCase is what the sentencepiece library gives for one text.
type spCase struct {
	Text    string
	IDs     []int32  `json:"ids"`
	Pieces  []string `json:"pieces"`
	Decoded string   `json:"decoded"`
}

// oracleDirs returns the tokenizers of the golden data.
func oracleDirs(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(oracle.Dir(t, "tokenizer"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	if len(out) == 0 {
		t.Fatal("the golden data has no tokenizers")
	}
	return out
}

func has(t testing.TB, elem ...string) bool {
	_, err := os.Stat(filepath.Join(oracle.Dir(t, "tokenizer"), filepath.Join(elem...)))
	return err == nil
}

func checkHF(t *testing.T, tok *Tokenizer, cases []hfCase) {
	t.Helper()
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range cases {
		if got := tok.Encode(c.Text, true); !slices.Equal(got, c.IDs) {
			t.Errorf("Encode(%q, true) = %v, want %v", c.Text, got, c.IDs)
		}
		if got := tok.Encode(c.Text, false); !slices.Equal(got, c.NoSpecial) {
			t.Errorf("Encode(%q, false) = %v, want %v", c.Text, got, c.NoSpecial)
		}
		if got := tok.Decode(c.IDs, false); got != c.Decoded {
			t.Errorf("Decode(%q ids) = %q, want %q", c.Text, got, c.Decoded)
		}
		if got := tok.Decode(c.IDs, true); got != c.DecodedSkipSpecial {
			t.Errorf("Decode(%q ids, skip) = %q, want %q", c.Text, got, c.DecodedSkipSpecial)
		}
		if got := tok.Decode(c.NoSpecial, false); got != c.DecodedNoSpecial {
			t.Errorf("Decode(%q ids_no_special) = %q, want %q", c.Text, got, c.DecodedNoSpecial)
		}
	}
}

// Every text of every tokenizer that transformers encoded.
func TestOracleHF(t *testing.T) {
	ran := 0
	for _, dir := range oracleDirs(t) {
		if !has(t, dir, "cases_hf.json") {
			continue
		}
		ran++
		t.Run(dir, func(t *testing.T) {
			var cases []hfCase
			oracle.JSON(t, &cases, "tokenizer", dir, "cases_hf.json")
			tok, err := Load(oracle.Dir(t, "tokenizer", dir))
			if err != nil {
				t.Fatal(err)
			}
			checkHF(t, tok, cases)
			t.Logf("%d texts", len(cases))
		})
	}
	if ran == 0 {
		t.Fatal("the golden data has no cases_hf.json")
	}
}
