package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// sideFiles names what belongs to a model beside its weights and config.json:
// generation defaults, the tokenizer, the chat template, and the texts that a
// model's licence asks to pass on.
var sideFiles = []string{
	"generation_config.json",
	"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
	"vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
	"LICENSE*", "NOTICE*", "Notice*", "USE_POLICY*",
}

// SideFiles lists the files in dir, by name, that a copy of the model should
// hold beside its weights and config.json.
func SideFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	var list []string
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name())) // follows the links of the Hub's cache
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if slices.ContainsFunc(sideFiles, func(pattern string) bool {
			ok, _ := filepath.Match(pattern, e.Name())
			return ok
		}) {
			list = append(list, e.Name())
		}
	}
	return list, nil
}

// Rewrite returns config.json for a copy of the model with plain weights of the
// given type ("float32", "float16", "bfloat16"): the type's field is changed and
// the quantization is taken out, all else is as it was read.
func (c *Config) Rewrite(dtype string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(c.Raw, &fields); err != nil {
		return nil, fmt.Errorf("model: rewrite config.json: %w", err)
	}
	value, err := json.Marshal(dtype)
	if err != nil {
		return nil, err
	}
	delete(fields, "quantization_config")
	_, old := fields["torch_dtype"]
	_, now := fields["dtype"]
	if old {
		fields["torch_dtype"] = value
	}
	if now || !old {
		fields["dtype"] = value
	}
	return sortedJSON(fields)
}

// sortedJSON writes an object as transformers does: keys sorted, two spaces.
func sortedJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("model: write JSON: %w", err)
	}
	return []byte(strings.TrimRight(b.String(), "\n") + "\n"), nil
}

// dtypeNames pairs config.json's names of types with those of safetensors.
var dtypeNames = map[string]safetensors.DType{
	"float64": safetensors.F64, "float32": safetensors.F32, "float16": safetensors.F16, "bfloat16": safetensors.BF16,
}

// DType translates a type's name in config.json, such as "bfloat16"; ok is false
// for others.
func DType(name string) (dt safetensors.DType, ok bool) {
	dt, ok = dtypeNames[name]
	return dt, ok
}

// DTypeName translates back: "bfloat16" for BF16, empty for types that hold no
// weights.
func DTypeName(dt safetensors.DType) string {
	for name, d := range dtypeNames {
		if d == dt {
			return name
		}
	}
	return ""
}
