package cuda

// #include "pjrt.h"
import "C"

import (
	"fmt"
	"unsafe"
)

// MemoryStats is the state of a device's memory as XLA's allocator accounts for it,
// in bytes. What the plugin does not say is 0.
type MemoryStats struct {
	InUse   int64 // of buffers and of programs that run
	Peak    int64 // the largest InUse so far
	Limit   int64 // what may be allocated
	Pool    int64 // held from the driver, at least InUse
	Largest int64 // free block, of a pool that is taken at the start
}

// Memory asks for the memory of the client's first device. A CPU has no account of
// it: an error.
func (c *Client) Memory() (MemoryStats, error) {
	t := C.gt_at(C.int(c.table))
	if t.device == nil {
		return MemoryStats{}, fmt.Errorf("memory of the device: %w", errNoClient)
	}
	s := C.gt_memory_stats{size: C.sizeof_gt_memory_stats, device: t.device}
	if err := c.call(C.GT_DEVICE_MEMORY_STATS, unsafe.Pointer(&s)); err != nil {
		return MemoryStats{}, fmt.Errorf("memory of the device: %w", err)
	}
	known := func(v C.int64_t, set C.bool) int64 {
		if !set {
			return 0
		}
		return int64(v)
	}
	return MemoryStats{InUse: int64(s.in_use), Peak: known(s.peak_in_use, s.peak_in_use_set), Limit: known(s.limit, s.limit_set),
		Pool: known(s.pool, s.pool_set), Largest: known(s.largest_free, s.largest_free_set)}, nil
}
