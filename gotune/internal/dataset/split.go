package dataset

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// A cut is one part of a split expression: "train[10%:]".
type cut struct {
	split    string
	from, to bound
	pct1     bool // rounding "pct1_dropremainder": multiples of whole percents
}

// A bound is one end of a cut.
type bound struct {
	set, pct bool
	n        int
}

var (
	cutForm = regexp.MustCompile(`^(\w+(?:\.\w+)*)(?:\[(?:(-?[\d_]+)(%)?)?:(?:(-?[\d_]+)(%)?)?\])?(?:\(([^)]*)\))?$`)
	plus    = regexp.MustCompile(`\s*\+\s*`)
)

// parseSplit reads a split expression as datasets.ReadInstruction.from_spec does.
func parseSplit(spec string) ([]cut, error) {
	bad := func(found string) error {
		return &Error{Op: "read", Object: "split " + strconv.Quote(spec), Found: found, Wanted: `e.g. "train", "train[:100]", "train[10%:]", "train[:50%]+test"`, Kind: ErrSplit}
	}
	var cuts []cut
	for _, part := range plus.Split(strings.TrimSpace(spec), -1) {
		m := cutForm.FindStringSubmatch(part)
		if m == nil {
			return nil, bad("the part " + strconv.Quote(part))
		}
		c := cut{split: m[1]}
		for i, b := range []*bound{&c.from, &c.to} {
			text := strings.ReplaceAll(m[2+2*i], "_", "")
			if text == "" {
				continue
			}
			n, err := strconv.Atoi(text)
			if err != nil {
				return nil, bad("the number " + strconv.Quote(text))
			}
			*b = bound{set: true, n: n}
		}
		// One percent sign makes both ends percents, as in datasets.
		pct := m[3] != "" || m[5] != ""
		c.from.pct, c.to.pct = pct, pct
		if pct && (c.from.n > 100 || c.from.n < -100 || c.to.n > 100 || c.to.n < -100) {
			return nil, bad("a percentage beyond 100")
		}
		switch m[6] {
		case "":
		case "closest", "pct1_dropremainder":
			if !pct {
				return nil, bad("a rounding without percents")
			}
			c.pct1 = m[6] == "pct1_dropremainder"
		default:
			return nil, bad("the rounding " + strconv.Quote(m[6]))
		}
		cuts = append(cuts, c)
	}
	return cuts, nil
}

// rows gives the half-open range of rows the cut takes of n.
func (c cut) rows(n int) (from, to int, err error) {
	abs := func(b bound, missing int) int {
		switch {
		case !b.set:
			return missing
		case !b.pct:
			return b.n
		case c.pct1:
			return b.n * (n / 100)
		}
		return int(math.RoundToEven(float64(b.n) * float64(n) / 100))
	}
	if c.pct1 && n < 100 {
		return 0, 0, &Error{Op: "cut", Object: "split " + c.split, Found: fmt.Sprintf("%d rows", n), Wanted: "100 or more for the rounding pct1_dropremainder", Kind: ErrSplit,
			Next: "leave the rounding out"}
	}
	from, to = abs(c.from, 0), abs(c.to, n)
	if from < 0 {
		from = max(n+from, 0)
	}
	if to < 0 {
		to = max(n+to, 0)
	}
	from, to = min(from, n), min(to, n)
	return from, max(from, to), nil
}

// limit is how many rows of the split the cut can need, or -1 for all of them.
func (c cut) limit() int {
	if c.from.pct || c.to.pct || (c.from.set && c.from.n < 0) || !c.to.set || c.to.n < 0 {
		return -1
	}
	return c.to.n
}
