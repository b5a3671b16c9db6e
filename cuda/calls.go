package cuda

// #include "pjrt.h"
import "C"

import "fmt"

// QueueCalls makes calls of programs of a loaded PJRT plugin return once their
// work is queued on the device, instead of when it is done, so that the device
// does not idle between two calls. plugin is the path that it was loaded from.
// Whatever copies a result to the host waits for it, and gets the error of any call
// before that failed; a view of a result in the host's memory, which a CPU plugin
// gives, does not wait. Asking again does nothing.
//
// The XLA client of GoMLX asks each call for its completion event and waits for it.
// The plugin's function table gets an entry in front of the real one that drops the
// question (PJRT allows none to be asked for).
func QueueCalls(plugin string) error {
	attachMu.Lock()
	defer attachMu.Unlock()
	table, why := attachTable(plugin, true)
	if why == "" && C.gt_queue(C.int(table)) != 0 {
		why = "its function table can't be written"
	}
	if why != "" {
		return fmt.Errorf("queue calls of plugin %s: %s; calls will be awaited one by one", plugin, why)
	}
	return nil
}

// AwaitCalls makes calls that [QueueCalls] changed wait again, as for timing each,
// or stops that.
func AwaitCalls(yes bool) {
	v := C.int(0)
	if yes {
		v = 1
	}
	C.gt_await(v)
}
