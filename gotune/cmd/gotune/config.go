package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/gotune/gotune/gotune"
)

// otherNames are the usual names of training arguments (transformers, PEFT,
// bitsandbytes) for the fields that have another one here.
var otherNames = map[string]string{
	"num_train_epochs":            "epochs",
	"per_device_train_batch_size": "batch_size",
	"per_device_eval_batch_size":  "eval_batch_size",
	"gradient_accumulation_steps": "grad_accum",
	"lr_scheduler_type":           "lr_scheduler",
	"logging_steps":               "log_steps",
	"eval_dataset":                "eval",
	"max_length":                  "max_seq_length",
	"r":                           "rank",
	"lora_r":                      "rank",
	"lora_alpha":                  "alpha",
	"lora_dropout":                "dropout",
	"target_modules":              "targets",
	"use_rslora":                  "rslora",
	"use_dora":                    "dora",
	"quantization":                "quant",
	"bnb_4bit_quant_type":         "type",
	"bnb_4bit_compute_dtype":      "compute_dtype",
	"bnb_4bit_use_double_quant":   "double_quant",
	"dataset_text_field":          "text_column",
}

// readConfig reads a run's config from YAML, with settings of the form
// "key=value" on top. An unknown key is an error that names the nearest known
// one. Defaults are not filled in.
func readConfig(path string, settings []string) (gotune.Trainer, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return gotune.Trainer{}, fmt.Errorf("read the config: %w", err)
	}
	t, err := parseConfig(b, settings)
	if err != nil {
		return t, fmt.Errorf("config %s: %w", path, err)
	}
	return t, nil
}

func parseConfig(b []byte, settings []string) (gotune.Trainer, error) {
	var t gotune.Trainer
	doc := map[string]any{}
	if err := yaml.Unmarshal(b, &doc); err != nil {
		return t, fmt.Errorf("not YAML: %s", yaml.FormatError(err, false, true))
	}
	if doc == nil {
		doc = map[string]any{} // an empty file
	}
	for _, s := range settings {
		if err := set(doc, s); err != nil {
			return t, err
		}
	}
	m, err := object("", doc, reflect.TypeFor[gotune.Trainer]())
	if err != nil {
		return t, err
	}
	js, err := json.Marshal(m)
	if err != nil {
		return t, err
	}
	d := json.NewDecoder(bytes.NewReader(js))
	d.DisallowUnknownFields()
	return t, d.Decode(&t)
}

// set puts "a.b=value", its value in YAML, into the document.
func set(doc map[string]any, setting string) error {
	key, text, ok := strings.Cut(setting, "=")
	if !ok || key == "" {
		return fmt.Errorf("--set %s: want key=value, e.g. learning_rate=1e-4 or lora.rank=32", setting)
	}
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		return fmt.Errorf("--set %s: the value is not YAML: %s", setting, yaml.FormatError(err, false, false))
	}
	parts := strings.Split(key, ".")
	for _, p := range parts[:len(parts)-1] {
		p = spelled(doc, p)
		inner, ok := doc[p].(map[string]any)
		if source, is := doc[p].(string); is && slices.Contains([]string{"model", "dataset", "eval"}, canonical(p)) {
			inner, ok = map[string]any{"source": source}, true
		}
		if !ok && doc[p] != nil {
			return fmt.Errorf("--set %s: %s has no keys of its own", setting, p)
		}
		if inner == nil {
			inner = map[string]any{}
		}
		doc[p] = inner
		doc = inner
	}
	doc[spelled(doc, parts[len(parts)-1])] = value
	return nil
}

// spelled is the key as the document has it, in another spelling perhaps.
func spelled(doc map[string]any, key string) string {
	for k := range doc {
		if canonical(k) == canonical(key) {
			return k
		}
	}
	return key
}

func canonical(key string) string {
	if n, ok := otherNames[key]; ok {
		return n
	}
	return key
}

