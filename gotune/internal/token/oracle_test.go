package token

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unicode/utf8"

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

// checkSP holds a tokenizer against the sentencepiece library.
func checkSP(t *testing.T, model []byte, dir string) {
	t.Helper()
	var cases []spCase
	oracle.JSON(t, &cases, "tokenizer", dir, "cases_sentencepiece.json")
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	tok, err := ReadSentencePiece(model)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		got := tok.Encode(c.Text, true)
		if !slices.Equal(got, c.IDs) {
			t.Errorf("Encode(%q) = %v, want %v", c.Text, got, c.IDs)
		}
		for i, id := range c.IDs {
			if p := tok.Token(id); p != c.Pieces[i] && id != tok.unk {
				t.Errorf("Token(%d) = %q, want %q", id, p, c.Pieces[i])
			}
		}
		if got := tok.Decode(c.IDs, false); got != c.Decoded {
			t.Errorf("Decode(%q ids) = %q, want %q", c.Text, got, c.Decoded)
		}
	}
	t.Logf("%d texts", len(cases))
}

// Every text that the sentencepiece library encoded, by each tokenizer.model that
// the golden data holds.
func TestOracleSentencePiece(t *testing.T) {
	ran := 0
	for _, dir := range oracleDirs(t) {
		if !has(t, dir, "cases_sentencepiece.json") || !has(t, dir, "tokenizer.model") {
			continue
		}
		ran++
		t.Run(dir, func(t *testing.T) {
			model, err := os.ReadFile(oracle.Dir(t, "tokenizer", dir, "tokenizer.model"))
			if err != nil {
				t.Fatal(err)
			}
			checkSP(t, model, dir)
		})
	}
	if ran == 0 {
		t.Fatal("the golden data has no tokenizer.model with cases_sentencepiece.json")
	}
}

// A folder with tokenizer.model and without tokenizer.json gives what transformers
// gives for both.
func TestOracleModelAlone(t *testing.T) {
	ran := 0
	for _, dir := range oracleDirs(t) {
		if !has(t, dir, "cases_hf.json") || !has(t, dir, "tokenizer.model") {
			continue
		}
		ran++
		t.Run(dir, func(t *testing.T) {
			alone := t.TempDir()
			for _, name := range []string{"tokenizer.model", "tokenizer_config.json"} {
				b, err := os.ReadFile(oracle.Dir(t, "tokenizer", dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(alone, name), b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			tok, err := Load(alone)
			if err != nil {
				t.Fatal(err)
			}
			var cases []hfCase
			oracle.JSON(t, &cases, "tokenizer", dir, "cases_hf.json")
			checkHF(t, tok, cases)
		})
	}
	if ran == 0 {
		t.Fatal("the golden data has no tokenizer.model with cases_hf.json")
	}
}

// mistralEnv names the file of the 32k model that the PyPI package mistral-common
// ships; the golden data holds its encodings but not the model itself.
const mistralEnv = "GOTUNE_MISTRAL_MODEL"

// mistralModel finds that model: where GOTUNE_MISTRAL_MODEL says, else in the
// Python environment that scripts/setup --tests makes. "none" skips the test by request; a file that is
// missing or another fails it.
func mistralModel(t *testing.T, path, sum string) []byte {
	t.Helper()
	file := os.Getenv(mistralEnv)
	if file == "none" {
		t.Skipf("%s=none: this test says nothing about the Mistral 32k model", mistralEnv)
	}
	if file == "" {
		found, _ := filepath.Glob(filepath.Join(oracle.Venv(t), "lib", "python3*", "site-packages", filepath.FromSlash(path)))
		if len(found) == 0 {
			t.Fatalf("the Mistral 32k model is not installed: pip install mistral-common in %s, or set %s to its %s (none: go without)",
				oracle.Venv(t), mistralEnv, path)
		}
		file = found[0]
	}
	model, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%s: %v", mistralEnv, err)
	}
	if got := sha256.Sum256(model); hex.EncodeToString(got[:]) != sum {
		t.Fatalf("%s is not the model that the golden data was made with: sha256 %x, want %s", file, got, sum)
	}
	return model
}

func TestOracleMistral32k(t *testing.T) {
	var index struct {
		Mistral *struct{ Path, SHA256 string } `json:"mistral32k"`
	}
	oracle.JSON(t, &index, "tokenizer", "index.json")
	if index.Mistral == nil {
		t.Fatal("index.json of the golden data does not name the Mistral 32k model")
	}
	checkSP(t, mistralModel(t, index.Mistral.Path, index.Mistral.SHA256), "mistral32k")
}

// A stream gives what Decode gives, for every id list of the golden data and for
// lists that cut characters.
func TestOracleStream(t *testing.T) {
	for _, dir := range oracleDirs(t) {
		if !has(t, dir, "cases_hf.json") {
			continue
		}
		tok, err := Load(oracle.Dir(t, "tokenizer", dir))
		if err != nil {
			t.Fatal(err)
		}
		var cases []hfCase
		oracle.JSON(t, &cases, "tokenizer", dir, "cases_hf.json")
		for _, skip := range []bool{false, true} {
			s := tok.Stream(skip)
			for _, c := range cases {
				for cut := range c.IDs {
					var got string
					for _, id := range c.IDs[cut:] {
						piece := s.Add(id)
						if !utf8.ValidString(piece) {
							t.Fatalf("%s: a piece of %q is not UTF-8: %q", dir, c.Text, piece)
						}
						got += piece
					}
					got += s.Flush()
					if want := tok.Decode(c.IDs[cut:], skip); got != want {
						t.Fatalf("%s: stream of %q from %d = %q, want %q", dir, c.Text, cut, got, want)
					}
				}
			}
		}
	}
}
