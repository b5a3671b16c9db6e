package kernelext

import (
	"context"
	"encoding/csv"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// gpu is what the driver says about one GPU. Numbers that it does not know are -1.
type gpu struct {
	uuid, name             string
	total, used            int64 // MiB
	degrees, watts, atMost float64
	busy                   float64 // percent of the last second
	others                 []gpuUser
}

// gpuUser is a process that holds memory of a GPU.
type gpuUser struct {
	pid  int
	name string
	used int64 // MiB, -1 when the driver does not say
}

const (
	gpuFields  = "uuid,name,memory.total,memory.used,temperature.gpu,power.draw,power.limit,utilization.gpu"
	userFields = "gpu_uuid,pid,process_name,used_memory"
)

// readGPUs asks the driver by nvidia-smi, which comes with it. There are none when there is no such program or
// it does not answer in time. Processes of the engine are left out of others.
func readGPUs(ctx context.Context, engine int) []gpu {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	ask := func(query string) string {
		out, err := exec.CommandContext(ctx, "nvidia-smi", query, "--format=csv,noheader,nounits").Output()
		if err != nil {
			return ""
		}
		return string(out)
	}
	all := ask("--query-gpu=" + gpuFields)
	if all == "" {
		return nil
	}
	return parseGPUs(all, ask("--query-compute-apps="+userFields), engine)
}

// parseGPUs reads the two tables of nvidia-smi. Lines of another form are passed over.
func parseGPUs(all, users string, engine int) []gpu {
	var gpus []gpu
	for _, f := range csvLines(all, 8) {
		gpus = append(gpus, gpu{uuid: f[0], name: f[1], total: int64(number(f[2])), used: int64(number(f[3])), degrees: number(f[4]),
			watts: number(f[5]), atMost: number(f[6]), busy: number(f[7])})
	}
	for _, f := range csvLines(users, 4) {
		pid, err := strconv.Atoi(f[1])
		for i := range gpus {
			if err == nil && gpus[i].uuid == f[0] && pid != engine {
				gpus[i].others = append(gpus[i].others, gpuUser{pid, f[2], int64(number(f[3]))})
			}
		}
	}
	return gpus
}

// csvLines is the lines of text that have n fields.
func csvLines(text string, n int) (lines [][]string) {
	for line := range strings.SplitSeq(text, "\n") {
		r := csv.NewReader(strings.NewReader(line))
		r.TrimLeadingSpace = true
		r.LazyQuotes = true
		if f, err := r.Read(); err == nil && len(f) == n {
			lines = append(lines, f)
		}
	}
	return lines
}

// number reads a value of nvidia-smi, -1 for "[N/A]" and the like.
func number(s string) float64 {
	v, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || !(v >= 0 && v < 1e12) {
		return -1
	}
	return v
}

// rows is the GPU as lines of the status table: what, name, state, memory.
func (g gpu) rows() [][]string {
	var state []string
	for _, p := range []struct {
		value float64
		form  string
	}{{g.busy, "%.0f %% busy"}, {g.degrees, "%.0f °C"}, {g.watts, "%.0f W"}} {
		if p.value >= 0 {
			state = append(state, fmt.Sprintf(p.form, p.value))
		}
	}
	if n := len(state); g.watts >= 0 && g.atMost > 0 {
		state[n-1] = fmt.Sprintf("%.0f of %.0f W", g.watts, g.atMost)
	}
	memory := ""
	if g.total > 0 && g.used >= 0 {
		memory = fmt.Sprintf("%s of %s used, %s free", bytesText(g.used<<20), bytesText(g.total<<20), bytesText(max(0, g.total-g.used)<<20))
	}
	rows := [][]string{{"GPU", g.name, strings.Join(state, ", "), memory}}
	for _, u := range g.others {
		held := ""
		if u.used >= 0 {
			held = bytesText(u.used << 20)
		}
		rows = append(rows, []string{"", "another program", fmt.Sprintf("%s, process %d", u.name, u.pid), held})
	}
	return rows
}

// crowded is a sentence about a GPU that others leave less than a tenth of, or "".
func (g gpu) crowded() string {
	var others int64
	for _, u := range g.others {
		others += max(0, u.used)
	}
	if g.total <= 0 || 10*others < 9*g.total {
		return ""
	}
	return fmt.Sprintf("Other programs hold %s of the %s of %s: a model will not fit until they end.", bytesText(others<<20), bytesText(g.total<<20), g.name)
}
