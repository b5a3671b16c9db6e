package cuda

import (
	"bufio"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// HostInfo is what the CPU and its memory are.
type HostInfo struct {
	Model          string // "AMD EPYC …"
	Cores          int    // processors this process may use
	TotalBytes     int64  // memory
	AvailableBytes int64  // memory that can be taken without swapping
	AVX512, AMX    bool   // AMX: bfloat16 tiles, which make bf16 the faster type on a CPU
}

// Host reads /proc/cpuinfo and /proc/meminfo. What is missing there stays zero.
func Host() HostInfo {
	h := HostInfo{Cores: runtime.NumCPU(), Model: runtime.GOARCH}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		parseCPUInfo(f, &h)
		f.Close()
	}
	if f, err := os.Open("/proc/meminfo"); err == nil {
		parseMemInfo(f, &h)
		f.Close()
	}
	return h
}

func parseCPUInfo(r io.Reader, h *HostInfo) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		k, v, _ := strings.Cut(s.Text(), ":")
		switch strings.TrimSpace(k) {
		case "model name":
			h.Model = strings.TrimSpace(v)
		case "flags":
			f := " " + v + " "
			h.AVX512 = strings.Contains(f, " avx512f ")
			h.AMX = strings.Contains(f, " amx_bf16 ")
			return // the first processor speaks for all
		}
	}
}

func parseMemInfo(r io.Reader, h *HostInfo) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "MemTotal:":
			h.TotalBytes = kib << 10
		case "MemAvailable:":
			h.AvailableBytes = kib << 10
		}
	}
}
