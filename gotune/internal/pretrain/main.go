// Command pretrain makes gotune's embedded model gopher-5m: a Llama decoder of
// 5 million parameters, trained from random weights on the English prose that
// comes with Go.
//
//	go run ./scripts/goinstruct -corpus out/corpus -dataset notebooks/embedded/go-instruct
//	python scripts/tokenizer_train.py out/corpus/train.jsonl notebooks/embedded/gopher-5m
//	go run ./gotune/internal/pretrain prepare -corpus out/corpus -tokenizer notebooks/embedded/gopher-5m -data out/pretrain
//	go run ./gotune/internal/pretrain train -data out/pretrain -tokenizer notebooks/embedded/gopher-5m -out out/stage1
//	go run ./gotune/internal/pretrain train -documents second -from out/stage1 … -out notebooks/embedded/gopher-5m
//
// scripts/pretrain runs all of that with the settings the embedded model has.
// prepare turns the corpus into token files; train runs on the backend that
// -backend names, a GPU for the real run (minutes) or the CPU to try it with
// few -steps. It is gotune's own code throughout: the reference graph of package
// layerwise, differentiated, with AdamW (Loshchilov and Hutter, arXiv:1711.05101), a
// cosine schedule with warm-up, and dropout on the residual branches.
//
// Runs are reproducible up to the order of sums on the device: data order and dropout
// follow from -seed and the step alone, so a resumed run continues the same run.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("pretrain: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

// settings are the run's parameters, as flags set them.
type settings struct {
	corpus, data, tokenizer, out, state, backend string
	documents, from                              string
	rows, length, steps, warmup                  int
	every                                        int
	rate, floor, decay, beta2, clip, dropout     float64
	seed                                         int64
	shape                                        shape
}

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say what to do: pretrain prepare | train (-h lists the flags)")
	}
	var s settings
	fs := flag.NewFlagSet("pretrain "+args[0], flag.ExitOnError)
	fs.StringVar(&s.data, "data", "out/pretrain", "folder of the token files")
	fs.StringVar(&s.tokenizer, "tokenizer", "notebooks/embedded/gopher-5m", "folder of the tokenizer")
	switch args[0] {
	case "prepare":
		fs.StringVar(&s.corpus, "corpus", "out/corpus", "folder of goinstruct's train.jsonl and heldout.jsonl")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return prepare(s.corpus, s.tokenizer, s.data)
	case "train":
		s.trainFlags(fs)
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		return train(ctx, s)
	}
	return fmt.Errorf("unknown command %q: want prepare or train", args[0])
}

func (s *settings) trainFlags(fs *flag.FlagSet) {
	fs.StringVar(&s.out, "out", "out/gopher-5m", "folder for the model")
	fs.StringVar(&s.state, "state", "", "file for the whole training state at every -every steps; if it exists, the run continues from it")
	fs.StringVar(&s.documents, "documents", "train", "token file to train on: train, or second for the second stage")
	fs.StringVar(&s.from, "from", "", "folder of a model whose weights to start from; empty for random weights")
	fs.StringVar(&s.backend, "backend", "auto", "xla:cuda, xla:cpu, go or auto")
	fs.IntVar(&s.rows, "rows", 64, "rows a step")
	fs.IntVar(&s.length, "length", 512, "tokens a row")
	fs.IntVar(&s.steps, "steps", 5000, "steps")
	fs.IntVar(&s.warmup, "warmup", 200, "steps in which the rate rises from 0")
	fs.IntVar(&s.every, "every", 500, "steps between evaluations, samples and saved states; 0 for none")
	fs.Float64Var(&s.rate, "rate", 3e-3, "peak learning rate")
	fs.Float64Var(&s.floor, "floor", 0.03, "last learning rate, as a share of the peak")
	fs.Float64Var(&s.decay, "decay", 0.1, "weight decay of matrices")
	fs.Float64Var(&s.beta2, "beta2", 0.98, "decay of AdamW's second moment")
	fs.Float64Var(&s.clip, "clip", 1, "largest global gradient norm")
	fs.Float64Var(&s.dropout, "dropout", 0.1, "share of residual-branch outputs set to zero")
	fs.Int64Var(&s.seed, "seed", 1, "seed of weights, data order and dropout")
	fs.IntVar(&s.shape.hidden, "hidden", 256, "hidden size")
	fs.IntVar(&s.shape.inner, "inner", 688, "MLP size")
	fs.IntVar(&s.shape.layers, "layers", 5, "layers")
	fs.IntVar(&s.shape.heads, "heads", 8, "attention heads")
	fs.IntVar(&s.shape.positions, "positions", 1024, "longest sequence, as config.json states it")
}
