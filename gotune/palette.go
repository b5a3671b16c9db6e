package gotune

import (
	"fmt"
	"strings"
)

// A shade is a colour on a light page and the same on a dark one.
type shade struct{ light, dark string }

// A seriesColor is what one series is drawn in. The contrast (WCAG 2.2, section
// 1.4.11, asks for 3:1) with a white page, and with a dark one up to #181818, is
// at least 5.6 and 8.2 for strong and 3.1 for soft. Its soft shade is solid, not
// the strong one half transparent: that would fall below 3:1 on one of the two.
type seriesColor struct{ strong, soft shade }

// seriesColors have eight hues: blue, orange, green, magenta, violet, olive,
// teal, red.
var seriesColors = []seriesColor{
	{shade{"#1467c2", "#79b4fe"}, shade{"#6793cd", "#346aac"}},
	{shade{"#a74e09", "#ff9657"}, shade{"#c5815b", "#a15421"}},
	{shade{"#067836", "#62c47b"}, shade{"#679d72", "#317644"}},
	{shade{"#b23586", "#ff89cf"}, shade{"#c678a5", "#a2497f"}},
	{shade{"#7357b3", "#baa2ff"}, shade{"#9688c3", "#705ea1"}},
	{shade{"#7b6606", "#c9b04f"}, shade{"#9e905b", "#796822"}},
	{shade{"#0a7373", "#52c1c0"}, shade{"#609b9b", "#247474"}},
	{shade{"#c42b29", "#fd9388"}, shade{"#d4776e", "#b1453d"}},
}

// accent is the colour of a series on any page: 3:1 or more on white and on
// dark, for places where neither a style sheet nor light-dark() may reach.
const accent = "#3b8eea"

// paint is a chart's attribute, "stroke" or "fill", of the series i, of which
// the ninth has the first colour again. A card has a class for it; a live chart
// asks the page, by JupyterLab's color-scheme, which shade it wants, and takes the
// light one where light-dark() is not known.
func (s chartStyle) paint(attribute string, i int, soft bool) string {
	i %= len(seriesColors)
	c, class := seriesColors[i].strong, "s"
	if soft {
		c, class = seriesColors[i].soft, "w"
	}
	if s.card {
		return fmt.Sprintf(`class="%s%d%c"`, class, i, attribute[0])
	}
	return fmt.Sprintf(`%s="%s" style="%s:light-dark(%s,%s)"`, attribute, c.light, attribute, c.light, c.dark)
}

// sheet is the style sheet of a card with n series: its own background, since it
// can't see the page's, light unless the page or the system is dark.
func sheet(n int) string {
	light := `.b{fill:#fff}.t{fill:#333}.a{stroke:#888}.g{stroke:#e4e4e4}.o{stroke:#fff}`
	dark := `.b{fill:#181818}.t{fill:#ddd}.a{stroke:#888}.g{stroke:#333}.o{stroke:#181818}`
	for i := range min(n, len(seriesColors)) {
		c := seriesColors[i]
		for _, p := range []string{"stroke", "fill"} {
			rule := func(class, color string) string { return fmt.Sprintf(".%s%d%c{%s:%s}", class, i, p[0], p, color) }
			light += rule("s", c.strong.light) + rule("w", c.soft.light)
			dark += rule("s", c.strong.dark) + rule("w", c.soft.dark)
		}
	}
	return "<style>" + strings.Join([]string{light, "@media (prefers-color-scheme:dark){", dark, "}"}, "") + "</style>"
}
