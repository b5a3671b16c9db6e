package kernelext

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The status shows the GPUs that nvidia-smi knows, and who fills them up.
func TestStatusOfGPUs(t *testing.T) {
	dir := t.TempDir()
	script := `#!/bin/sh
case $1 in
--query-gpu=*) printf '%s\n' 'GPU-aa, Tesla <T4>, 15360, 15000, 44, 30.00, 70.00, 3' 'GPU-bb, Old GPU, [N/A], [N/A], [N/A], 12.00, [N/A], [N/A]';;
--query-compute-apps=*) echo "GPU-aa, 1, some trainer, 14800";;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := startKernel(t, startOptions{env: []string{"PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH")}})
	waitEngine(t, c.socket)
	text, html := shownText(t, c.run("%gotune status"))
	for _, want := range []string{"Other programs hold 14.5 GiB of the 15.0 GiB of Tesla <T4>: a model will not fit until they end.", "GPU ",
		"3 % busy, 44 °C, 30 of 70 W", "14.6 GiB of 15.0 GiB used, 360.0 MiB free", "another program", "some trainer, process 1", "14.5 GiB", "Old GPU", "12 W"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(html, "<T4>") {
		t.Errorf("the name is not escaped: %s", html)
	}
}
