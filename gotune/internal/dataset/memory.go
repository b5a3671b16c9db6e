package dataset

import (
	"os"
	"strconv"
	"strings"
)

// freeMemory is the memory that programs can still have, or 16 GiB where the
// system doesn't tell.
func freeMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
				if kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil {
					return kb << 10
				}
			}
		}
	}
	return 16 << 30
}
