package kernelext

import (
	"os"
	"path/filepath"
	"strings"
)

// usesWasm says whether a cell has GoNB's magic %wasm.
func usesWasm(code string) bool {
	for line := range strings.SplitSeq(code, "\n") {
		words := strings.Fields(strings.TrimPrefix(strings.TrimPrefix(line, commentPrefix), "%"))
		if strings.HasPrefix(strings.TrimPrefix(line, commentPrefix), "%") && len(words) > 0 && words[0] == "wasm" {
			return true
		}
	}
	return false
}

// prepareWasm makes %wasm work with Go 1.24 and later, before the first cell that has it. There wasm_exec.js is in
// GOROOT/lib/wasm; GoNB looks for it in GOROOT/misc/wasm, fails after it has made its folder below Jupyter's, and
// does not look again. So it is let fail once, out of sight, and the file is put into that folder.
func (k *kernel) prepareWasm(c *cell) {
	if k.wasmTried {
		return
	}
	k.wasmTried = true
	if _, err := os.Stat(filepath.Join(k.env.GOROOT, "misc", "wasm", "wasm_exec.js")); err == nil {
		return
	}
	js, err := os.ReadFile(filepath.Join(k.env.GOROOT, "lib", "wasm", "wasm_exec.js"))
	if err != nil {
		return
	}
	root, err := os.Readlink(filepath.Join("/proc", os.Getenv("JPY_PARENT_PID"), "cwd"))
	if err != nil {
		return
	}
	pattern := filepath.Join(root, "jupyter_files", "*")
	before := map[string]bool{}
	old, _ := filepath.Glob(pattern)
	for _, d := range old {
		before[d] = true
	}
	k.hidden(c, "%wasm")
	now, _ := filepath.Glob(pattern)
	for _, d := range now {
		if before[d] {
			continue
		}
		if err := writeFile(filepath.Join(d, "wasm_exec.js"), js, 0o644); err != nil {
			k.log.Printf("%%wasm: %v", err)
		}
	}
}

// hidden has GoNB run code that neither shows nor counts, in the place of the cell c.
func (k *kernel) hidden(c *cell, code string) {
	h := k.newCell(&request{message: newMessage(k.session, "execute_request", nil, object{})})
	h.silent = true
	k.mu.Lock()
	k.cell = h
	k.mu.Unlock()
	k.toCell(h, code)
	h.cancel()
	k.mu.Lock()
	k.cell = c
	k.mu.Unlock()
}
