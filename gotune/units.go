package gotune

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// sizeText writes bytes in binary units: "9.8 GiB".
func sizeText(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, unit := float64(n)/1024, 0
	for v >= 999.95 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[unit])
}

// countText writes a whole number with a comma between thousands: "1,234".
func countText[T int | int64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// paramsText writes a number of weights: "6.74 B", "33.6 M".
func paramsText(n int64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "B"}, {1e6, "M"}, {1e3, "K"}} {
		if float64(n) >= u.size {
			return fmt.Sprintf("%.3g %s", float64(n)/u.size, u.name)
		}
	}
	return strconv.FormatInt(n, 10)
}

// secondsText writes a duration: "0.4 s", "12 s", "3m 05s", "2h 10m".
func secondsText(s float64) string {
	if !(s >= 0) || s > 1e8 {
		return "–"
	}
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", s)
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", s)
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm %02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%dh %02dm", int(d.Hours()), int(d.Minutes())%60)
}

// lossText writes a loss or a norm: "1.3501", "NaN".
func lossText(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return strings.TrimPrefix(fmt.Sprint(v), "+")
	}
	return fmt.Sprintf("%.4f", v)
}

// rateText writes a learning rate: "2.00e-04".
func rateText(v float64) string { return fmt.Sprintf("%.2e", v) }

// speedText writes tokens a second: "1,234 tok/s".
func speedText(v float64) string {
	switch {
	case !(v > 0) || v > 1e12:
		return "–"
	case v < 10:
		return fmt.Sprintf("%.1f tok/s", v)
	}
	return countText(int64(math.Round(v))) + " tok/s"
}

// amountText writes progress: "12 of 35 tensors", "1.2 of 3.4 GiB", "12 rows".
func amountText(done, total int64, unit string) string {
	text := countText[int64]
	if unit == "bytes" {
		text, unit = sizeText, ""
	}
	s := text(done)
	if total > 0 {
		s += " of " + text(total)
	}
	if unit != "" {
		s += " " + unit
	}
	return s
}

// plural writes "1 row", "2 rows".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return countText(n) + " " + one + "s"
}

// plainText makes text safe for a terminal: control characters other than tab
// and newline, which could move the cursor or worse, show as their pictures.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < ' ':
			return '␀' + r
		case r == 0x7f:
			return '␡'
		case r >= 0x80 && r < 0xa0:
			return '\ufffd'
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// oneLine makes text fit a table's cell of at most n runes.
func oneLine(s string, n int) string {
	s = strings.NewReplacer("\r\n", "⏎", "\n", "⏎", "\t", " ").Replace(s)
	r := []rune(s)
	if len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
