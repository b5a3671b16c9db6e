package dataset_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gotune/gotune/gotune/internal/dataset"
)

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	rows := `{"text": "<s>[INST] Hi [/INST] Hello </s>", "id": 1}
{"text": "<s>[INST] Bye [/INST] So long </s>", "id": 2}
`
	if err := os.WriteFile(filepath.Join(dir, "train.jsonl"), []byte(rows), 0o600); err != nil {
		panic(err)
	}
	d, err := dataset.Open(context.Background(), dataset.Spec{Source: dir, Split: "train[-1:]"}, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(d.Len(), d.Columns())
	fmt.Println(d.Text(0))
	fmt.Println(d.Row(0))
	// Output:
	// 1 [text id]
	// <s>[INST] Bye [/INST] So long </s>
	// {"text":"<s>[INST] Bye [/INST] So long </s>","id":2}
}
