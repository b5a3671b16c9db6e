package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// record is one result of a stage, a line of its standard output.
type record struct {
	Stage string             `json:"stage"`
	Case  string             `json:"case"`
	Text  string             `json:"text,omitempty"`
	Value map[string]float64 `json:"value,omitempty"`
}

// recordMark begins a record's line.
const recordMark = "record "

// emit prints a record.
func emit(stage, name, text string, value map[string]float64) {
	b, err := json.Marshal(record{stage, name, text, value})
	if err != nil { // a value that is not a number
		b, _ = json.Marshal(record{stage, name, fmt.Sprintf("%s %v", text, value), nil})
	}
	fmt.Println(recordMark + string(b))
}

// parseRecords reads the records among a stage's output lines.
func parseRecords(out string) (list []record) {
	for line := range strings.Lines(out) {
		var r record
		if s, ok := strings.CutPrefix(line, recordMark); ok && json.Unmarshal([]byte(s), &r) == nil {
			list = append(list, r)
		}
	}
	return list
}
