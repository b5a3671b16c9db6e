package cuda

/*
#include "pjrt.h"
#include <stdlib.h>
*/
import "C"

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"unsafe"
)

var attachMu sync.Mutex

// Client is a PJRT plugin of this process whose function table has gotune's entries:
// they note the client that is made of it, keep compiled programs for later processes,
// and give facts about memory that GoMLX's XLA client does not hand on.
type Client struct {
	plugin Plugin
	table  int

	mu    sync.Mutex
	cache *ProgramCache // nil: programs are compiled each time
	key   []byte        // what all keys of the cache begin with; nil until it is needed
}

var clients [C.GT_TABLES]*Client // by table

// Attach loads a plugin and puts gotune's entries into its function table. It must
// be called before the plugin's client is made. cache may be nil. Attaching again
// returns the same Client, with the new cache.
func Attach(p Plugin, cache *ProgramCache) (*Client, error) {
	attachMu.Lock()
	defer attachMu.Unlock()
	table, why := attachTable(p.Path, false)
	if why != "" {
		return nil, fmt.Errorf("attach to plugin %s: %s", p.Path, why)
	}
	c := clients[table]
	if c == nil {
		c = &Client{table: table}
		clients[table] = c
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plugin, c.cache, c.key = p, cache, nil
	return c, nil
}

// attachTable returns the place of a plugin's table, or why there is none. attachMu
// is held.
func attachTable(path string, onlyIfLoaded bool) (table int, why string) {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	switch table = int(C.gt_attach(p, C.bool(onlyIfLoaded))); {
	case table >= 0:
		return table, ""
	case table == -1 && onlyIfLoaded:
		return 0, "it is not loaded"
	case table == -1:
		return 0, "it can't be loaded: a library that it needs is missing, as ldd shows"
	case table == -2:
		return 0, "it has no GetPjrtApi"
	case table == -3:
		return 0, fmt.Sprintf("%d other plugins are in use already", C.GT_TABLES)
	case table == -4:
		return 0, "its function table is of another version"
	}
	return 0, "its function table can't be written"
}

// errNoClient says that [Attach] came too late, or no client was made.
var errNoClient = errors.New("the plugin has no client yet")

// failed turns a PJRT_Error into an error and destroys it; nil stays nil.
func (c *Client) failed(e unsafe.Pointer) error {
	if e == nil {
		return nil
	}
	var text [1024]C.char
	C.gt_error_text(C.int(c.table), e, &text[0], C.size_t(len(text)))
	return errors.New(C.GoString(&text[0]))
}

// call calls the plugin's function at a place of its table.
func (c *Client) call(place int, args unsafe.Pointer) error {
	return c.failed(C.gt_call(C.int(c.table), C.int(place), args))
}

// platform is the plugin's version and its first device's kind, as it says them.
func (c *Client) platform() (version, kind string, err error) {
	t := C.gt_at(C.int(c.table))
	if t.client == nil || t.device == nil {
		return "", "", errNoClient
	}
	v := C.gt_text_args{size: C.sizeof_gt_text_args, object: t.client}
	if err := c.call(C.GT_CLIENT_PLATFORM_VERSION, unsafe.Pointer(&v)); err != nil {
		return "", "", err
	}
	d := C.gt_get_args{size: C.sizeof_gt_get_args, in: t.device}
	if err := c.call(C.GT_DEVICE_GET_DESCRIPTION, unsafe.Pointer(&d)); err != nil {
		return "", "", err
	}
	k := C.gt_text_args{size: C.sizeof_gt_text_args, object: d.out}
	if err := c.call(C.GT_DEVICE_DESCRIPTION_KIND, unsafe.Pointer(&k)); err != nil {
		return "", "", err
	}
	return C.GoStringN(v.text, C.int(v.text_size)), C.GoStringN(k.text, C.int(k.text_size)), nil
}

// programFormat is raised when what gotune keeps of a program changes.
const programFormat = "gotune program 1"

// identity is what a compiled program depends on beside its text and its compile
// options: the plugin, the device, the driver, the processor that code for the host is
// made for, XLA's flags, and gotune itself.
func (c *Client) identity() ([]byte, error) {
	if c.key != nil {
		return c.key, nil
	}
	version, kind, err := c.platform()
	if err != nil {
		return nil, err
	}
	plugin := c.plugin.SHA256
	if plugin == "" { // a large file that is not pinned: its date and size stand for it
		st, err := os.Stat(c.plugin.Path)
		if err != nil {
			return nil, err
		}
		plugin = fmt.Sprint(c.plugin.Path, st.Size(), st.ModTime().UnixNano())
	}
	h := sha256.New()
	fmt.Fprintln(h, programFormat, release(), runtime.GOARCH, c.plugin.Kind, plugin, version, kind)
	if c.plugin.Kind == CUDA {
		devices, err := Devices()
		if err != nil {
			return nil, err
		}
		for _, d := range devices {
			fmt.Fprintln(h, d.Name, d.Major, d.Minor, d.TotalBytes, d.DriverVersion)
		}
	}
	fmt.Fprintln(h, processor())
	for _, e := range os.Environ() {
		// What XLA, cuBLAS, cuDNN and the compiler of CUDA code read.
		for _, prefix := range []string{"XLA_", "TF_", "CUDA_", "CUBLAS", "CUDNN_", "NVIDIA_", "NVPTX_"} {
			if strings.HasPrefix(e, prefix) {
				fmt.Fprintln(h, e)
			}
		}
	}
	c.key = h.Sum(nil)
	return c.key, nil
}

// release is the version of gotune that this binary was built as, "" for a build of
// a working tree.
func release() string {
	b, ok := debug.ReadBuildInfo()
	if !ok || b.Main.Version == "(devel)" {
		return ""
	}
	return b.Main.Version
}

// processor is the host's processor with its instruction sets.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // elsewhere GOARCH alone tells machines apart
	var out []string
	for _, line := range strings.Split(string(text), "\n") {
		if line == "" {
			break // the first processor speaks for all
		}
		switch k, _, _ := strings.Cut(line, "\t"); k {
		case "vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part":
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}
