package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recorded are lines of a run on one H200, shortened, with what a run prints between them.
const recorded = `record {"stage":"train","case":"loaded","text":"bfloat16","value":{"GiB":4.009765625,"s":2.749532941}}
record {"stage":"train","case":"bfloat16 auto resident B=4 S=512","text":"attention fused","value":{"GiB":32.1015625,"peak GiB":22.331591367721558,"tok/s":21177.58}}
record {"stage":"train","case":"bfloat16 auto resident B=4 S=1024","text":"attention fused","value":{"GiB":32.1015625,"peak GiB":28.375540733337402,"tok/s":21314.78}}
record {"stage":"train","case":"float16 auto plain attention in 14.5 GiB B=4 S=1024","value":{"GiB":14.603515625,"peak GiB":13.166178703308105,"tok/s":13499.895}}
record {"stage":"train","case":"bfloat16 offload keep attention in 14.5 GiB B=4 S=512","value":{"GiB":14.607421875,"peak GiB":4.59,"tok/s":14444.3}}
record {"stage":"train","case":"bfloat16 offload keep attention in 14.5 GiB B=4 S=2048","value":{"GiB":14.62109375,"peak GiB":5.75,"tok/s":15178.19}}
record {"stage":"train","case":"bfloat16 auto resident B=4 S=1024","value":{"GiB":32.099609375,"peak GiB":28.204593420028687,"tok/s":21261.31}}
   \\   /|    NVIDIA H200. Num GPUs = 1. Max memory: 139.801 GB. Platform: Linux.
record {"stage": "peers", "case": "Unsloth B=4 S=512", "text": "", "value": {"tok/s": 14945.774024375412, "step ms": 137.02870100001974, "GiB": 11.622119426727295}}
record {"stage": "peers", "case": "Unsloth B=4 S=1024", "text": "", "value": {"tok/s": 17784.841038203875, "step ms": 230.30849649998686, "GiB": 18.412240505218506}}
record {"stage": "peers", "case": "Unsloth, offloaded checkpointing B=4 S=512", "text": "", "value": {"tok/s": 9724.947223582867, "step ms": 210.5924024999979, "GiB": 4.617565155029297}}
record {"stage": "peers", "case": "Unsloth, offloaded checkpointing B=4 S=2048", "text": "", "value": {"tok/s": 12256.769995187802, "step ms": 668.3653199999924, "GiB": 5.687725067138672}}
record {"stage": "floor", "case": "GEMMs of a step, sustained, 4096 tokens", "text": "650 W", "value": {"tok/s": 25000.4, "ms": 163.8}}
record {"stage": "peers", "case": "HF + PEFT + bitsandbytes NF4", "text": "failed: no memory", "value": {}}
`

// recordedPacked and recordedPadded are packed rows and the peer's padded batches of one run,
// each once too often; the speeds are made up.
const (
	recordedPacked = `record {"stage":"packed","case":"packed","value":{"useful tok/s":15000}}
record {"stage":"packed","case":"packed","value":{"useful tok/s":21000}}
record {"stage":"packed","case":"padded, grouped by length","value":{"useful tok/s":16000}}
record {"stage":"packed","case":"ratio","text":"useful tokens/s of packed rows","value":{"over padded, grouped by length":1.3125}}
`
	recordedPadded = `record {"stage": "peers", "case": "Unsloth, padded batches grouped by length", "text": "50 batches", "value": {"useful tok/s": 14000.0, "GiB": 18.0}}
record {"stage": "peers", "case": "Unsloth, padded batches grouped by length", "text": "failed: no memory", "value": {}}
`
)

// Each of gotune's rows has its ratio to the peer of the same run below it: a row that
// keeps inputs in the host's memory to the peer that does, with the peaks compared, and a
// row in a bounded pool, which no peer had, none. Copied figures are for peers without any.
func TestReportTable(t *testing.T) {
	const want = `
tok/s (GiB), B=4                                        | S=512            | S=1024           | S=2048
gotune bfloat16 auto resident                           | 21178 (22.33)    | 21315 (28.38)    |
  / Unsloth, same run                                   | 1.42×            | 1.20×            |
gotune float16 auto plain attention in 14.5 GiB         |                  | 13500 (13.17)    |
gotune bfloat16 offload keep attention in 14.5 GiB      | 14444 (4.59)     |                  | 15178 (5.75)
  / Unsloth, offloaded checkpointing, same run          | 1.49× (≤ 4.62)   |                  | 1.24× (> 5.69)
gotune bfloat16 auto resident*                          |                  | 21261 (28.20)    |
  / Unsloth, same run                                   |                  | 1.20×            |
Unsloth                                                 | 14946 (11.62)    | 17785 (18.41)    |
Unsloth, offloaded checkpointing                        | 9725 (4.62)      |                  | 12257 (5.69)
GEMMs of a step, sustained                              |                  | 25000            |
HF + PEFT + bitsandbytes NF4 (elsewhere)                | 11328 (14.8)     | 13620 (25.2)     | 14255 (46.0)
HF + PEFT + bitsandbytes NF4, checkpointing (elsewhere) | 4674 (5.7)       | 9676 (7.1)       | 10401 (9.9)
HF + PEFT + bitsandbytes NF4 + Liger (elsewhere)        | 8923 (11.8)      | 17549 (19.0)     | 15767 (33.5)

N× is tokens/s by the peer's of this run; (≤ GiB): at a peak of at most the peer's, which is given; (> GiB): at more.
(elsewhere): on another machine, not in this run. gotune trains with dropout 0.1, Unsloth without. *: the same case again.

train    loaded                   GiB 4.01, s 2.75 bfloat16
floor    GEMMs of a step, sustained, 4096 tokens ms 163.8, tok/s 25000 650 W
peers    HF + PEFT + bitsandbytes NF4  failed: no memory
`
	var sb strings.Builder
	report(&sb, parseRecords(recorded))
	if got := sb.String(); got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}

// Stages that were run one by one have their table from their output's files.
func TestReportFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "train.log")
	if err := os.WriteFile(file, []byte(recorded), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reportFiles(t.Context(), []string{file}); err != nil {
		t.Error(err)
	}
	for _, args := range [][]string{nil, {file + ".missing"}} {
		if err := reportFiles(t.Context(), args); err == nil {
			t.Errorf("%v gave no error", args)
		}
	}
}

// Packed rows have their ratio to the peer's padded batches where both were measured, below a
// table that these records leave as it is.
func TestReportPacked(t *testing.T) {
	printed := func(s string) string {
		var sb strings.Builder
		report(&sb, parseRecords(s))
		return sb.String()
	}
	plain, both := printed(recorded), printed(recorded+recordedPacked+recordedPadded)
	rest, ok := strings.CutPrefix(both, plain)
	const line = "\npacked over Unsloth's padded batches, same run: 1.50×\n"
	if !ok || !strings.HasSuffix(rest, "useful tok/s 14000 50 batches\npeers    Unsloth, padded batches grouped by length  failed: no memory\n"+line) {
		t.Errorf("the report is\n%s\nwant the table as without the packed rows, then their lines and %q", both, line)
	}
	for _, half := range []string{recordedPacked, recordedPadded} {
		if got := printed(recorded + half); strings.Contains(got, "packed over") {
			t.Errorf("a ratio of one half:\n%s", got)
		}
	}
}
