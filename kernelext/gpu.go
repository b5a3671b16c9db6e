package kernelext

import (
	"fmt"
	"strings"

	"github.com/gotune/gotune/cuda/smi"
)

// gpuRows is a GPU as lines of the status table: what, name, state, memory.
func gpuRows(g smi.GPU, engine int) [][]string {
	var state []string
	if g.Busy >= 0 {
		state = append(state, fmt.Sprintf("%.0f %% busy", g.Busy))
	}
	if g.Degrees >= 0 {
		state = append(state, fmt.Sprintf("%.0f °C", g.Degrees))
	}
	switch {
	case g.Watts >= 0 && g.MaxWatts > 0:
		state = append(state, fmt.Sprintf("%.0f of %.0f W", g.Watts, g.MaxWatts))
	case g.Watts >= 0:
		state = append(state, fmt.Sprintf("%.0f W", g.Watts))
	}
	memory := ""
	if g.Total > 0 && g.Used >= 0 {
		memory = fmt.Sprintf("%s of %s used, %s free", bytesText(g.Used), bytesText(g.Total), bytesText(max(0, g.Total-g.Used)))
	}
	rows := [][]string{{"GPU", g.Name, strings.Join(state, ", "), memory}}
	for _, u := range g.Others(engine) {
		who, held := "another program", ""
		if u.Hidden {
			who = "a program outside this container, or the engine seen from there"
		}
		if u.Bytes >= 0 {
			held = bytesText(u.Bytes)
		}
		rows = append(rows, []string{"", who, fmt.Sprintf("%s, process %d", u.Name, u.PID), held})
	}
	return rows
}

// crowded is a sentence about a GPU that others leave less than a tenth of, or "".
func crowded(g smi.GPU, engine int) string {
	held := g.Held(engine)
	if g.Total <= 0 || 10*held < 9*g.Total {
		return ""
	}
	return fmt.Sprintf("Other programs hold %s of the %s of %s: a model will not fit until they end.", bytesText(held), bytesText(g.Total), g.Name)
}
