// Command benchgpu measures gotune on one GPU at the size of Llama-2-7B, through the
// packages that `gotune train` and the notebook use, and holds its numbers against
// a float32 reference first.
//
//	scripts/bench_gpu                       everything: builds, checks, measures, prints a table
//	benchgpu all -models DIR                the same from a built binary
//	benchgpu reference|check|load|train|decode|merge …   one stage
//	benchgpu report FILE …                  the table of stages whose output went to files
//
// Every stage is a process of its own, so that one that fails leaves the others
// their results, and its error is printed with the last lines of its log. -only runs those whose
// names begin as one of its words: env, synth, reference, check, load, train, longest, packed,
// decode, merge, floors, "peers hf", "peers liger", "peers unsloth"; scripts/bench_gpu -only train,peers is
// a table with ratios. Models are those of scripts/synth7b.
//
// The floors (matrix products of the 7B shapes, copies) and the peers that are installed are
// measured in the same run by scripts/python/bench_gpu_peers.py, which says what they need. The
// table's ratios are to peers of the same run alone, since the same peer was 5–13 % slower on
// one H200 than on another.
//
// # What is measured
//
//	check     loss and adapter gradients of two layers of 7B shape against float32 on
//	          the CPU: padded rows and packed ones, dropout on. ‖g − ref‖ / ‖ref‖. -fp8
//	          forward or both for a step with products in 8-bit floats
//	load      seconds from a warm page cache to NF4 on the device
//	train     tokens/s of optimizer steps: B rows of S tokens, all supervised, NF4,
//	          LoRA r=64 on q and v, dropout 0.1, AdamW, clipping; median of the steps
//	          after the first, whose seconds (compilation) are reported beside it; -fp8 as for check
//	longest   the longest row that one step fits into a pool of 14.5 GiB (-pool), its layers'
//	          inputs in the host's memory: found by plans, then trained on
//	packed    useful tokens/s (padding not counted) on documents of real lengths (log-normal, mean
//	          350, cut at 1,024): packed rows, which -alone measures alone, and padded batches
//	          of 4, grouped by length and shuffled; GOTUNE_ATTENTION=bias gives packed rows a bias on
//	          every GPU with fused attention. -batches writes the grouped batches to a file:
//	          a peer (--batches) trains on them, each padded to its longest document
//	decode    logits of a token read behind a prompt and with it; tokens/s of greedy streams,
//	          with the adapter and without, picked on the device, on the host, and the time of
//	          each program with calls awaited; batches (-batches) of ragged prompts
//	merge     seconds to write the merged model, beside those of copying its files
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
)

// stages by name.
var stages = map[string]func(ctx context.Context, args []string) error{
	"all": all, "env": environment, "reference": reference, "check": check,
	"load": load, "train": trainSpeed, "decode": decode, "merge": merge, "packed": packedSpeed, "longest": longest, "report": reportFiles,
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("benchgpu: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var names []string
	for n := range stages {
		names = append(names, n)
	}
	slices.Sort(names)
	if len(os.Args) < 2 || stages[os.Args[1]] == nil {
		log.Fatalf("want a stage: one of %s", strings.Join(names, ", "))
	}
	if err := stages[os.Args[1]](ctx, os.Args[2:]); err != nil {
		log.Fatal(fmt.Errorf("%s: %w", os.Args[1], err))
	}
}
