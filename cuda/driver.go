package cuda

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>

typedef int (*fn0)(unsigned);
typedef int (*fn1)(int*);
typedef int (*fn2)(int*, int);
typedef int (*fnName)(char*, int, int);
typedef int (*fnAttr)(int*, int, int);
typedef int (*fnMem)(size_t*, int);
typedef int (*fnRetain)(void**, int);
typedef int (*fnSet)(void*);
typedef int (*fnInfo)(size_t*, size_t*);
typedef int (*fnRelease)(int);

static void *lib;

// gt_open loads the driver from the places where distributions, containers and
// Colab put it. cuda-compat folders are left out: they can be older than the driver.
static int gt_open(void) {
	static const char *names[] = {"libcuda.so.1", "/usr/lib64-nvidia/libcuda.so.1",
		"/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/x86_64-linux-gnu/libcuda.so.1", 0};
	for (int i = 0; names[i] && !lib; i++) lib = dlopen(names[i], RTLD_NOW | RTLD_GLOBAL);
	if (!lib) return -1;
	fn0 init = (fn0)dlsym(lib, "cuInit");
	return init ? init(0) : -2;
}
static int gt_version(int *v) { fn1 f = (fn1)dlsym(lib, "cuDriverGetVersion"); return f ? f(v) : -2; }
static int gt_count(int *n) { fn1 f = (fn1)dlsym(lib, "cuDeviceGetCount"); return f ? f(n) : -2; }
static int gt_handle(int *d, int i) { fn2 f = (fn2)dlsym(lib, "cuDeviceGet"); return f ? f(d, i) : -2; }
static int gt_name(char *s, int n, int d) { fnName f = (fnName)dlsym(lib, "cuDeviceGetName"); return f ? f(s, n, d) : -2; }
static int gt_attr(int *v, int a, int d) { fnAttr f = (fnAttr)dlsym(lib, "cuDeviceGetAttribute"); return f ? f(v, a, d) : -2; }
static int gt_total(size_t *v, int d) { fnMem f = (fnMem)dlsym(lib, "cuDeviceTotalMem_v2"); return f ? f(v, d) : -2; }
static int gt_free(size_t *v, int d) {
	fnRetain retain = (fnRetain)dlsym(lib, "cuDevicePrimaryCtxRetain");
	fnSet push = (fnSet)dlsym(lib, "cuCtxPushCurrent_v2");
	fnRetain pop = (fnRetain)dlsym(lib, "cuCtxPopCurrent_v2");
	fnInfo info = (fnInfo)dlsym(lib, "cuMemGetInfo_v2");
	fnRelease release = (fnRelease)dlsym(lib, "cuDevicePrimaryCtxRelease_v2");
	void *ctx = 0; size_t total = 0;
	if (!retain || !push || !pop || !info || !release) return -2;
	int e = retain(&ctx, d);
	if (e) return e;
	if (!(e = push(ctx))) { e = info(v, &total); pop(&ctx, 0); }
	release(d);
	return e;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// ErrNoDriver is returned, wrapped, by [Devices] on a machine without the CUDA
// driver or with one that shows no GPU.
var ErrNoDriver = errors.New("no CUDA driver")

// Attribute numbers of cuda.h, CUdevice_attribute.
const (
	attrSMs   = 16
	attrMajor = 75
	attrMinor = 76
)

var openDriver = sync.OnceValue(func() int { return int(C.gt_open()) })

// Devices lists the GPUs that the CUDA driver shows, in its own order. Asking
// makes and releases a primary context on each, for the free memory.
func Devices() ([]Device, error) {
	if e := openDriver(); e < 0 {
		return nil, fmt.Errorf("%w: libcuda.so.1 is not on this machine", ErrNoDriver)
	} else if e > 0 {
		return nil, fmt.Errorf("%w: cuInit says error %d; look at what nvidia-smi prints", ErrNoDriver, e)
	}
	runtime.LockOSThread() // the context stack is the thread's
	defer runtime.UnlockOSThread()
	var n, version C.int
	if e := C.gt_count(&n); e != 0 {
		return nil, fmt.Errorf("%w: cuDeviceGetCount says error %d", ErrNoDriver, e)
	}
	C.gt_version(&version)
	out := make([]Device, 0, int(n))
	for i := range int(n) {
		d, err := device(i)
		if err != nil {
			return nil, err
		}
		d.DriverVersion = int(version)
		out = append(out, d)
	}
	return out, nil
}

func device(i int) (Device, error) {
	var h, major, minor, sms C.int
	var total, free C.size_t
	var name [256]C.char
	for _, e := range []C.int{C.gt_handle(&h, C.int(i)), C.gt_name(&name[0], 256, h), C.gt_attr(&major, attrMajor, h),
		C.gt_attr(&minor, attrMinor, h), C.gt_attr(&sms, attrSMs, h), C.gt_total(&total, h)} {
		if e != 0 {
			return Device{}, fmt.Errorf("CUDA device %d: the driver says error %d; look at what nvidia-smi prints", i, e)
		}
	}
	if C.gt_free(&free, h) != 0 {
		free = 0 // full or in exclusive use: the rest is still worth showing
	}
	return Device{Index: i, Name: C.GoString(&name[0]), Major: int(major), Minor: int(minor), SMs: int(sms),
		TotalBytes: int64(total), FreeBytes: int64(free)}, nil
}
