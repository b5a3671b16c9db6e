// Package backend opens the GoMLX backends that gotune's engine computes on:
//
//	xla:cuda  XLA on an NVIDIA GPU, T4 (sm_75) and newer
//	xla:cpu   XLA on the CPU
//	go        GoMLX's own backend in Go: slower, but it needs no plugin
//
// XLA compiles a program once for all processes of a machine: package cuda keeps what
// it compiled in the user's cache folder (GOTUNE_PROGRAM_CACHE names another, or is
// "off").
//
// A process opens a PJRT plugin once; [Open] returns the same backend for the
// same name from then on.
package backend

import (
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/go-xla/compute/xla"

	"github.com/gotune/gotune/cuda"
)

// Names of the backends. Auto takes the first that works, in the order CUDA,
// CPU, Go.
const (
	Auto = "auto"
	CUDA = "xla:cuda"
	CPU  = "xla:cpu"
	Go   = "go"
)

// EnvMemoryFraction names an environment variable with a number in (0, 1]: the
// share of a GPU's memory that the backend takes as its pool when it starts.
// Unset, memory is taken as it is needed, up to 95 %. 0.104 of an H200 is a T4's 14.5 GiB.
const EnvMemoryFraction = "GOTUNE_MEMORY_FRACTION"

// EnvCalls names an environment variable: "awaited" makes each call of a program on
// a GPU return when its work is done, as to look for the call that fails. Unset, calls
// return once their work is queued, since the GPU idles between two calls that are
// awaited: a step of eight layers of 7B shapes takes 55 ms queued and 82 awaited. On a
// CPU calls are always awaited: GoMLX reads results there in place, without asking
// whether they are ready.
const EnvCalls = "GOTUNE_CALLS"

// Info is what is known of an open backend.
type Info struct {
	Name   string       // CUDA, CPU or Go
	Plugin cuda.Plugin  // zero for Go
	GPU    *cuda.Device // nil unless Name is CUDA
	Calls  string       // "queued", or "awaited" and why where queueing failed
	Cache  string       // folder of compiled programs, or why there is none; "" for Go
}

type opened struct {
	compute compute.Backend
	info    Info
	client  *cuda.Client       // nil for Go
	cache   *cuda.ProgramCache // nil without one
}

var (
	mu   sync.Mutex
	open = map[string]*opened{}
)

func init() { xla.EnableAutoInstall(false) } // plugins come from package cuda alone

// Open returns the backend of that name. For [Auto] it returns the first that
// opens, and an error only if even [Go] does not.
func Open(name string) (compute.Backend, error) {
	mu.Lock()
	defer mu.Unlock()
	switch name {
	case "", Auto:
		return openAuto()
	case CUDA, CPU, Go:
		return openNamed(name)
	}
	return nil, fmt.Errorf("open backend: %q, want %s, %s, %s or %s", name, Auto, CUDA, CPU, Go)
}

// Describe returns what is known of a backend that [Open] returned; for another
// it knows the name alone.
func Describe(b compute.Backend) Info {
	mu.Lock()
	defer mu.Unlock()
	for _, o := range open {
		if o.compute == b {
			return o.info
		}
	}
	return Info{Name: b.Name()}
}

// poolShare is the most of a GPU's memory that the pool may grow to. XLA's own default,
// three quarters, leaves 3.7 GiB of a T4 unused; the rest is for the CUDA context and
// the libraries.
const poolShare = "0.95"

// Memory is the state of a backend's device memory. Only a GPU has one. Where other
// processes hold so much that the pool can't grow to its limit, the limit is what it
// can grow to.
func Memory(b compute.Backend) (cuda.MemoryStats, error) {
	mu.Lock()
	defer mu.Unlock()
	for _, o := range open {
		if o.compute != b || o.client == nil {
			continue
		}
		m, err := o.client.Memory()
		if err != nil || m.Pool == 0 || o.info.GPU == nil || os.Getenv(EnvMemoryFraction) != "" {
			return m, err
		}
		if d, err := cuda.Devices(); err == nil && len(d) > 0 && d[0].FreeBytes > 0 {
			m.Limit = min(m.Limit, m.Pool+d[0].FreeBytes)
		}
		return m, nil
	}
	return cuda.MemoryStats{}, fmt.Errorf("memory of the device: backend %s has no account of it", b.Name())
}

// Programs counts the compiled programs that a backend's cache had and those that it
// had not, zeros without a cache.
func Programs(b compute.Backend) (found, missed int) {
	mu.Lock()
	defer mu.Unlock()
	for _, o := range open {
		if o.compute == b && o.cache != nil {
			return o.cache.Counts()
		}
	}
	return 0, 0
}

