package lora

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/gotune/gotune/gotune/internal/model"
)

// Config is what adapter_config.json says. Fields of PEFT that gotune has no use
// for are kept as they were read, and written with PEFT's defaults otherwise.
type Config struct {
	R       int     // rank, at least 1
	Alpha   float64 // numerator of the scale
	Dropout float64 // share of inputs to A set to zero while training, in [0, 1)

	// TargetModules names the projections that have an adapter, such as "q_proj".
	// [New] puts one on each layer; names must be among [model.Projections].
	TargetModules []string

	UseRSLoRA bool // scale by Alpha/√R
	UseDoRA   bool // with a magnitude vector

	BaseModel string // Hub id or path of the model that the adapter is for
	Revision  string // of BaseModel; empty for the default

	extra map[string]json.RawMessage // all fields as read
}

// Scale returns the factor of B·A: Alpha/R, or Alpha/√R for rank-stabilized LoRA.
func (c Config) Scale() float64 {
	if c.UseRSLoRA {
		return c.Alpha / math.Sqrt(float64(c.R))
	}
	return c.Alpha / float64(c.R)
}

// A ConfigError reports an adapter configuration that cannot be used.
type ConfigError struct {
	Path  string // empty for a Config made in the program
	Field string // as PEFT writes it
	What  string // found, wanted, next step
}

func (e *ConfigError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("lora: %s: %s", e.Field, e.What)
	}
	return fmt.Sprintf("lora: read %s: %s: %s", e.Path, e.Field, e.What)
}

// Validate checks the fields' values.
func (c Config) Validate() error {
	bad := func(field, format string, args ...any) error {
		return &ConfigError{"", field, fmt.Sprintf(format, args...)}
	}
	switch {
	case c.R < 1 || c.R > 1<<16:
		return bad("r", "found %d, wanted a rank from 1 to %d", c.R, 1<<16)
	case !(math.Abs(c.Alpha) <= math.MaxFloat32):
		return bad("lora_alpha", "found %g, wanted a finite number", c.Alpha)
	case !(c.Dropout >= 0 && c.Dropout < 1):
		return bad("lora_dropout", "found %g, wanted a share in [0, 1)", c.Dropout)
	case len(c.TargetModules) == 0:
		return bad("target_modules", "found none, wanted some of %q", model.Projections)
	}
	return nil
}

// peftDefaults are the fields that PEFT writes, with its defaults, in the layout
// of the version named by peft_version. Those of Config are put over them.
const peftDefaults = `{"alora_invocation_tokens":null,"alpha_pattern":{},"arrow_config":null,"auto_mapping":null,
"base_model_name_or_path":null,"bias":"none","corda_config":null,"ensure_weight_tying":false,"eva_config":null,
"exclude_modules":null,"fan_in_fan_out":false,"inference_mode":true,"init_lora_weights":true,"kasa_config":null,
"layer_replication":null,"layers_pattern":null,"layers_to_transform":null,"loftq_config":{},"lora_alpha":8,
"lora_bias":false,"lora_dropout":0.0,"lora_ga_config":null,"megatron_config":null,"megatron_core":"megatron.core",
"modules_to_save":null,"monteclora_config":null,"peft_type":"LORA","peft_version":"0.21.2","qalora_group_size":16,
"r":8,"rank_pattern":{},"revision":null,"target_modules":null,"target_parameters":null,"task_type":"CAUSAL_LM",
"trainable_token_indices":null,"use_bdlora":null,"use_dora":false,"use_qalora":false,"use_rslora":false,"velora_config":null}`

// unsupported lists the fields that would change what the adapter computes, with
// the values under which they change nothing.
var unsupported = map[string][]string{
	"fan_in_fan_out": {"false"}, "bias": {`"none"`}, "lora_bias": {"false"}, "modules_to_save": {"null", "[]"},
	"rank_pattern": {"{}", "null"}, "alpha_pattern": {"{}", "null"}, "layer_replication": {"null"},
	"target_parameters": {"null", "[]"}, "trainable_token_indices": {"null", "[]", "{}"},
	"alora_invocation_tokens": {"null"}, "use_qalora": {"false"}, "use_bdlora": {"null", "false"},
	"arrow_config": {"null"}, "kasa_config": {"null"}, "velora_config": {"null"}, "monteclora_config": {"null"},
}

