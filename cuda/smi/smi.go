// Package smi asks NVIDIA's driver, by the program nvidia-smi that comes with it, for what the CUDA API does not
// say: temperature and power, and which programs hold a GPU's memory. It needs neither cgo nor a GPU, and says
// nothing where there is none.
package smi

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// A GPU is what the driver says about one. Numbers that it does not know are -1.
type GPU struct {
	UUID, Name  string
	Total, Used int64 // bytes
	Degrees     float64
	Watts       float64
	MaxWatts    float64 // the limit in force
	Busy        float64 // percent of the last second
	Users       []User
}

// A User is a process that holds memory of a GPU.
type User struct {
	PID    int
	Name   string
	Bytes  int64 // -1 when the driver does not say
	Hidden bool  // not among the processes that are seen from here: the driver counts those of the whole machine, a container its own
}

const (
	gpuFields  = "uuid,name,memory.total,memory.used,temperature.gpu,power.draw,power.limit,utilization.gpu"
	userFields = "gpu_uuid,pid,process_name,used_memory"
)

// patience is how long the driver may take to answer: one that is stuck must hold up nobody.
const patience = 3 * time.Second

// Read asks the driver. There are no GPUs when there is no nvidia-smi or it does not answer in time.
func Read(ctx context.Context) []GPU {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ask := func(query string) string {
		out, err := exec.CommandContext(ctx, "nvidia-smi", query, "--format=csv,noheader,nounits").Output()
		if err != nil {
			return ""
		}
		return string(out)
	}
	gpus := ask("--query-gpu=" + gpuFields)
	if gpus == "" {
		return nil
	}
	return Parse(gpus, ask("--query-compute-apps="+userFields), func(pid int) bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
		return err == nil
	})
}

// Parse reads nvidia-smi's tables of GPUs and of processes. Lines of another form are passed over. seen says
// whether a process is seen from here. A process of a part of a GPU (MIG) may be listed under the part's own
// name: where there is one GPU it is that one's.
func Parse(gpus, users string, seen func(pid int) bool) []GPU {
	var out []GPU
	for _, f := range csvLines(gpus, 8) {
		out = append(out, GPU{UUID: f[0], Name: f[1], Total: mebibytes(f[2]), Used: mebibytes(f[3]), Degrees: number(f[4]),
			Watts: number(f[5]), MaxWatts: number(f[6]), Busy: number(f[7])})
	}
	for _, f := range csvLines(users, 4) {
		pid, err := strconv.Atoi(f[1])
		if err != nil {
			continue
		}
		for i := range out {
			if out[i].UUID == f[0] || len(out) == 1 && strings.HasPrefix(f[0], "MIG-") {
				out[i].Users = append(out[i].Users, User{PID: pid, Name: f[2], Bytes: mebibytes(f[3]), Hidden: !seen(pid)})
			}
		}
	}
	return out
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

func mebibytes(s string) int64 {
	n := number(s)
	if n < 0 {
		return -1
	}
	return int64(n) << 20
}

// Others lists the users of the GPU but the process self.
func (g GPU) Others(self int) (out []User) {
	for _, u := range g.Users {
		if u.PID != self {
			out = append(out, u)
		}
	}
	return out
}

// Held is the memory that other programs than self are known to hold. Where self is none of the users, one of the
// hidden ones may be it, under the number that it has outside: then those do not count.
func (g GPU) Held(self int) (bytes int64) {
	others := g.Others(self)
	known := len(others) < len(g.Users)
	for _, u := range others {
		if known || !u.Hidden {
			bytes += max(0, u.Bytes)
		}
	}
	return bytes
}

// Holders says which other programs hold more than a tenth of a GPU's memory, or "".
func Holders(gpus []GPU, self int) string {
	var all []string
	for _, g := range gpus {
		if held := g.Held(self); g.Total > 0 && 10*held > g.Total {
			var who []string
			for _, u := range g.Others(self) {
				if u.Bytes > 0 {
					who = append(who, fmt.Sprintf("%s, process %d: %s", u.Name, u.PID, Size(u.Bytes)))
				}
			}
			all = append(all, fmt.Sprintf("other programs hold %s of the %s of %s (%s)", Size(held), Size(g.Total), g.Name, strings.Join(who, "; ")))
		}
	}
	return strings.Join(all, "; ")
}

// Size is a number of bytes as people read it.
func Size(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
