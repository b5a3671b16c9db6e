package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gotune/gotune/gotune"
)

// What is in a text column without an end: refused (TestBadInput), but with
// Parity it trains, as the original did, and says what it repeats.
func TestParity(t *testing.T) {
	dir, _ := startEngine(t)
	var rows strings.Builder
	for i := range 8 {
		fmt.Fprintf(&rows, `{"text":"<s>[INST] What is %d? [/INST] A number."}`+"\n", i)
	}
	path := filepath.Join(dir, "noeos.jsonl")
	if err := os.WriteFile(path, []byte(rows.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	run := testRun("parity")
	run.Dataset, run.Parity, run.MaxSteps = gotune.Dataset{Name: "noeos", Source: path}, true, 2
	info, err := run.Train()
	if err != nil || info.State != gotune.RunDone || info.Step != 2 || !(info.Loss > 0) {
		t.Fatalf("parity: %+v, %v", info, err)
	}
	notes := strings.Join(info.Notes, "\n")
	for _, s := range []string{"Parity", "no EOS is learned", "two BOS"} {
		if !strings.Contains(notes, s) {
			t.Errorf("notes %q lack %q", notes, s)
		}
	}
}

func TestPacking(t *testing.T) {
	startEngine(t)
	run := testRun("packed")
	run.Packing, run.MaxSteps, run.MaxSeqLength = true, 3, 128
	info, err := run.Train()
	if err != nil || info.State != gotune.RunDone || info.Step != 3 || !(info.Loss > 0) {
		t.Fatalf("packed: %+v, %v", info, err)
	}
	if notes := strings.Join(info.Notes, "\n"); !strings.Contains(notes, "24 rows packed into") {
		t.Errorf("notes are %q", notes)
	}
	// Packed rows are nearly full: the steps have far more tokens than two rows of the data.
	if got := info.Records[0].Tokens; got < 128 || got > 2*128 {
		t.Errorf("a step of 2 packed rows of up to 128 tokens has %d", got)
	}
}

// Each way of holding the weights loads, says what it is, and trains.
func TestQuantizations(t *testing.T) {
	startEngine(t)
	bytes := map[string]int64{}
	for name, q := range map[string]gotune.Quantization{
		"nf4": {Type: "nf4"}, "fp4": {Type: "fp4"}, "double": {Type: "nf4", DoubleQuant: true}, "none": {Type: "none"},
	} {
		m := testBase
		m.Name, m.Quant = name, q
		info, err := m.Load()
		if err != nil {
			t.Fatal(err)
		}
		bytes[name] = info.DeviceBytes
		held := ""
		for _, ti := range info.Tensors {
			if strings.HasSuffix(ti.Name, "q_proj.weight") {
				held = ti.HeldAs
			}
		}
		if want := q.Type + "/64"; q.Type != "none" && held != want {
			t.Errorf("%s: held as %q, want %q", name, held, want)
		}
		run := testRun("on " + name)
		run.Model, run.MaxSteps = m, 2
		if r, err := run.Train(); err != nil || r.State != gotune.RunDone || r.Step != 2 || !(r.Loss > 0) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if _, err := m.Unload(); err != nil {
			t.Error(err)
		}
	}
	if !(bytes["double"] <= bytes["nf4"]) || bytes["fp4"] != bytes["nf4"] {
		t.Errorf("bytes on the device: %v; want double ≤ nf4 = fp4", bytes)
	}
	t.Log(bytes)
}
