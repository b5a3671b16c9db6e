// Command goinstruct makes the text of gotune's embedded example from the
// documentation that comes with Go: a corpus of English prose about Go to
// pretrain a small model on, and the instruction data set go-instruct to
// fine-tune it with.
//
//	go run ./scripts/goinstruct -corpus out/corpus -dataset notebooks/embedded/go-instruct
//
// It reads GOROOT only (package docs, doc comments, longer comments, the
// specification), so one Go version gives the same bytes on every machine.
// All of that text is under Go's BSD licence, which the data set's README repeats.
//
// # What is where
//
// Every documented name of the public packages appears in the corpus as prose, in
// three renderings: as its source file has it, under its signature as go doc shows it,
// and as an entry of a glossary in mixed order. Names that the data set does not
// ask about appear as exchanges of question and answer too, in several forms of plain
// text. Names that it does ask about, in training or held-out rows, are left out of
// those. (second.jsonl, for the end of pretraining, has exchanges in more forms
// and fewer comments.) So a model pretrained on the corpus knows the facts of both splits, as base
// models do, and has seen neither the data set's questions nor its [INST] form.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("goinstruct: ")
	corpus := flag.String("corpus", "out/corpus", "folder for the pretraining corpus")
	dataset := flag.String("dataset", "out/go-instruct", "folder for the instruction data set")
	train := flag.Int("train", 1000, "training rows")
	heldout := flag.Int("heldout", 100, "held-out rows")
	seed := flag.Uint64("seed", 1, "seed of the choice and order of rows")
	flag.Parse()
	if err := run(*corpus, *dataset, *train, *heldout, *seed); err != nil {
		log.Fatal(err)
	}
}

func run(corpus, dataset string, train, heldout int, seed uint64) error {
	//lint:ignore SA1019 the toolchain that runs this is the one whose text is wanted
	root := runtime.GOROOT()
	if _, err := os.Stat(filepath.Join(root, "src", "fmt")); err != nil {
		return fmt.Errorf("GOROOT %q holds no source (%v): run this with `go run` and a Go that has its src folder", root, err)
	}
	pkgs, err := readPackages(root, func(string) bool { return true })
	if err != nil {
		return err
	}
	rows, err := chooseRows(candidates(pkgs), train, heldout, seed)
	if err != nil {
		return err
	}
	if err := writeDataset(dataset, root, rows); err != nil {
		return err
	}
	asked := map[string]bool{}
	for _, r := range rows {
		asked[r.Package+" "+r.Symbol] = true
	}
	docs, err := makeCorpus(root, pkgs, asked, seed)
	if err != nil {
		return err
	}
	return writeCorpus(corpus, docs, secondStage(docs, pkgs, asked, seed))
}