func openAuto() (compute.Backend, error) {
	var errs []error
	for _, n := range []string{CUDA, CPU, Go} {
		if n == CUDA {
			if d, err := cuda.Devices(); err != nil || len(d) == 0 {
				continue
			}
		}
		b, err := openNamed(n)
		if err == nil {
			return b, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func openNamed(name string) (compute.Backend, error) {
	if o := open[name]; o != nil {
		return o.compute, nil
	}
	o := &opened{info: Info{Name: name, Calls: awaited}}
	var err error
	switch name {
	case CUDA:
		err = o.openCUDA()
	case CPU:
		err = o.openCPU()
	case Go:
		// Operations side by side have been seen to wait for each other for ever, on two cores;
		// a product uses all cores by itself.
		o.compute, err = gobackend.New("ops_sequential")
	}
	if err != nil {
		return nil, fmt.Errorf("open backend %s: %w", name, err)
	}
	open[name] = o
	return o.compute, nil
}

func (o *opened) openCPU() (err error) {
	if o.info.Plugin, err = cuda.Find(cuda.CPU); err != nil {
		return err
	}
	if err = o.attach(); err != nil {
		return err
	}
	o.compute, err = xla.New(o.info.Plugin.Path)
	return err
}

// attach puts gotune's entries into the plugin's table, with the cache of compiled
// programs that the environment asks for. Without a cache all works, slower.
func (o *opened) attach() (err error) {
	cache, err := cuda.OpenProgramCache(func(line string) { log.Print(line) })
	switch {
	case err != nil:
		o.info.Cache = "none: " + err.Error()
		log.Print("compiled programs are not kept: ", err)
	case cache == nil:
		o.info.Cache = "none: " + cuda.EnvPrograms + " is off"
	default:
		o.info.Cache = cache.Dir()
	}
	o.cache = cache
	o.client, err = cuda.Attach(o.info.Plugin, cache)
	return err
}

// What calls of programs do.
const queued, awaited = "queued", "awaited"

// queueCalls follows EnvCalls. Calls that can't be queued are slower, not wrong.
func (o *opened) queueCalls() {
	if os.Getenv(EnvCalls) == awaited {
		return
	}
	if err := cuda.QueueCalls(o.info.Plugin.Path); err != nil {
		o.info.Calls = awaited + ": " + err.Error()
		return
	}
	o.info.Calls = queued
}

func (o *opened) openCUDA() (err error) {
	devices, err := cuda.Devices()
	if err != nil {
		return fmt.Errorf("%w; use %s, or choose a runtime with a GPU", err, CPU)
	}
	if len(devices) == 0 {
		return fmt.Errorf("the CUDA driver shows no GPU; use %s", CPU)
	}
	o.info.GPU = &devices[0]
	if o.info.Plugin, err = cuda.Find(cuda.CUDA); err != nil {
		return err
	}
	// Triton's GEMMs are no faster at these shapes, and leaving them out halves compilation.
	// Products that share an input stay apart: of merged ones XLA copies each part out.
	flags := []string{"--xla_gpu_enable_triton_gemm=false", "--xla_gpu_dot_merger_threshold_mb=0"}
	if o.info.Plugin.DataDir != "" {
		flags = append(flags, "--xla_gpu_cuda_data_dir="+o.info.Plugin.DataDir)
	}
	if err := addXLAFlags(flags...); err != nil {
		return err
	}
	if err := os.Setenv("GOPJRT_CUDA_CHECKS", "0"); err != nil { // package cuda has looked already
		return err
	}
	if err := o.attach(); err != nil {
		return err
	}
	config := o.info.Plugin.Path + ",preallocate=false,memory_fraction=" + poolShare
	if f := os.Getenv(EnvMemoryFraction); f != "" {
		config = o.info.Plugin.Path + ",preallocate=true,memory_fraction=" + f
	}
	if o.compute, err = xla.New(config); err == nil {
		o.queueCalls()
	}
	return err
}

// addXLAFlags appends the flags that XLA_FLAGS does not set yet, so that a
// user's own setting wins.
func addXLAFlags(flags ...string) error {
	have := os.Getenv("XLA_FLAGS")
	for _, f := range flags {
		name, _, _ := strings.Cut(f, "=")
		if !strings.Contains(have, name+"=") {
			have = strings.TrimSpace(have + " " + f)
		}
	}
	return os.Setenv("XLA_FLAGS", have)
}
