package cuda

/*
#cgo LDFLAGS: -ldl
#include "kernels.h"
#include <stdlib.h>
*/
import "C"

import (
	"crypto/sha256"
	_ "embed"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"
)

// The kernels' source is one text: what they share comes first.
var (
	//go:embed kernel/element.cu
	elementSource string
	//go:embed kernel/packed_product.cu
	packedProductSource string
	//go:embed kernel/rms_norm.cu
	rmsNormSource string
	//go:embed kernel/dropped_sum.cu
	droppedSumSource string
)

var kernels struct {
	sync.Mutex
	done map[string]error // by plugin
}

// UseKernels compiles gotune's kernels for the first GPU and names them to a CUDA plugin
// that is loaded, so that its programs can call them. The code is kept with the compiled
// programs ([OpenProgramCache]), since making it takes 2 s. Asking again returns the
// first answer. Who gets an error goes on without kernels.
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
	code, err := kernelCode(p, fmt.Sprintf("sm_%d%d", devices[0].Major, devices[0].Minor))
	if err != nil {
		return err
	}
	bytes := C.CBytes(code)
	path := C.CString(p.Path)
	defer C.free(bytes)
	defer C.free(unsafe.Pointer(path))
	if e := C.gt_kernels_load(bytes); e != 0 {
		return fmt.Errorf("the driver refuses them with error %d", int(e))
	}
	switch C.gt_kernels_register(path) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("it is not loaded")
	case 2:
		return fmt.Errorf("it has no GetPjrtApi")
	case 3:
		return fmt.Errorf("it takes no custom calls")
	}
	return fmt.Errorf("it refused a kernel's name")
}

// kernelCode is the kernels' machine code for an architecture ("sm_90"), compiled or
// kept from an earlier process.
func kernelCode(p Plugin, arch string) ([]byte, error) {
	source := elementSource + packedProductSource + rmsNormSource + droppedSumSource
	libraries := nvrtcPaths(p)
	cache, err := OpenProgramCache(nil)
	if err != nil {
		cache = nil // whose log has said why by now
	}
	key := sha256.Sum256([]byte(strings.Join(append(libraries, "gotune kernels", arch, source), "\n")))
	if cache != nil {
		if code, ok := cache.get(key); ok {
			return code, nil
		}
	}
	code, err := compileKernels(libraries, source, arch)
	if err == nil && cache != nil {
		if e := cache.put(key, code); e != nil {
			cache.log("gotune's kernels: %v", e)
		}
	}
	return code, err
}

// compileKernels takes the first of NVRTC's libraries that can.
func compileKernels(libraries []string, source, arch string) ([]byte, error) {
	text, architecture := C.CString(source), C.CString(arch)
	defer C.free(unsafe.Pointer(text))
	defer C.free(unsafe.Pointer(architecture))
	const size = 4096
	log := (*C.char)(C.calloc(1, size))
	defer C.free(unsafe.Pointer(log))
	var failed []string
	for _, lib := range libraries {
		name := C.CString(lib)
		var n C.size_t
		code := C.gt_kernels_compile(name, text, architecture, log, size, &n)
		C.free(unsafe.Pointer(name))
		if code != nil {
			defer C.free(unsafe.Pointer(code))
			return C.GoBytes(unsafe.Pointer(code), C.int(n)), nil
		}
		failed = append(failed, fmt.Sprintf("%s: %s", lib, strings.TrimSpace(C.GoString(log))))
	}
	return nil, fmt.Errorf("none of NVRTC's libraries compiled them: %s", strings.Join(failed, "; "))
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
