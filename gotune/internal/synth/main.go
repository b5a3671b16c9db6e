// Command synth writes a model with random weights of realistic scale: real shapes,
// the real Hugging Face layout (config, generation config, shards with an index,
// a tokenizer that fits), so that loading, quantizing, training, generating and
// merging can be measured at size without a download.
//
//	scripts/synth7b -shape llama2-7b -out out/llama2-7b
//
// # Weights
//
// Projections and embeddings are normal with standard deviation 0.02, the two
// that write to the residual stream (o_proj, down_proj) 0.02/√(2L), as in GPT-2
// (Radford et al., 2019, section 2.3), so that a deep stack neither vanishes nor
// overflows float16; norms are normal around 1 with deviation 0.02. A value is a
// function of (seed, tensor's name, element) alone: folders of the same arguments
// are equal on every machine, and a model of fewer layers has the same first layers
// up to that scale.
//
// Each value takes 16 random bits through a table of 65,536 normal quantiles in
// the stored type, four to a SplitMix64 output (Steele et al., 2014), so that writing is bound
// by memory or disk: the tail ends at 4.2 standard deviations.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("synth: ")
	if err := command(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func command(args []string) error {
	fs := flag.NewFlagSet("synth", flag.ContinueOnError)
	name := fs.String("shape", "llama2-7b", "one of "+strings.Join(shapeNames(), ", "))
	out := fs.String("out", "", "folder to write; it must not hold another model")
	dtype := fs.String("dtype", "", "f16 or bf16; the default is the shape's own")
	layers := fs.Int("layers", 0, "decoder layers; 0 keeps the shape's number")
	shards := fs.Int("shards", 3, "weight files")
	seed := fs.Int64("seed", 1, "of the weights")
	if err := fs.Parse(args); err != nil {
		return err
	}
	s, err := findShape(*name)
	if err != nil {
		return err
	}
	if *out == "" {
		return fmt.Errorf("-out is missing: name the folder to write")
	}
	switch strings.ToLower(*dtype) {
	case "":
	case "f16", "fp16", "float16":
		s.dtype = safetensors.F16
	case "bf16", "bfloat16":
		s.dtype = safetensors.BF16
	default:
		return fmt.Errorf("-dtype %s, want f16 or bf16", *dtype)
	}
	if *layers > 0 {
		s.layers = *layers
	}
	start := time.Now()
	n, err := write(*out, s, options{shards: *shards, seed: *seed})
	if err != nil {
		return err
	}
	d := time.Since(start).Seconds()
	fmt.Printf("%s: %.2f GB in %.1f s (%.2f GB/s)\n", *out, float64(n)/1e9, d, float64(n)/1e9/d)
	return nil
}
