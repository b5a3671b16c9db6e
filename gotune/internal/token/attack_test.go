package token

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// tiny is a tokenizer.json of four tokens with one part replaced.
func tiny(replace ...string) string {
	return strings.NewReplacer(replace...).Replace(`{"added_tokens": [{"id": 3, "content": "</s>", "special": true}],
"normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
"model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}`)
}

func TestTinyJSON(t *testing.T) {
	tok, err := ReadJSON([]byte(tiny()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("abba</s>", true); !slices.Equal(got, []int32{2, 1, 0, 3}) {
		t.Errorf("Encode = %v", got)
	}
	if got := tok.Decode([]int32{2, 3, 99, -1, 1}, true); got != "abb" {
		t.Errorf("Decode = %q", got)
	}
}

// Broken and hostile tokenizer.json files: each is refused with an error that says
// where.
func TestJSONAttacks(t *testing.T) {
	null := func(key, value string) string {
		return tiny(fmt.Sprintf("%q: null", key), fmt.Sprintf("%q: %s", key, value))
	}
	deep := strings.Repeat(`{"type": "Sequence", "normalizers": [`, 500) + strings.Repeat(`]}`, 500)
	for name, c := range map[string]struct{ text, want string }{
		"empty":            {"", "not a tokenizer"},
		"cut":              {tiny()[:120], "not a tokenizer"},
		"other json":       {`{"architectures": ["LlamaForCausalLM"]}`, `"model" is missing`},
		"array":            {`[]`, "not a tokenizer"},
		"unigram":          {tiny(`"BPE"`, `"Unigram"`, `{"a": 0, "b": 1, "ab": 2}`, `[["a", 0.5]]`), "only BPE"},
		"vocab list":       {tiny(`{"a": 0, "b": 1, "ab": 2}`, `["a"]`), "vocab"},
		"no vocab":         {tiny(`"vocab": {"a": 0, "b": 1, "ab": 2}, `, ""), "vocab"},
		"negative id":      {tiny(`"a": 0`, `"a": -1`), "id -1"},
		"huge id":          {tiny(`"a": 0`, `"a": 2000000000`), "id 2000000000"},
		"id not whole":     {tiny(`"a": 0`, `"a": 0.5`), "vocab"},
		"one id twice":     {tiny(`"a": 0`, `"a": 1`), "two tokens"},
		"added id twice":   {tiny(`"id": 3`, `"id": 2`), "two tokens"},
		"added huge id":    {tiny(`"id": 3`, `"id": 1000000000`), "id 1000000000"},
		"merge unknown":    {tiny(`["a b"]`, `["a c"]`), `"c" is not in the vocabulary`},
		"merge result":     {tiny(`["a b"]`, `["b a"]`), `"ba" is not in the vocabulary`},
		"merge of three":   {tiny(`["a b"]`, `["a b a"]`), "merge"},
		"merge of one":     {tiny(`["a b"]`, `[["a"]]`), "merge"},
		"merge number":     {tiny(`["a b"]`, `[7]`), "merge"},
		"unk unknown":      {tiny(`"unk_token": null`, `"unk_token": "u"`), "unk_token"},
		"dropout":          {tiny(`"unk_token": null`, `"dropout": 0.1`), "dropout"},
		"normalizer":       {null("normalizer", `{"type": "BertNormalizer"}`), "normalizer: type \"BertNormalizer\""},
		"deep normalizer":  {null("normalizer", deep), "nested"},
		"bad regex":        {null("normalizer", `{"type": "Replace", "pattern": {"Regex": "("}, "content": ""}`), "regular expression"},
		"long regex":       {null("normalizer", `{"type": "Replace", "pattern": {"Regex": "`+strings.Repeat("a", 20000)+`"}, "content": ""}`), "regular expression of"},
		"empty pattern":    {null("normalizer", `{"type": "Replace", "pattern": {"String": ""}, "content": "x"}`), "empty"},
		"no pattern":       {null("normalizer", `{"type": "Replace", "content": "x"}`), "pattern"},
		"pre-tokenizer":    {null("pre_tokenizer", `{"type": "Whitespace"}`), "pre_tokenizer: type"},
		"behavior":         {null("pre_tokenizer", `{"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd"}`), "behavior"},
		"metaspace":        {null("pre_tokenizer", `{"type": "Metaspace", "replacement": "", "prepend_scheme": "first"}`), "one character"},
		"scheme":           {null("pre_tokenizer", `{"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"}`), "prepend_scheme"},
		"after ByteLevel":  {null("pre_tokenizer", `{"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]}`), "last step"},
		"decoder":          {tiny(`{"type": "Fuse"}`, `{"type": "CTC"}`), "decoder: type"},
		"strip":            {tiny(`{"type": "Fuse"}`, `{"type": "Strip", "content": "", "start": 1, "stop": 0}`), "Strip"},
		"strip negative":   {tiny(`{"type": "Fuse"}`, `{"type": "Strip", "content": "a", "start": -1, "stop": 0}`), "Strip"},
		"post-processor":   {null("post_processor", `{"type": "BertProcessing"}`), "post_processor: type"},
		"template token":   {null("post_processor", `{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], "special_tokens": {}}`), "special_tokens"},
		"template id":      {null("post_processor", `{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a"}}, {"Sequence": {"id": "A"}}], "special_tokens": {"a": {"ids": [77]}}}`), "id 77"},
		"template no text": {null("post_processor", `{"type": "TemplateProcessing", "single": [], "special_tokens": {}}`), "sequence A"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadJSON([]byte(c.text), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// message encodes protobuf fields: an even number of number, value.
func message(fields ...any) []byte {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		n := uint64(fields[i].(int))
		switch v := fields[i+1].(type) {
		case int:
			b = binary.AppendUvarint(binary.AppendUvarint(b, n<<3), uint64(v))
		case uint32:
			b = binary.LittleEndian.AppendUint32(binary.AppendUvarint(b, n<<3|5), v)
		case string:
			b = append(binary.AppendUvarint(binary.AppendUvarint(b, n<<3|2), uint64(len(v))), v...)
		case []byte:
			b = append(binary.AppendUvarint(binary.AppendUvarint(b, n<<3|2), uint64(len(v))), v...)
		}
	}
	return b
}

func pieceMessage(text string, kind int) []byte { return message(1, text, 2, uint32(0), 3, kind) }

// Broken and hostile tokenizer.model files.
func TestModelAttacks(t *testing.T) {
	bpeType := message(3, modelBPE)
	plain := message(4, 0)
	unk := pieceMessage("<unk>", pieceUnknown)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":           {nil, "no pieces"},
		"text":            {[]byte("version https://git-lfs.github.com/spec/v1\n"), "not a sentencepiece model"},
		"cut":             {message(1, unk)[:5], "cut short"},
		"long field":      {[]byte{0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, "cut short"},
		"field zero":      {[]byte{0x02, 0x00}, "no protobuf field"},
		"group":           {[]byte{0x0B}, "wire type"},
		"piece as number": {message(1, 5), "wire type 0"},
		"empty piece":     {message(1, pieceMessage("", 1)), "no text"},
		"NaN score":       {message(1, message(1, "a", 2, uint32(0x7FC00000))), "not a number"},
		"no unk":          {message(1, pieceMessage("a", 1), 2, bpeType, 3, plain), "no unknown piece"},
		"twice":           {message(1, unk, 1, pieceMessage("a", 1), 1, pieceMessage("a", 1), 2, bpeType, 3, plain), "two ids"},
		"unigram":         {message(1, unk, 2, message(3, modelUnigram)), "unigram"},
		"no type":         {message(1, unk), "unigram"},
		"char map":        {message(1, unk, 2, bpeType, 3, message(2, "xxxx", 4, 0)), "precompiled_charsmap"},
		"extra space":     {message(1, unk, 2, bpeType), "remove_extra_whitespaces"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadModel(c.data, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// Pieces of type UNUSED are taken apart again, and a piece's character that is no
// piece of its own can still be merged, as in sentencepiece.
func TestSentencePieceOddPieces(t *testing.T) {
	data := message(1, pieceMessage("<unk>", pieceUnknown), 1, pieceMessage("a", 1), 1, pieceMessage("b", 1),
		1, pieceMessage("ab", pieceUnused), 1, pieceMessage("xy", 1), 1, pieceMessage("<u>", pieceUserDefined),
		2, message(3, modelBPE), 3, message(3, 0, 4, 0))
	tok, err := ReadSentencePiece(data)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]int32{
		"ab": {1, 2}, "xy": {4}, "x": {0}, "xx": {0}, "a<u>b": {1, 5, 2}, "<unk>": {0}, "xya": {4, 1},
	} {
		if got := tok.Encode(text, true); !slices.Equal(got, want) {
			t.Errorf("Encode(%q) = %v, want %v", text, got, want)
		}
	}
	// A dummy prefix goes in front of the text, not of the symbol.
	data = message(1, pieceMessage("<unk>", pieceUnknown), 1, pieceMessage("a", 1), 1, pieceMessage("▁", 1), 1, pieceMessage("<u>", pieceUserDefined),
		2, message(3, modelBPE), 3, message(4, 0))
	if tok, err = ReadSentencePiece(data); err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("a<u>", true); !slices.Equal(got, []int32{2, 1, 3}) {
		t.Errorf("Encode = %v", got)
	}
	if got := tok.Decode([]int32{1, 3}, false); got != "a<u>" {
		t.Errorf("Decode = %q, want %q", got, "a<u>")
	}
}

func TestConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "not a tokenizer configuration",
		`{"bos_token": 3}`:     "a token must be",
		`{"chat_template": 3}`: "chat_template must be",
		`{"added_tokens_decoder": {"x": {"content": "a"}}}`:           `"x" is not a token id`,
		`{"added_tokens_decoder": {"99999999999": {"content": "a"}}}`: "is not a token id",
	} {
		if _, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
	c, err := ParseConfig([]byte(`{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null, "model_max_length": 1e30,
		"add_bos_token": true, "added_tokens_decoder": {"7": {"content": "x", "special": true}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.BOS != "<s>" || c.EOS != "</s>" || c.Pad != "" || c.MaxLength != 0 || !*c.AddBOS || c.Added[0].ID != 7 {
		t.Errorf("got %+v", c)
	}
}

func TestLoadErrors(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"nothing":   {nil, "found neither tokenizer.json nor tokenizer.model"},
		"broken":    {map[string]string{"tokenizer.json": "{"}, "tokenizer.json: not a tokenizer"},
		"config":    {map[string]string{"tokenizer.json": tiny(), "tokenizer_config.json": "["}, "tokenizer_config.json"},
		"lfs stub":  {map[string]string{"tokenizer.model": "version https://git-lfs.github.com/spec/v1\n"}, "download it again"},
		"added ids": {map[string]string{"tokenizer.model": "x", "added_tokens.json": `{"a": -4}`}, "id -4"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for n, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, n), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	tok, err := ReadJSON([]byte(tiny()), &Config{EOS: "</s>", Pad: "<pad>"})
	if err != nil {
		t.Fatal(err)
	}
	pad, ok := tok.Pad()
	if !ok || pad != 4 || tok.VocabSize() != 5 || !tok.IsSpecial(pad) {
		t.Fatalf("a pad token that the file lacks: id %d, %v, size %d; want 4, true, 5", pad, ok, tok.VocabSize())
	}
	for size, want := range map[int]string{4: `"<pad>"`, 5: "", 64: "", 32000: "more than padding explains"} {
		err := tok.Check(size)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Check(%d) = %v, want one with %q", size, err, want)
		}
	}
}

// A word of 200 kB takes a moment, not minutes: merging is not quadratic.
func TestLongWord(t *testing.T) {
	for _, dir := range oracleDirs(t) {
		if !has(t, dir, "tokenizer.json") {
			continue
		}
		tok, err := Load(oracle.Dir(t, "tokenizer", dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"a", "the", "antidisestablishmentarianism"} {
			text := strings.Repeat(word, 200_000/len(word))
			start := time.Now()
			ids := tok.Encode(text, false)
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("%s: %d bytes of %q took %v", dir, len(text), word, d)
			}
			if got := tok.Decode(ids, false); got != text {
				t.Errorf("%s: %q does not come back", dir, word)
			}
		}
	}
}

// Many goroutines on one tokenizer give what one gives.
func TestConcurrent(t *testing.T) {
	for _, dir := range oracleDirs(t) {
		if !has(t, dir, "cases_hf.json") {
			continue
		}
		var cases []hfCase
		oracle.JSON(t, &cases, "tokenizer", dir, "cases_hf.json")
		tok, err := Load(oracle.Dir(t, "tokenizer", dir))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range cases {
					c := cases[(i+g*17)%len(cases)]
					if !slices.Equal(tok.Encode(c.Text, true), c.IDs) || tok.Decode(c.IDs, false) != c.Decoded {
						t.Errorf("%s: %q differs", dir, c.Text)
					}
				}
			})
		}
		wg.Wait()
	}
}

// use encodes and decodes a little, to find tokenizers that load but break.
func use(t *testing.T, tok *Tokenizer) {
	ids := tok.Encode("ab <s>é\xff a", true)
	for _, id := range ids {
		if tok.Token(id) == "" {
			t.Errorf("id %d of the encoding has no token", id)
		}
	}
	s, joined := tok.Stream(true), ""
	for _, id := range ids {
		joined += s.Add(id)
	}
	if joined += s.Flush(); joined != tok.Decode(ids, true) {
		t.Errorf("stream %q, Decode %q", joined, tok.Decode(ids, true))
	}
}

func FuzzReadJSON(f *testing.F) {
	f.Add([]byte(tiny()))
	f.Add([]byte(tiny(`"normalizer": null`, `"normalizer": {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}`)))
	f.Add([]byte(tiny(`"pre_tokenizer": null`, `"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "split": true}`)))
	f.Add([]byte(tiny(`{"type": "Fuse"}`, `{"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "ByteLevel"}]}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tok, err := ReadJSON(data, nil); err == nil {
			use(t, tok)
		}
	})
}

func FuzzReadModel(f *testing.F) {
	f.Add(message(1, pieceMessage("<unk>", pieceUnknown), 1, pieceMessage("a", 1), 1, pieceMessage("ab", pieceUnused), 1, pieceMessage("<0x41>", pieceByte),
		1, pieceMessage("<u>", pieceUserDefined), 2, message(3, modelBPE), 3, message(4, 0)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tok, err := ReadModel(data, nil); err == nil {
			use(t, tok)
		}
		if tok, err := ReadSentencePiece(data); err == nil {
			use(t, tok)
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": [{"name": "default", "template": "x"}], "added_tokens_decoder": {"7": {"content": "x"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			return
		}
		if tok, err := ReadJSON([]byte(tiny()), c); err == nil {
			use(t, tok)
		}
	})
}

func ExampleTokenizer_Encode() {
	tok, err := ReadJSON([]byte(tiny()), &Config{EOS: "</s>"})
	if err != nil {
		panic(err)
	}
	fmt.Println(tok.Encode("abba</s>", true))
	// Output: [2 1 0 3]
}

func ExampleTokenizer_Stream() {
	tok, err := ReadJSON([]byte(tiny()), nil)
	if err != nil {
		panic(err)
	}
	s := tok.Stream(true)
	for _, id := range []int32{2, 1, 0, 3} {
		fmt.Printf("%q ", s.Add(id))
	}
	fmt.Printf("%q\n", s.Flush())
	// Output: "ab" "b" "a" "" ""
}
