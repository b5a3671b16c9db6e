package gotune

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A checker collects the first thing that is wrong with a config.
type checker struct {
	where string // e.g. "Trainer"
	err   *Error
}

// fail records that field has the value found where wanted was asked for.
func (c *checker) fail(field string, found any, wanted, next string) {
	if c.err == nil {
		c.err = &Error{Kind: KindInvalid, Op: "check", Object: c.where + "." + field, Found: jsonText(found), Wanted: wanted, Next: next}
	}
}

// merge takes over the error of a nested config, with its place in front.
func (c *checker) merge(err error) {
	if err == nil || c.err != nil {
		return
	}
	e := *AsError("check", err)
	e.Object = c.where + "." + e.Object
	c.err = &e
}

// result is the error as an interface, nil when all is well.
func (c *checker) result() error {
	if c.err == nil {
		return nil
	}
	return c.err
}

// defaulted fills a zero field with its default.
func defaulted[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// oneOf fails unless value is among the names.
func (c *checker) oneOf(field, value string, names ...string) {
	if slices.Contains(names, value) {
		return
	}
	next := ""
	if n := Nearest(value, names); n != "" {
		next = fmt.Sprintf("did you mean %q?", n)
	}
	c.fail(field, value, "one of "+strings.Join(names, ", "), next)
}

// inRange fails unless low ≤ value ≤ high; NaN never is.
func (c *checker) inRange(field string, value, low, high float64) {
	if value >= low && value <= high {
		return
	}
	wanted := fmt.Sprintf("a number from %v to %v", low, high)
	if math.IsInf(high, 1) {
		wanted = fmt.Sprintf("a number of at least %v", low)
	}
	c.fail(field, value, wanted, "")
}

// atLeast fails unless value ≥ low.
func (c *checker) atLeast(field string, value, low int) {
	if value < low {
		c.fail(field, value, fmt.Sprintf("a whole number of at least %d", low), "")
	}
}

// name fails unless value can name an object, a folder and a table's row.
func (c *checker) name(field, value string) {
	switch {
	case value == "":
		c.fail(field, value, "a name", "give the literal a Name: it is how later cells find it again")
	case len(value) > 200 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		c.fail(field, value, "at most 200 bytes without control characters", "")
	}
}

// Nearest returns the name that differs least from s, or "" if none is close.
// It is what "did you mean" says.
func Nearest(s string, names []string) string {
	best, dist := "", min(1+max(1, len(s)/3), len(s)) // not every letter may differ
	for _, n := range names {
		if d := editDistance(strings.ToLower(s), strings.ToLower(n)); d < dist {
			best, dist = n, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// jsonText renders a value for an error: JSON where that works.
func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// lastPart is the part of a Hub id or path behind the last slash.
func lastPart(source string) string {
	source = strings.TrimRight(source, "/")
	return source[strings.LastIndexByte(source, '/')+1:]
}
