package cuda

/*
#cgo LDFLAGS: -ldl
#include "kernels.h"
#include <stdlib.h>
*/
import "C"

import (
	_ "embed"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"
)

// PackedProduct is the target of custom calls to the product of a 4-bit matrix with
// vectors (kernel/packed_product.cu). Its operands are codes u8 [out·in/2], absmax
// f32 [out·in/block] and x f32 [rows, in], its result is y f32 [rows, out]; the
// call's configuration is that of [PackedProductConfig].
const PackedProduct = "gotune_packed_product"

// PackedProductMaxIn is the longest row of a matrix that the kernel takes: x stands in
// shared memory, of which a T4 has 64 KB for a block of threads.
const PackedProductMaxIn = 14 << 10

// PackedProductConfig is the configuration of a call of [PackedProduct]: x has
// rows rows, the matrix is [out, in] with a scale for each block weights of one row,
// NF4 or FP4. in must be a multiple of block, block a power of two from 32 on.
func PackedProductConfig(rows, out, in, block int, fp4 bool) string {
	typ := 0
	if fp4 {
		typ = 1
	}
	return fmt.Sprintf("%s_%d_%d_%d_%d_%d", PackedProduct, rows, out, in, block, typ)
}

//go:embed kernel/packed_product.cu
var packedProductSource string

var kernels struct {
	sync.Mutex
	done map[string]error // by plugin
}

// UseKernels compiles gotune's kernels for the first GPU (0.3 s) and names them to a
// CUDA plugin that is loaded, so that its programs can call them. Asking again
// returns the first answer. Who gets an error goes on without kernels.
func UseKernels(p Plugin) error {
	kernels.Lock()
	defer kernels.Unlock()
	if kernels.done == nil {
		kernels.done = map[string]error{}
	}
	err, ok := kernels.done[p.Path]
	if !ok {
		if err = useKernels(p); err != nil {
			err = fmt.Errorf("CUDA kernels for plugin %s: %w; XLA's own code does their work, slower", p.Path, err)
		}
		kernels.done[p.Path] = err
	}
	return err
}

func useKernels(p Plugin) error {
	devices, err := Devices()
	if err != nil {
		return err
	}
	if len(devices) == 0 {
		return fmt.Errorf("the CUDA driver shows no GPU")
	}
	source, arch := C.CString(packedProductSource), C.CString(fmt.Sprintf("sm_%d%d", devices[0].Major, devices[0].Minor))
	path, target := C.CString(p.Path), C.CString(PackedProduct)
	defer func() {
		for _, s := range []*C.char{source, arch, path, target} {
			C.free(unsafe.Pointer(s))
		}
	}()
	const size = 4096
	log := (*C.char)(C.calloc(1, size))
	defer C.free(unsafe.Pointer(log))
	var failed []string
	for _, lib := range nvrtcPaths(p) {
		name := C.CString(lib)
		code := C.gt_kernels_compile(name, source, arch, log, size)
		C.free(unsafe.Pointer(name))
		if code == 0 {
			failed = nil
			break
		}
		step := []string{"", "can't be loaded", "can't compile", "has no driver beside it", "made what the driver refuses"}[code]
		failed = append(failed, fmt.Sprintf("%s %s: %s", lib, step, strings.TrimSpace(C.GoString(log))))
	}
	if failed != nil {
		return fmt.Errorf("%s", strings.Join(failed, "; "))
	}
	switch C.gt_kernels_register(path, target) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("it is not loaded")
	case 2:
		return fmt.Errorf("it has no GetPjrtApi")
	case 3:
		return fmt.Errorf("it takes no custom calls")
	}
	return fmt.Errorf("it refused the kernel's name")
}

// KernelError is the driver's number of the last error of a kernel's launch, 0 for none.
func KernelError() int { return int(C.gt_kernels_error()) }

// nvrtcPaths lists where NVRTC can be: beside the plugin as the wheels nvidia-cuda-nvrtc
// lay it out, then by name.
func nvrtcPaths(p Plugin) (paths []string) {
	dir := filepath.Dir(p.Path)
	for range 4 {
		for _, glob := range []string{"nvidia/cu*/lib/libnvrtc.so.[0-9]*", "nvidia/cuda_nvrtc/lib/libnvrtc.so.[0-9]*"} {
			found, err := filepath.Glob(filepath.Join(dir, glob))
			if err != nil {
				continue
			}
			for _, f := range found {
				if !strings.Contains(filepath.Base(f), "alt") {
					paths = append(paths, f)
				}
			}
		}
		dir = filepath.Dir(dir)
	}
	return append(paths, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
}
