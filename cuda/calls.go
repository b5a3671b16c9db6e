package cuda

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

// The plugin's table of functions, PJRT_Api of pjrt_c_api.h: fields are only ever
// appended to it, so these places hold for every plugin that is new enough.
enum {
	gt_at_size = 0, gt_at_major = 32, gt_at_execute = 480, // PJRT_LoadedExecutable_Execute
	gt_at_events = 64                                       // PJRT_LoadedExecutable_Execute_Args.device_complete_events
};

typedef void *(*gt_execute_fn)(void *args);

static gt_execute_fn gt_execute_real;
static void *gt_table;
static int gt_awaited;

// gt_execute asks for no completion events unless calls are to be awaited. The
// caller waits for those that it gets, so without it goes on at once.
static void *gt_execute(void *args) {
	if (!__atomic_load_n(&gt_awaited, __ATOMIC_RELAXED)) *(void **)((char *)args + gt_at_events) = NULL;
	return gt_execute_real(args);
}

static int gt_queue(const char *path) {
	void *h = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	if (!h) return 1;
	void *(*get)(void) = (void *(*)(void))dlsym(h, "GetPjrtApi");
	char *api = get ? get() : NULL;
	dlclose(h);
	if (!api) return 2;
	if (gt_table) return gt_table == api ? 0 : 3;
	if (*(size_t *)(api + gt_at_size) < gt_at_execute + sizeof(void *) || *(int *)(api + gt_at_major) != 0) return 4;
	gt_execute_fn *slot = (gt_execute_fn *)(api + gt_at_execute);
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)slot & ~(page - 1);
	uintptr_t to = ((uintptr_t)(slot + 1) + page - 1) & ~(page - 1);
	if (mprotect((void *)from, to - from, PROT_READ | PROT_WRITE)) return 5;
	gt_execute_real = *slot;
	*slot = gt_execute;
	gt_table = api;
	return 0;
}

static void gt_await(int yes) { __atomic_store_n(&gt_awaited, yes, __ATOMIC_RELAXED); }
*/
import "C"

import (
	"fmt"
	"sync"
	"unsafe"
)

var queueMu sync.Mutex

// QueueCalls makes calls of programs of a loaded PJRT plugin return once their
// work is queued on the device, instead of when it is done, so that the device
// does not idle between two calls. plugin is the path that it was loaded from.
// Whatever copies a result to the host waits for it, and gets the error of any call
// before that failed; a view of a result in the host's memory, which a CPU plugin
// gives, does not wait. One plugin of a process can be changed so; asking again for it does
// nothing.
//
// The XLA client of GoMLX asks each call for its completion event and waits for it.
// The plugin's function table gets an entry in front of the real one that drops the
// question (PJRT allows none to be asked for).
func QueueCalls(plugin string) error {
	queueMu.Lock()
	defer queueMu.Unlock()
	path := C.CString(plugin)
	defer C.free(unsafe.Pointer(path))
	why := ""
	switch C.gt_queue(path) {
	case 0:
		return nil
	case 1:
		why = "it is not loaded"
	case 2:
		why = "it has no GetPjrtApi"
	case 3:
		why = "another plugin's calls are queued already"
	case 4:
		why = "its function table is of another version"
	default:
		why = "its function table can't be written"
	}
	return fmt.Errorf("queue calls of plugin %s: %s; calls will be awaited one by one", plugin, why)
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
