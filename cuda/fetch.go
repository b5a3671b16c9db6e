package cuda

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Fetch downloads the plugin of a kind into the cache folder and returns it. A
// plugin that is there and whole is returned at once.
//
// The download is pip's (`python3 -m pip`), so a user's package index, proxy and
// certificates apply. The plugin wheel's sha256 and the library's own are checked
// before it is put in place by a rename. NVIDIA's libraries beside a CUDA plugin are
// the versions that pip finds for it. log gets one line for each step.
func Fetch(ctx context.Context, kind Kind, log func(string)) (Plugin, error) {
	if p, err := Find(kind); err == nil {
		return p, nil
	}
	cache, err := CacheDir()
	if err != nil {
		return Plugin{}, err
	}
	dir := filepath.Join(cache, "pjrt")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, ".fetch-*")
	if err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	defer os.RemoveAll(tmp)
	if kind == CUDA {
		return fetchCUDA(ctx, dir, tmp, log)
	}
	return fetchCPU(ctx, dir, tmp, log)
}

func fetchCPU(ctx context.Context, dir, tmp string, log func(string)) (Plugin, error) {
	log(fmt.Sprintf("downloading %s %s (63 MB)", cpuWheel, cpuVersion))
	req := filepath.Join(tmp, "requirements.txt")
	line := fmt.Sprintf("%s==%s --hash=sha256:%s\n", cpuWheel, cpuVersion, cpuWheelSHA256)
	if err := os.WriteFile(req, []byte(line), 0o644); err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	if err := pip(ctx, "download", "--no-deps", "--require-hashes", "--only-binary=:all:", "-d", tmp, "-r", req); err != nil {
		return Plugin{}, err
	}
	wheels, _ := filepath.Glob(filepath.Join(tmp, "*.whl"))
	if len(wheels) != 1 {
		return Plugin{}, fmt.Errorf("fetch plugin: pip left %d wheels, want 1", len(wheels))
	}
	lib := filepath.Join(tmp, "cpu", cpuLibrary)
	log("unpacking " + cpuLibrary)
	if err := unzipFile(wheels[0], cpuLibrary, lib); err != nil {
		return Plugin{}, err
	}
	sum, err := fileSHA256(lib)
	if err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	if sum != cpuSHA256 {
		return Plugin{}, fmt.Errorf("fetch plugin: %s in the wheel has sha256 %s, want %s", cpuLibrary, sum, cpuSHA256)
	}
	final := filepath.Join(dir, "cpu-"+cpuVersion)
	if err := os.MkdirAll(final, 0o755); err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	if err := os.Rename(lib, filepath.Join(final, cpuLibrary)); err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	return Find(CPU)
}

// A cudaRelease is a CUDA plugin that gotune knows: its wheel, both sums, and the
// wheels with NVIDIA's libraries that it loads.
type cudaRelease struct {
	major                 int
	wheel                 string
	wheelSHA256, soSHA256 string
	libraries             []string
}

const cudaVersion = "0.11.2"

var cudaReleases = []cudaRelease{
	{13, "jax-cuda13-pjrt", "e5ff589d43064913bb74027682d89639c7ea48f9f81c2bae6fc75117e913f93e", "43d3efd6fd43d8a5d9aa67176e830d81e4ad5fc19fda4ad09cdcc4aebd9f3920",
		[]string{"nvidia-cublas>=13", "nvidia-cuda-cupti>=13", "nvidia-cuda-nvcc>=13", "nvidia-cuda-runtime>=13", "nvidia-cudnn-cu13>=9.12,<10", "nvidia-cufft>=12",
			"nvidia-cusolver>=12", "nvidia-cusparse>=12.6", "nvidia-nccl-cu13>=2.27", "nvidia-nvjitlink>=13", "nvidia-cuda-nvrtc>=13", "nvidia-nvshmem-cu13>=3.3", "nvidia-nvvm"}},
	{12, "jax-cuda12-pjrt", "2133b3afc63307c016ae4980f166b2b3de199759363ead74f7d550eaae953463", "ed4d60d77427548709ca0b5a8e04c1b24cc0091452bb564e4aea01e03ae7eac1",
		[]string{"nvidia-cublas-cu12>=12.1", "nvidia-cuda-cupti-cu12>=12.1", "nvidia-cuda-nvcc-cu12>=12.6", "nvidia-cuda-runtime-cu12>=12.1", "nvidia-cudnn-cu12>=9.10,<10",
			"nvidia-cufft-cu12>=11", "nvidia-cusolver-cu12>=11.4", "nvidia-cusparse-cu12>=12.1", "nvidia-nccl-cu12>=2.18", "nvidia-nvjitlink-cu12>=12.1", "nvidia-cuda-nvrtc-cu12>=12.1",
			"nvidia-nvshmem-cu12>=3.2"}},
}

