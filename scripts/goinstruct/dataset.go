package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"

	"github.com/parquet-go/parquet-go"
)

//go:embed README.tmpl
var readmeText string

// writeDataset writes train.parquet, heldout.parquet and README.md.
func writeDataset(dir, root string, rows []row) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var train, held []row
	for _, r := range rows {
		if r.heldOut {
			held = append(held, r)
		} else {
			train = append(train, r)
		}
	}
	for name, part := range map[string][]row{"train.parquet": train, "heldout.parquet": held} {
		if err := parquet.WriteFile(filepath.Join(dir, name), part, parquet.Compression(&parquet.Snappy)); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	licence, err := os.ReadFile(filepath.Join(root, "LICENSE"))
	if err != nil {
		return fmt.Errorf("read Go's licence: %w", err)
	}
	var b strings.Builder
	err = template.Must(template.New("README").Parse(readmeText)).Execute(&b, map[string]any{
		"Train": len(train), "Heldout": len(held), "Example": train[0].Text,
		"Version": runtime.Version(), "Licence": strings.TrimSpace(string(licence)),
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d training and %d held-out rows\n", dir, len(train), len(held))
	return os.WriteFile(filepath.Join(dir, "README.md"), []byte(b.String()), 0o644)
}
