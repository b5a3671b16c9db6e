package gotune

import (
	"math"
	"strconv"
	"strings"
	"testing"
)

// luminance is WCAG's relative luminance of "#rrggbb".
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 32)
	if err != nil || len(hex) != 7 {
		t.Fatalf("%q is no colour", hex)
	}
	linear := func(c uint64) float64 {
		v := float64(c&255) / 255
		if v <= 0.04045 {
			return v / 12.92
		}
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(n>>16) + 0.7152*linear(n>>8) + 0.0722*linear(n)
}

func contrast(t *testing.T, a, b string) float64 {
	x, y := luminance(t, a), luminance(t, b)
	return (math.Max(x, y) + 0.05) / (math.Min(x, y) + 0.05)
}

// The numbers in the comment of seriesColor, on a white page, a dark one and a
// dark card.
func TestPaletteContrast(t *testing.T) {
	if got := contrast(t, "#ffffff", "#000000"); math.Abs(got-21) > 1e-9 {
		t.Fatalf("black on white has %g, want 21", got)
	}
	for i, c := range seriesColors {
		for _, tt := range []struct {
			name, color, page string
			least             float64
		}{
			{"strong", c.strong.light, "#ffffff", 5.6}, {"soft", c.soft.light, "#ffffff", 3.1},
			{"strong", c.strong.dark, "#111111", 8.2}, {"soft", c.soft.dark, "#111111", 3.1},
			{"strong", c.strong.dark, "#181818", 8.2}, {"soft", c.soft.dark, "#181818", 3.1},
		} {
			if got := contrast(t, tt.color, tt.page); got < tt.least-0.05 {
				t.Errorf("series %d, %s %s on %s has %.2f, want %.1f", i, tt.name, tt.color, tt.page, got, tt.least)
			}
		}
		for _, s := range [][2]string{{c.strong.light, c.soft.light}, {c.strong.dark, c.soft.dark}} {
			if got := contrast(t, s[0], s[1]); got < 1.5 {
				t.Errorf("series %d: strong %s and soft %s are hardly told apart, %.2f", i, s[0], s[1], got)
			}
		}
	}
	for _, page := range []string{"#ffffff", "#111111"} {
		if got := contrast(t, accent, page); got < 3 {
			t.Errorf("the accent on %s has %.2f, want 3", page, got)
		}
	}
}

// More series than the first line has room for go on below, with nothing over
// anything else, and lower the plane.
func TestLegendRows(t *testing.T) {
	names := func(n int) (list []string) {
		for i := range n {
			list = append(list, strings.Repeat("x", 24)+strconv.Itoa(i))
		}
		return list
	}
	for n, want := range map[int]float64{1: 0, 2: legendRow, 3: legendRow, 9: 4 * legendRow} {
		svg, lower := cardStyle.legend(names(n), "thin: each step · thick: smoothed")
		if lower != want {
			t.Errorf("%d names lower the plane by %g, want %g", n, lower, want)
		}
		if got := strings.Count(svg, "<text"); got != n+1 {
			t.Errorf("%d texts for %d names and a note", got, n)
		}
	}
}

func TestTickText(t *testing.T) {
	for _, tt := range []struct {
		low, high float64
		want      string
	}{
		{0, 250, "0 50 100 150 200 250"}, {0.2, 2.4, "0.5 1.0 1.5 2.0"}, {0, 4000, "0 1,000 2,000 3,000 4,000"},
		{0, 120_000, "0 20k 40k 60k 80k 100k 120k"}, {1.13, 1.25, "1.14 1.16 1.18 1.20 1.22 1.24"}, {0, 5e6, "0 1e+06 2e+06 3e+06 4e+06 5e+06"},
	} {
		all := ticks(tt.low, tt.high, 7)
		var got []string
		for _, v := range all {
			got = append(got, tickText(v, all))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("ticks from %g to %g are %q, want %q", tt.low, tt.high, got, tt.want)
		}
	}
}

// Names of a sweep stay apart when they are cut.
func TestShortName(t *testing.T) {
	a, b := shortName("a-name-that-nobody-would-type-in-full/llama-2-7b-lr1e-4"), shortName("a-name-that-nobody-would-type-in-full/llama-2-7b-lr2e-4")
	if a == b || len([]rune(a)) != 40 || shortName("gopher") != "gopher" {
		t.Errorf("shortName gives %q and %q", a, b)
	}
}