// object turns the keys of a YAML mapping into the field names of a struct.
func object(place string, doc map[string]any, typ reflect.Type) (map[string]any, error) {
	fields := fieldsOf(typ)
	out := map[string]any{}
	from := map[string]string{}
	keys := make([]string, 0, len(doc))
	for k := range doc {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, key := range keys {
		at := strings.TrimPrefix(place+"."+key, ".")
		f, ok := fields[canonical(key)]
		if !ok {
			return nil, unknownKey(at, key, fields)
		}
		if other, twice := from[f.Name]; twice {
			return nil, fmt.Errorf("%s and %s mean the same: give one of them", other, at)
		}
		from[f.Name] = at
		if doc[key] == nil {
			continue // an empty value is the default
		}
		v, err := value(at, doc[key], f.Type)
		if err != nil {
			return nil, err
		}
		out[f.Name] = v
	}
	return out, nil
}

func unknownKey(at, key string, fields map[string]reflect.StructField) error {
	names := make([]string, 0, len(fields)+len(otherNames))
	for n := range fields {
		names = append(names, n)
	}
	slices.Sort(names)
	known := strings.Join(names, ", ")
	for other, n := range otherNames {
		if _, ok := fields[n]; ok {
			names = append(names, other)
		}
	}
	slices.Sort(names)
	if n := gotune.Nearest(key, names); n != "" {
		return fmt.Errorf("%s: no such key; did you mean %q?", at, n)
	}
	return fmt.Errorf("%s: no such key; there are %s", at, known)
}

// value checks that a YAML value fits a field.
func value(at string, v any, typ reflect.Type) (any, error) {
	wrong := func(wanted string) error { return fmt.Errorf("%s: have %v, want %s", at, v, wanted) }
	switch typ.Kind() {
	case reflect.Struct:
		if source, ok := v.(string); ok && hasField(typ, "Source") {
			return map[string]any{"Source": source}, nil
		}
		m, ok := v.(map[string]any)
		if !ok {
			return nil, wrong("keys and values")
		}
		return object(at, m, typ)
	case reflect.String:
		if on, ok := v.(bool); ok && strings.HasSuffix(at, "gradient_checkpointing") {
			return map[bool]string{true: "on", false: "off"}[on], nil // as transformers has it
		}
		if _, ok := v.(string); !ok {
			return nil, wrong("a text (put it in quotes)")
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			return nil, wrong("true or false")
		}
	case reflect.Int, reflect.Int64:
		switch n := v.(type) {
		case int, int64, uint64:
		case float64:
			if n != float64(int64(n)) {
				return nil, wrong("a whole number")
			}
			return int64(n), nil
		default:
			return nil, wrong("a whole number")
		}
	case reflect.Float64:
		switch n := v.(type) {
		case int, int64, uint64, float64:
		case string: // YAML takes 2e-4, without a point, for a text
			f, err := strconv.ParseFloat(n, 64)
			if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
				return nil, wrong("a number")
			}
			return f, nil
		default:
			return nil, wrong("a number")
		}
	case reflect.Slice:
		if one, ok := v.(string); ok {
			return []string{one}, nil
		}
		list, ok := v.([]any)
		if !ok {
			return nil, wrong("a list of texts")
		}
		for _, item := range list {
			if _, ok := item.(string); !ok {
				return nil, wrong("a list of texts")
			}
		}
	}
	return v, nil
}

func hasField(typ reflect.Type, name string) bool { _, ok := typ.FieldByName(name); return ok }

// fieldsOf are a struct's fields by their keys.
func fieldsOf(typ reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for i := range typ.NumField() {
		if f := typ.Field(i); f.IsExported() {
			fields[keyOf(f.Name)] = f
		}
	}
	return fields
}

// keyOf is a field's key: LearningRate becomes learning_rate, LRScheduler
// lr_scheduler. LoRA, DoRA and RSLoRA are one word each.
func keyOf(name string) string {
	switch name {
	case "LoRA", "DoRA", "RSLoRA":
		return strings.ToLower(name)
	case "ComputeDType":
		return "compute_dtype"
	case "NoTensorBoard":
		return "no_tensorboard"
	}
	var b strings.Builder
	r := []rune(name)
	for i, c := range r {
		if i > 0 && unicode.IsUpper(c) && (unicode.IsLower(r[i-1]) || i+1 < len(r) && unicode.IsLower(r[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

// keys lists the keys of a config with their Go types, for the help text.
func keys(typ reflect.Type, indent string) string {
	var b strings.Builder
	for i := range typ.NumField() {
		f := typ.Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Name == "Eval" {
			fmt.Fprintf(&b, "%s%-24s %s%s\n", indent, "eval:", "like dataset", alias("eval"))
			continue
		}
		kind := map[reflect.Kind]string{reflect.String: "text", reflect.Bool: "true/false", reflect.Int: "whole number",
			reflect.Int64: "whole number", reflect.Float64: "number", reflect.Slice: "list of texts"}[f.Type.Kind()]
		if f.Type.Kind() == reflect.Struct {
			fmt.Fprintf(&b, "%s%s:%s\n%s", indent, keyOf(f.Name), strings.Replace(alias(keyOf(f.Name)), ",", " ", 1), keys(f.Type, indent+"  "))
			continue
		}
		fmt.Fprintf(&b, "%s%-24s %s%s\n", indent, keyOf(f.Name)+":", kind, alias(keyOf(f.Name)))
	}
	return b.String()
}

// alias names the usual spelling of a key.
func alias(key string) string {
	var names []string
	for other, n := range otherNames {
		if n == key {
			names = append(names, other)
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		return ""
	}
	return ", also " + strings.Join(names, ", ")
}
