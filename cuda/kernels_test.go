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

func TestTrainingConfigs(t *testing.T) {
	m := Masks{Lanes: []int{0, 2, 1}, Threshold: 6554, Scale: 1.5, From: true}
	for _, c := range []struct{ got, want string }{
		{RMSNormConfig(64, 256, false, 0.5, true, Masks{}), "gotune_rms_norm_64_256_0_1056964608_1_0_0_0_0_0"},
		{RMSNormConfig(64, 256, true, 0.5, false, m), "gotune_rms_norm_64_256_1_1056964608_0_3_288_6554_1069547520_1"},
		{RMSNormBackwardConfig(64, 256, false, 0.5), "gotune_rms_norm_backward_64_256_0_1056964608"},
		{DroppedSumConfig(64, 256, 32, true, 3, m), "gotune_dropped_sum_64_256_32_1_3_288_6554_1069547520_1"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