// dir is where the release lies in the cache's pjrt folder, laid out as a
// Python site-packages, in which the plugin finds NVIDIA's libraries.
func (r cudaRelease) dir() string { return fmt.Sprintf("cuda%d-%s", r.major, cudaVersion) }

// library is the plugin in dir.
func (r cudaRelease) library() string {
	return filepath.Join("jax_plugins", fmt.Sprintf("xla_cuda%d", r.major), "xla_cuda_plugin.so")
}

// releaseFor is the release that a driver can run: the newest whose CUDA is not
// newer than the driver's. Without a driver it is the newest.
func releaseFor(driverVersion int) cudaRelease {
	if driverVersion > 0 && driverVersion < 13000 {
		return cudaReleases[1]
	}
	return cudaReleases[0]
}

func fetchCUDA(ctx context.Context, dir, tmp string, log func(string)) (Plugin, error) {
	driver := 0
	if d, err := Devices(); err == nil && len(d) > 0 {
		driver = d[0].DriverVersion
	}
	r := releaseFor(driver)
	log(fmt.Sprintf("downloading %s %s", r.wheel, cudaVersion))
	req := filepath.Join(tmp, "requirements.txt")
	if err := os.WriteFile(req, []byte(fmt.Sprintf("%s==%s --hash=sha256:%s\n", r.wheel, cudaVersion, r.wheelSHA256)), 0o644); err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	site := filepath.Join(tmp, "site")
	if err := pip(ctx, "install", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile", "--target", site, "-r", req); err != nil {
		return Plugin{}, err
	}
	sum, err := fileSHA256(filepath.Join(site, r.library()))
	if err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	if sum != r.soSHA256 {
		return Plugin{}, fmt.Errorf("fetch plugin: the library in %s has sha256 %s, want %s", r.wheel, sum, r.soSHA256)
	}
	log("downloading NVIDIA's libraries (about 2 GB)")
	if err := pip(ctx, append([]string{"install", "--only-binary=:all:", "--no-compile", "--target", site}, r.libraries...)...); err != nil {
		return Plugin{}, err
	}
	final := filepath.Join(dir, r.dir())
	if err := os.RemoveAll(final); err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	if err := os.Rename(site, final); err != nil {
		return Plugin{}, fmt.Errorf("fetch plugin: %w", err)
	}
	return Find(CUDA)
}

// pip runs the pip of the first python3 on PATH.
func pip(ctx context.Context, args ...string) error {
	args = append([]string{"-m", "pip", "--disable-pip-version-check", "--no-input", "-q"}, args...)
	out, err := exec.CommandContext(ctx, "python3", args...).CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	return fmt.Errorf("fetch plugin: python3 -m pip: %w: %s; check that Python 3.10 or newer with pip is installed and the network is up", err, text)
}

// unzipFile writes the one member of archive whose base name is name to dst.
func unzipFile(archive, name, dst string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("fetch plugin: %s: %w", filepath.Base(archive), err)
	}
	defer z.Close()
	for _, m := range z.File {
		if filepath.Base(m.Name) == name {
			return unzipMember(m, dst)
		}
	}
	return fmt.Errorf("fetch plugin: %s holds no %s", filepath.Base(archive), name)
}

func unzipMember(m *zip.File, dst string) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return fmt.Errorf("fetch plugin: %w", err)
	}
	r, err := m.Open()
	if err != nil {
		return fmt.Errorf("fetch plugin: %w", err)
	}
	defer r.Close()
	w, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return fmt.Errorf("fetch plugin: %w", err)
	}
	if _, err = io.Copy(w, io.LimitReader(r, int64(m.UncompressedSize64))); err == nil {
		err = w.Sync()
	}
	if e := w.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("fetch plugin: %s: %w", dst, err)
	}
	return nil
}
