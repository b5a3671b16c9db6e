package engine

import (
	"testing"

	"github.com/gotune/gotune/gotune"
)

// BenchmarkVerbs is what a cell waits for beside its own compilation: each verb
// from the client's call to its reply, over the socket. The models and data sets
// are there already, as they are when cells are run again.
func BenchmarkVerbs(b *testing.B) {
	startEngine(b)
	if _, err := testData.Load(); err != nil {
		b.Fatal(err)
	}
	if _, err := testBase.Load(); err != nil {
		b.Fatal(err)
	}
	verbs := []struct {
		name string
		call func() error
	}{
		{"status", func() error { _, err := gotune.Status(); return err }},
		{"data.load again", func() error { _, err := testData.Load(); return err }},
		{"data.rows", func() error { _, err := testData.Rows(0, 5); return err }},
		{"data.lengths", func() error { _, err := testData.Lengths(testBase); return err }},
		{"model.load again", func() error { _, err := testBase.Load(); return err }},
	}
	for _, v := range verbs {
		b.Run(v.name, func(b *testing.B) {
			for b.Loop() {
				if err := v.call(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkModelLoad is the embedded model from its files to the device, quantized.
func BenchmarkModelLoad(b *testing.B) {
	startEngine(b)
	for b.Loop() {
		if _, err := testBase.Load(); err != nil {
			b.Fatal(err)
		}
		if _, err := testBase.Unload(); err != nil {
			b.Fatal(err)
		}
	}
}