// ParseConfig reads the text of an adapter_config.json; path is used in errors
// only. Settings that gotune does not compute are errors, not ignored.
func ParseConfig(path string, raw []byte) (Config, error) {
	bad := func(field, format string, args ...any) (Config, error) {
		return Config{}, &ConfigError{path, field, fmt.Sprintf(format, args...)}
	}
	var f struct {
		Type      string          `json:"peft_type"`
		R         *int            `json:"r"`
		Alpha     *float64        `json:"lora_alpha"`
		Dropout   float64         `json:"lora_dropout"`
		Targets   json.RawMessage `json:"target_modules"`
		RSLoRA    bool            `json:"use_rslora"`
		DoRA      bool            `json:"use_dora"`
		BaseModel *string         `json:"base_model_name_or_path"`
		Revision  *string         `json:"revision"`
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &f); err != nil {
		return bad("the file", "it does not read as an adapter's configuration: %v", err)
	}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return bad("the file", "%v", err)
	}
	if f.Type != "LORA" {
		return bad("peft_type", "found %q, wanted \"LORA\": gotune reads no other kind of adapter", f.Type)
	}
	if f.R == nil || f.Alpha == nil {
		return bad("r, lora_alpha", "one of them is missing: the file is incomplete; fetch the adapter again")
	}
	for field, harmless := range unsupported {
		v, ok := fields[field]
		if !ok {
			continue
		}
		var b bytes.Buffer
		if json.Compact(&b, v) != nil || !slices.Contains(harmless, b.String()) {
			return bad(field, "found %s: gotune computes adapters without it (wanted %s)", b.String(), harmless[0])
		}
	}
	c := Config{R: *f.R, Alpha: *f.Alpha, Dropout: f.Dropout, UseRSLoRA: f.RSLoRA, UseDoRA: f.DoRA, extra: fields}
	if f.BaseModel != nil {
		c.BaseModel = *f.BaseModel
	}
	if f.Revision != nil {
		c.Revision = *f.Revision
	}
	var one string
	if json.Unmarshal(f.Targets, &one) == nil && one != "" {
		c.TargetModules = []string{one} // a pattern or "all-linear": the tensors say what it meant
	} else if err := json.Unmarshal(f.Targets, &c.TargetModules); err != nil {
		return bad("target_modules", "found %s, wanted a list of names", f.Targets)
	}
	if err := c.Validate(); err != nil {
		ce := err.(*ConfigError)
		return Config{}, &ConfigError{path, ce.Field, ce.What}
	}
	return c, nil
}

// marshal writes adapter_config.json as PEFT does: keys sorted, two spaces, no
// newline at the end. A field that still has the value that was read keeps its
// text.
func (c Config) marshal() ([]byte, error) {
	fields := map[string]json.RawMessage{}
	if c.extra != nil {
		fields = maps.Clone(c.extra)
	} else if err := json.Unmarshal([]byte(peftDefaults), &fields); err != nil {
		return nil, fmt.Errorf("lora: write adapter_config.json: %w", err)
	}
	set := func(field, text string) { fields[field] = json.RawMessage(text) }
	number := func(field string, v float64, text string) {
		var old float64
		if json.Unmarshal(fields[field], &old) != nil || old != v {
			set(field, text)
		}
	}
	number("r", float64(c.R), strconv.Itoa(c.R))
	number("lora_alpha", c.Alpha, strings.TrimSuffix(pyFloat(c.Alpha), ".0"))
	number("lora_dropout", c.Dropout, pyFloat(c.Dropout))
	set("use_rslora", strconv.FormatBool(c.UseRSLoRA))
	set("use_dora", strconv.FormatBool(c.UseDoRA))
	for field, s := range map[string]string{"base_model_name_or_path": c.BaseModel, "revision": c.Revision} {
		set(field, "null")
		if s != "" {
			set(field, jsonText(s))
		}
	}
	var pattern string
	if json.Unmarshal(fields["target_modules"], &pattern) != nil || pattern == "" || len(c.TargetModules) != 1 || c.TargetModules[0] != pattern {
		set("target_modules", jsonText(c.TargetModules))
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(fields); err != nil {
		return nil, fmt.Errorf("lora: write adapter_config.json: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

func jsonText(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "null"
	}
	return strings.TrimRight(b.String(), "\n")
}

// pyFloat writes a float as Python does: 0.0, 0.05, 1e-05.
func pyFloat(v float64) string {
	if a := math.Abs(v); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(v, 'e', -1, 64)
	}
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
