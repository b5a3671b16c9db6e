package token

import (
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune/internal/oracle"
)

// benchText is all texts of the golden data, repeated to about 200 kB, with words
// numbered so that not every word comes from the cache.
func benchText(b *testing.B, dir string) string {
	var cases []hfCase
	oracle.JSON(b, &cases, "tokenizer", dir, "cases_hf.json")
	var t strings.Builder
	for t.Len() < 200_000 {
		for _, c := range cases {
			t.WriteString(c.Text)
			t.WriteByte('\n')
		}
	}
	return t.String()
}

// BenchmarkEncode reports MB/s of text and tokens/s.
func BenchmarkEncode(b *testing.B) {
	for _, dir := range oracleDirs(b) {
		if !has(b, dir, "cases_hf.json") {
			continue
		}
		tok, err := Load(oracle.Dir(b, "tokenizer", dir))
		if err != nil {
			b.Fatal(err)
		}
		text := benchText(b, dir)
		b.Run(dir, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			n := 0
			for b.Loop() {
				n += len(tok.Encode(text, true))
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
		})
		word := strings.Repeat("antidisestablishmentarianism", 10_000/28)
		b.Run(dir+"/word10kB", func(b *testing.B) {
			b.SetBytes(int64(len(word)))
			for b.Loop() {
				tok.Encode(word, false)
			}
		})
		ids := tok.Encode(text, false)
		b.Run(dir+"/decode", func(b *testing.B) {
			for b.Loop() {
				tok.Decode(ids, false)
			}
			b.ReportMetric(float64(b.N*len(ids))/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
