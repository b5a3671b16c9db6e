package cuda

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		name             string
		major, minor     int
		bf16, flash, fp8 bool
	}{
		{"T4", 7, 5, false, false, false},
		{"A100", 8, 0, true, true, false},
		{"L4", 8, 9, true, true, true},
		{"H200", 9, 0, true, true, true},
	} {
		d := Device{Name: tt.name, Major: tt.major, Minor: tt.minor}
		if d.BF16() != tt.bf16 || d.FlashAttention() != tt.flash || d.FP8() != tt.fp8 {
			t.Errorf("%v: bf16 %v flash %v fp8 %v, want %v %v %v", d, d.BF16(), d.FlashAttention(), d.FP8(), tt.bf16, tt.flash, tt.fp8)
		}
	}
}

// The rate is about half of the data sheets' 16-bit peaks: 65 TFLOP/s of a T4, 312 of an
// A100, 989 of an H200.
func TestProductRate(t *testing.T) {
	for _, tt := range []struct {
		d    Device
		peak float64
	}{{Device{Major: 7, Minor: 5, SMs: 40}, 65e12}, {Device{Major: 8, SMs: 108}, 312e12}, {Device{Major: 9, SMs: 132}, 989e12}} {
		if share := tt.d.ProductRate() / tt.peak; share < 0.4 || share > 0.6 {
			t.Errorf("%v: %.2f of the peak", tt.d, share)
		}
	}
	if r := (Device{Major: 12, SMs: 100}).ProductRate(); r <= 0 {
		t.Errorf("an unknown GPU: %g", r)
	}
}

// Devices must answer on every machine: with devices, or with ErrNoDriver.
func TestDevices(t *testing.T) {
	ds, err := Devices()
	if err != nil && !errors.Is(err, ErrNoDriver) {
		t.Fatal(err)
	}
	for _, d := range ds {
		if d.Name == "" || d.TotalBytes <= 0 || d.Major < 1 || d.SMs < 1 {
			t.Errorf("device %+v lacks facts", d)
		}
	}
}

func TestFindInEmptyCache(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv(EnvCPU, "")
	if _, err := Find(CPU); !errors.Is(err, ErrNoPlugin) || !strings.Contains(err.Error(), "gotune plugin fetch cpu") {
		t.Errorf("Find = %v, want ErrNoPlugin and the command that helps", err)
	}
}

func TestFindRefusesChangedPlugin(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv(EnvCPU, "")
	p := filepath.Join(cache, "gotune", "pjrt", "cpu-"+cpuVersion, cpuLibrary)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("not a plugin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(CPU); err == nil || errors.Is(err, ErrNoPlugin) || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("Find = %v, want an error about the sha256", err)
	}
}

func TestFindByEnvironment(t *testing.T) {
	site := t.TempDir()
	p := filepath.Join(site, "jax_plugins", "xla_cuda13", "xla_cuda_plugin.so")
	for _, d := range []string{filepath.Dir(p), filepath.Join(site, "nvidia", "cu13")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(p, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvCUDA, p)
	got, err := Find(CUDA)
	if err != nil || got.Path != p || got.DataDir != filepath.Join(site, "nvidia", "cu13") {
		t.Errorf("Find = %+v, %v", got, err)
	}
	t.Setenv(EnvCUDA, "relative.so")
	if _, err := Find(CUDA); err == nil {
		t.Error("Find took a relative path")
	}
}

func TestHost(t *testing.T) {
	var h HostInfo
	parseCPUInfo(strings.NewReader("processor : 0\nmodel name\t: Chip 9\nflags\t\t: fpu avx512f amx_bf16\n"), &h)
	parseMemInfo(strings.NewReader("MemTotal:       1024 kB\nMemFree: 1 kB\nMemAvailable:    512 kB\n"), &h)
	if want := (HostInfo{Model: "Chip 9", TotalBytes: 1 << 20, AvailableBytes: 1 << 19, AVX512: true, AMX: true}); h != want {
		t.Errorf("got %+v, want %+v", h, want)
	}
	if h := Host(); h.Cores < 1 || h.TotalBytes <= 0 {
		t.Errorf("Host() = %+v", h)
	}
}

// A driver runs plugins of its own CUDA and of older ones.
func TestReleaseFor(t *testing.T) {
	for driver, want := range map[int]int{0: 13, 12040: 12, 12080: 12, 13000: 13, 13010: 13} {
		if got := releaseFor(driver).major; got != want {
			t.Errorf("releaseFor(%d) is of CUDA %d, want %d", driver, got, want)
		}
	}
}

// A CUDA plugin of gotune's own cache is checked as the CPU's is.
func TestFindRefusesChangedCUDAPlugin(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv(EnvCUDA, "")
	p := filepath.Join(cache, "gotune", "pjrt", cudaReleases[0].dir(), cudaReleases[0].library())
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("not a plugin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(CUDA); err == nil || errors.Is(err, ErrNoPlugin) || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("Find = %v, want an error about the sha256", err)
	}
}
