package engine

import (
	"testing"

	"github.com/gotune/gotune/gotune"
)

// A run on GoMLX's Go backend, which needs no plugin, trains and speaks; its rows are long
// enough for products that are spread over all cores.
func TestGoDevice(t *testing.T) {
	startEngine(t)
	run := testRun("go")
	run.Model = gotune.Model{Name: "gobase", Source: "embedded", Device: "go"}
	run.BatchSize, run.MaxSteps, run.MaxSeqLength = 4, 2, 128
	r, err := run.Train()
	if err != nil || r.State != gotune.RunDone || !(r.Loss > 0) {
		t.Fatalf("train: %+v, %v", r, err)
	}
	g, err := run.Generate("What is a slice?", gotune.Sampling{MaxNewTokens: 4})
	if err != nil || g.Tokens == 0 {
		t.Errorf("generate: %+v, %v", g, err)
	}
}
