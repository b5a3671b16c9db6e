package cuda

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Kind is the kind of device that a PJRT plugin drives.
type Kind string

// The kinds of plugin.
const (
	CPU  Kind = "cpu"
	CUDA Kind = "cuda"
)

// ErrNoPlugin is returned, wrapped, by [Find] when no plugin of the kind is on
// the machine. Callers branch on it to fall back or to fetch one.
var ErrNoPlugin = errors.New("no PJRT plugin")

// Plugin is a PJRT plugin on this machine.
type Plugin struct {
	Kind    Kind
	Path    string // absolute path of the shared library
	Version string // "0.11.2", or "unpinned" for one that the user named
	SHA256  string // hex; empty for a plugin that gotune did not fetch
	Origin  string // how it was found: "cache", "environment", "python"
	DataDir string // CUDA only: folder with nvvm/libdevice for XLA, empty if unknown
}

// The pinned CPU plugin: the one file that gotune uses of the wheel
// lammps-jax-pjrt-cpu, and both sums.
const (
	cpuWheel       = "lammps-jax-pjrt-cpu"
	cpuVersion     = "0.11.2"
	cpuWheelSHA256 = "1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1"
	cpuLibrary     = "pjrt_c_api_cpu_plugin.so"
	cpuSHA256      = "ad1309ac822b1b24d51b7f9947c7c9fa9ef5d67f390584cbc3d1fa2428fed9c2"
)

// EnvCPU and EnvCUDA name environment variables that hold the absolute path of
// a plugin to use instead of the one that [Find] would choose.
const (
	EnvCPU  = "GOTUNE_PJRT_CPU"
	EnvCUDA = "GOTUNE_PJRT_CUDA"
)

// CacheDir is the folder in which gotune keeps what it fetches and builds:
// $XDG_CACHE_HOME/gotune, by default ~/.cache/gotune.
func CacheDir() (string, error) {
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache folder: %w; set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(d, "gotune"), nil
}

// Find returns the plugin of a kind: the one that the environment names, else
// gotune's own in the cache folder (its sha256 is checked at every call, about
// 0.15 s), else, for CUDA, one that is installed for Python. It returns an error
// that wraps [ErrNoPlugin] when there is none, and a plain error when there is one
// that must not be used.
func Find(kind Kind) (Plugin, error) {
	env := map[Kind]string{CPU: EnvCPU, CUDA: EnvCUDA}[kind]
	if env == "" {
		return Plugin{}, fmt.Errorf("find plugin: kind %q, want %q or %q", kind, CPU, CUDA)
	}
	if p := os.Getenv(env); p != "" {
		if _, err := os.Stat(p); err != nil || !filepath.IsAbs(p) {
			return Plugin{}, fmt.Errorf("find plugin: %s=%q: want the absolute path of a PJRT plugin; correct or unset it", env, p)
		}
		return Plugin{Kind: kind, Path: p, Version: "unpinned", Origin: "environment", DataDir: cudaDataDir(p)}, nil
	}
	if kind == CPU {
		return findCPU()
	}
	return findCUDA()
}

func findCPU() (Plugin, error) {
	path, err := cpuPath()
	if err != nil {
		return Plugin{}, err
	}
	sum, err := fileSHA256(path)
	if errors.Is(err, os.ErrNotExist) {
		return Plugin{}, fmt.Errorf("%w for the CPU at %s; run scripts/setup, or: gotune plugin fetch cpu", ErrNoPlugin, path)
	} else if err != nil {
		return Plugin{}, fmt.Errorf("find plugin: %w", err)
	}
	if sum != cpuSHA256 {
		return Plugin{}, fmt.Errorf("find plugin: %s has sha256 %s, want %s: the file is damaged or was changed; delete it and run: gotune plugin fetch cpu", path, sum, cpuSHA256)
	}
	return Plugin{Kind: CPU, Path: path, Version: cpuVersion, SHA256: sum, Origin: "cache"}, nil
}

// cpuPath is where the pinned CPU plugin lies in the cache folder.
func cpuPath() (string, error) {
	d, err := CacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(d, "pjrt", "cpu-"+cpuVersion, cpuLibrary), nil
}

// findCUDA looks for JAX's CUDA plugin in the site-packages of the Python
// environments that a user of this machine is likely to have.
func findCUDA() (Plugin, error) {
	var roots []string
	if d, err := CacheDir(); err == nil {
		for _, r := range cudaReleases {
			path := filepath.Join(d, "pjrt", r.dir(), r.library())
			sum, err := fileSHA256(path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil || sum != r.soSHA256 {
				return Plugin{}, fmt.Errorf("find plugin: %s has sha256 %s, want %s: the file is damaged or was changed; delete its folder and run: gotune plugin fetch cuda", path, sum, r.soSHA256)
			}
			return Plugin{Kind: CUDA, Path: path, Version: cudaVersion, SHA256: sum, Origin: "cache", DataDir: cudaDataDir(path)}, nil
		}
		roots = append(roots, filepath.Join(d, "venv-*", "lib", "python3*", "site-packages"))
	}
	for _, v := range []string{os.Getenv("VIRTUAL_ENV"), "/opt/*/.venv", "/opt/*venv*", "/usr/local", "/usr"} {
		if v != "" {
			roots = append(roots, filepath.Join(v, "lib", "python3*", "site-packages"), filepath.Join(v, "lib", "python3*", "dist-packages"))
		}
	}
	var found []string
	for _, r := range roots {
		for _, sub := range []string{"jax_plugins/xla_cuda*/xla_cuda_plugin.so", "xla_cuda_plugin.so"} {
			m, _ := filepath.Glob(filepath.Join(r, sub))
			sort.Sort(sort.Reverse(sort.StringSlice(m))) // cuda13 before cuda12
			found = append(found, m...)
		}
	}
	if len(found) == 0 {
		return Plugin{}, fmt.Errorf("%w for CUDA in %s; run: gotune plugin fetch cuda, or set %s", ErrNoPlugin, strings.Join(roots, ", "), EnvCUDA)
	}
	return Plugin{Kind: CUDA, Path: found[0], Version: "unpinned", Origin: "python", DataDir: cudaDataDir(found[0])}, nil
}

// cudaDataDir is the folder of CUDA files beside a plugin of a Python wheel:
// site-packages/nvidia/cu13, or nvidia/cuda_nvcc for CUDA 12.
func cudaDataDir(plugin string) string {
	for d := filepath.Dir(plugin); len(d) > 1; d = filepath.Dir(d) {
		for _, sub := range []string{"nvidia/cu13", "nvidia/cuda_nvcc"} {
			if st, err := os.Stat(filepath.Join(d, sub)); err == nil && st.IsDir() {
				return filepath.Join(d, sub)
			}
		}
	}
	return ""
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, f, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
