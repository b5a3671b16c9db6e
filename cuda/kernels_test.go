package cuda

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// NVRTC is looked for beside the plugin, then by name.
func TestNVRTCPaths(t *testing.T) {
	site := t.TempDir()
	for _, f := range []string{"jax_plugins/xla_cuda13/xla_cuda_plugin.so", "nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cu13/lib/libnvrtc.alt.so.13", "nvidia/cu13/lib/libnvrtc-builtins.so.13.0"} {
		path := filepath.Join(site, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := nvrtcPaths(Plugin{Path: filepath.Join(site, "jax_plugins/xla_cuda13/xla_cuda_plugin.so")})
	if want := filepath.Join(site, "nvidia/cu13/lib/libnvrtc.so.13"); len(got) != 4 || got[0] != want || got[1] != "libnvrtc.so.13" {
		t.Errorf("%v, want %s and three names", got, want)
	}
}

// Where kernels can't be had the error says so and what happens then.
func TestUseKernelsRefused(t *testing.T) {
	p := Plugin{Path: filepath.Join(t.TempDir(), "plugin.so")}
	first, second := UseKernels(p), UseKernels(p)
	if first == nil || !strings.Contains(first.Error(), p.Path) || !strings.Contains(first.Error(), "XLA's own code") {
		t.Errorf("a plugin that is not loaded: %v", first)
	}
	if second != first {
		t.Errorf("asked again: %v, want the first answer %v", second, first)
	}
}

func TestPackedProductConfig(t *testing.T) {
	if got, want := PackedProductConfig(2, 4096, 11008, 64, true), PackedProduct+"_2_4096_11008_64_1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
