package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/gotune/gotune/cuda"
	"github.com/gotune/gotune/gotune"
	"github.com/gotune/gotune/gotune/internal/backend"
	"github.com/gotune/gotune/gotune/internal/hub"
)

// doctor looks at the machine: devices, plugins, folders, tools.
func (e *Engine) doctor(c *call, _ none) (gotune.DoctorInfo, error) {
	host := cuda.Host()
	h := c.hub()
	d := gotune.DoctorInfo{Version: e.options.Version, Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: host.Cores,
		HostMemory: host.TotalBytes, HostFree: host.AvailableBytes, CacheDir: e.options.CacheDir, CacheFree: diskFree(e.options.CacheDir),
		HubCache: h.CacheDir, HubToken: !h.Token.IsZero()}
	gpus, gpuErr := cuda.Devices()
	for _, g := range gpus {
		d.Devices = append(d.Devices, gotune.Device{Name: g.Name, Capability: fmt.Sprintf("%d.%d", g.Major, g.Minor),
			Driver: fmt.Sprintf("CUDA %d.%d", g.DriverVersion/1000, g.DriverVersion%1000/10), Memory: g.TotalBytes, Free: g.FreeBytes,
			BF16: g.BF16(), FlashAttention: g.FlashAttention()})
	}
	d.Devices = append(d.Devices, gotune.Device{Name: host.Model, Memory: host.TotalBytes, Free: host.AvailableBytes, BF16: host.AMX})
	d.Checks = append(d.Checks, e.checkBackends(&d, len(gpus) > 0, gpuErr)...)
	d.Precision, d.Advice = precision(d.Backend, gpus, host)
	d.Checks = append(d.Checks, checkPrograms(), checkSpace(d.CacheDir, d.CacheFree), checkToken(h), checkTool("gonb", "GOTUNE_GONB", filepath.Join(d.CacheDir, "bin", "gonb")))
	return d, nil
}

// checkBackends opens what there is, fills in d.Backend and d.Plugin, and says
// how each backend does.
func (e *Engine) checkBackends(d *gotune.DoctorInfo, gpu bool, gpuErr error) []gotune.Finding {
	var out []gotune.Finding
	for _, name := range []string{backend.CUDA, backend.CPU, backend.Go} {
		f := gotune.Finding{What: "backend " + name}
		if name == backend.CUDA && !gpu {
			f.Found, f.OK = "no GPU: "+errText(gpuErr), true
			f.Next = "on Colab choose Runtime > Change runtime type > T4 GPU"
			out = append(out, f)
			continue
		}
		b, err := backend.Open(name)
		if err != nil {
			f.Found, f.Next = firstLine(err.Error()), "run scripts/setup, or: gotune plugin fetch "+strings.TrimPrefix(name, "xla:")
			out = append(out, f)
			continue
		}
		p := backend.Describe(b).Plugin
		f.OK, f.Found = true, "GoMLX's own, slower"
		if p.Path != "" {
			f.Found = "PJRT plugin " + p.Version + ", from the " + p.Origin
		}
		if d.Backend == "" {
			d.Backend = name
			if p.Path != "" {
				d.Plugin = p.Path + " (" + p.Version + ")"
			}
		}
		out = append(out, f)
	}
	return out
}

// precision is what ComputeDType "auto" takes on a backend, and the advice on it.
func precision(name string, gpus []cuda.Device, host cuda.HostInfo) (dtype, advice string) {
	switch {
	case name == backend.CUDA && gpus[0].BF16():
		return "bfloat16", fmt.Sprintf("%s supports bfloat16: training takes it instead of float16, which needs no loss scaling", gpus[0].Name)
	case name == backend.CUDA:
		return "float16", fmt.Sprintf("%s has no bfloat16 units: training takes float16 with a dynamic loss scale", gpus[0].Name)
	case host.AMX:
		return "float32", "this CPU has bfloat16 tiles (AMX): ComputeDType \"bfloat16\" is faster here; \"auto\" takes float32, which is exact"
	}
	return "float32", "no GPU: training takes float32 on the CPU, where 16-bit types are slower"
}

// checkPrograms looks at the cache of compiled programs. Without one all works, slower.
func checkPrograms() gotune.Finding {
	f := gotune.Finding{What: "compiled programs", OK: true}
	c, err := cuda.OpenProgramCache(nil)
	if err != nil {
		f.OK, f.Found, f.Next = false, firstLine(err.Error()), "each process compiles its programs until the folder can be used; "+cuda.EnvPrograms+" names another"
		return f
	}
	if c == nil {
		f.Found, f.Next = "not kept: "+cuda.EnvPrograms+" is off", "unset "+cuda.EnvPrograms+" so that later processes find them"
		return f
	}
	n, bytes, err := c.Size()
	if err != nil {
		f.OK, f.Found = false, firstLine(err.Error())
		return f
	}
	f.Found = fmt.Sprintf("%d of %s at most %s in %s; %s=off turns it off", n, size(bytes), size(cuda.ProgramCacheBytes), c.Dir(), cuda.EnvPrograms)
	return f
}

func checkSpace(dir string, free int64) gotune.Finding {
	f := gotune.Finding{What: "disk of the cache", Found: fmt.Sprintf("%.1f GB free at %s", float64(free)/1e9, dir), OK: free > 2e9}
	if !f.OK {
		f.Next = "free some space, or point XDG_CACHE_HOME to another disk"
	}
	return f
}

func checkToken(h *hub.Client) gotune.Finding {
	f := gotune.Finding{What: "Hub token", Found: "there is one", OK: true}
	if h.Token.IsZero() {
		f.Found, f.Next = "none: public models and data sets can be read, nothing can be pushed", "set HF_TOKEN (%env HF_TOKEN=… in a cell) to push"
	}
	return f
}

// checkTool looks for a program by its environment variable, in the cache, on PATH.
func checkTool(name, env, cached string) gotune.Finding {
	f := gotune.Finding{What: name, OK: true}
	if p := os.Getenv(env); p != "" {
		f.Found = p
		return f
	}
	if _, err := os.Stat(cached); err == nil {
		f.Found = cached
		return f
	}
	p, err := exec.LookPath(name)
	f.Found, f.OK = p, err == nil
	if err != nil {
		f.Found, f.Next = "not found", "run scripts/setup: notebooks need it, the command gotune does not"
	}
	return f
}

// diskFree is the room on dir's disk, or on that of the first parent that exists.
func diskFree(dir string) int64 {
	for {
		var st syscall.Statfs_t
		err := syscall.Statfs(dir, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize
		}
		if parent := filepath.Dir(dir); errors.Is(err, syscall.ENOENT) && parent != dir {
			dir = parent
			continue
		}
		return 0
	}
}

func errText(err error) string {
	if err == nil {
		return "the driver shows none"
	}
	return firstLine(err.Error())
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
