package cuda

/*
#include "pjrt.h"
#include <stdlib.h>
static void gt_free_backing(gt_serialize_args *a) { if (a->free) a->free(a->backing); }
*/
import "C"

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// Program is what is known of one compiled program.
type Program struct {
	Name   string        // of its module
	Cached bool          // it came from the cache of compiled programs
	Took   time.Duration // to compile, or to read and load
	Bytes  int           // of its serialized form, 0 when it was not serialized
	Memory ProgramMemory
	// Donated are the inputs, by their numbers, that give their memory to results when
	// a call donates them.
	Donated []int
}

// ProgramMemory is the device memory of one call of a program, in bytes, as the
// compiler laid it out.
type ProgramMemory struct {
	Arguments int64 // inputs
	Outputs   int64 // results
	Aliased   int64 // of the results, what takes the room of donated inputs
	Temporary int64 // scratch, taken while the program runs
	Code      int64 // generated code and its constants
}

// Peak is what a call takes beside its inputs while it runs.
func (m ProgramMemory) Peak() int64 { return m.Outputs - m.Aliased + m.Temporary }

// compiling is what one [Compiling] asks for and gets.
type compiling struct {
	donate  []int
	program *Program
}

// compiled holds the Compilings under way, by thread.
var compiled struct {
	sync.Mutex
	threads map[int]*compiling
}

// Compiling runs compile, which has an attached plugin compile one program on this
// goroutine, and returns what is known of it: nil for a backend that is not
// attached. The inputs in donate, by their numbers, may give their memory to results
// of the same type; a call that does not donate them still leaves them whole.
func Compiling(donate []int, compile func() error) (*Program, error) {
	runtime.LockOSThread() // so that the plugin's call comes from this thread
	defer runtime.UnlockOSThread()
	id, c := threadID(), &compiling{donate: donate}
	compiled.Lock()
	if compiled.threads == nil {
		compiled.threads = map[int]*compiling{}
	}
	compiled.threads[id] = c
	compiled.Unlock()
	err := compile()
	compiled.Lock()
	defer compiled.Unlock()
	delete(compiled.threads, id)
	return c.program, err
}

// compilingNow is the Compiling of this thread, an empty one if there is none.
func compilingNow() *compiling {
	compiled.Lock()
	defer compiled.Unlock()
	if c := compiled.threads[threadID()]; c != nil {
		return c
	}
	return &compiling{}
}

// gtCompile stands in the plugin's table for PJRT_Client_Compile.
//
//export gtCompile
func gtCompile(table C.int, args unsafe.Pointer) unsafe.Pointer {
	a := (*C.gt_compile_args)(args)
	c := clients[table]
	if c == nil {
		return C.gt_compile_real(table, a)
	}
	start, asked := time.Now(), compilingNow()
	p := &Program{Name: moduleName(a.program)}
	given := C.GoStringN(a.program.code, C.int(a.program.code_size))
	text, aliased := aliasInputs(float8(given), asked.donate)
	p.Donated = aliased
	if text != given {
		old, mine := a.program, *a.program
		mine.code, mine.code_size = C.CString(text), C.size_t(len(text))
		var pin runtime.Pinner
		pin.Pin(&mine)
		a.program = &mine
		defer func() {
			a.program = old
			C.free(unsafe.Pointer(mine.code))
			pin.Unpin()
		}()
	}
	key, cache := c.programKey(a)
	if cache != nil {
		if data, ok := cache.get(key); ok {
			if err := c.load(a, data, p); err != nil {
				cache.log("compiled program %s in the cache can't be used and is compiled again: %v", p.Name, err)
				cache.remove(key)
			}
		}
	}
	if !p.Cached {
		if e := C.gt_compile_real(table, a); e != nil {
			return e
		}
		if err := c.inspect(a.loaded, p, key, cache); err != nil && cache != nil {
			cache.log("compiled program %s: %v; programs are not kept from now on", p.Name, err)
			c.mu.Lock()
			c.cache = nil // a full disk, or a plugin that can't: asking each time costs time
			c.mu.Unlock()
		}
	}
	p.Took = time.Since(start)
	asked.program = p
	return nil
}

// programKey is the sha256 of all that a program depends on. Without a cache, and
// where something could not be found out, it returns no cache.
func (c *Client) programKey(a *C.gt_compile_args) (key [32]byte, cache *ProgramCache) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cache == nil {
		return key, nil
	}
	id, err := c.identity()
	if err != nil {
		c.cache.log("programs are not kept: %v", err)
		c.cache = nil
		return key, nil
	}
	h := sha256.New()
	h.Write(id)
	for _, part := range [][]byte{
		unsafe.Slice((*byte)(unsafe.Pointer(a.program.format)), int(a.program.format_size)),
		unsafe.Slice((*byte)(unsafe.Pointer(a.program.code)), int(a.program.code_size)),
		unsafe.Slice((*byte)(unsafe.Pointer(a.options)), int(a.options_size)),
	} {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	h.Sum(key[:0])
	return key, c.cache
}

// load makes a program of its serialized form. A program whose memory is not known
// is none, for GoMLX asks for it.
func (c *Client) load(a *C.gt_compile_args, data []byte, p *Program) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&data[0])
	l := C.gt_load_args{size: C.sizeof_gt_load_args, client: a.client, bytes: (*C.char)(unsafe.Pointer(&data[0])), bytes_size: C.size_t(len(data))}
	if err := c.call(C.GT_DESERIALIZE_AND_LOAD, unsafe.Pointer(&l)); err != nil {
		return err
	}
	p.Cached, p.Bytes = true, len(data)
	if err := c.inspect(l.loaded, p, [32]byte{}, nil); err != nil {
		d := C.gt_get_args{size: C.sizeof_gt_get_args, in: l.loaded}
		_ = c.call(C.GT_LOADED_DESTROY, unsafe.Pointer(&d))
		p.Cached, p.Bytes = false, 0
		return err
	}
	a.loaded = l.loaded
	return nil
}

// inspect reads a loaded program's memory and, if it was compiled just now, keeps
// its serialized form.
func (c *Client) inspect(loaded unsafe.Pointer, p *Program, key [32]byte, cache *ProgramCache) error {
	g := C.gt_get_executable_args{size: C.sizeof_gt_get_executable_args, loaded: loaded}
	if err := c.call(C.GT_LOADED_GET_EXECUTABLE, unsafe.Pointer(&g)); err != nil {
		return fmt.Errorf("get executable: %w", err)
	}
	defer func() {
		d := C.gt_get_args{size: C.sizeof_gt_get_args, in: g.executable}
		_ = c.call(C.GT_EXECUTABLE_DESTROY, unsafe.Pointer(&d))
	}()
	m := C.gt_compiled_stats{size: C.sizeof_gt_compiled_stats, executable: g.executable}
	if err := c.call(C.GT_COMPILED_MEMORY_STATS, unsafe.Pointer(&m)); err != nil {
		return fmt.Errorf("memory of a compiled program: %w", err)
	}
	p.Memory = ProgramMemory{Arguments: int64(m.argument), Outputs: int64(m.output), Aliased: int64(m.alias), Temporary: int64(m.temp), Code: int64(m.code)}
	if p.Cached || cache == nil {
		return nil
	}
	s := C.gt_serialize_args{size: C.sizeof_gt_serialize_args, executable: g.executable}
	if err := c.call(C.GT_EXECUTABLE_SERIALIZE, unsafe.Pointer(&s)); err != nil {
		return fmt.Errorf("not kept: %w", err)
	}
	defer C.gt_free_backing(&s)
	p.Bytes = int(s.bytes_size)
	return cache.put(key, unsafe.Slice((*byte)(unsafe.Pointer(s.bytes)), p.Bytes))
}

// moduleName is the name in "module @name" at the begin of a program's text.
func moduleName(p *C.gt_program) string {
	text := C.GoStringN(p.code, C.int(min(p.code_size, 256)))
	_, rest, ok := strings.Cut(text, "module @")
	if !ok {
		return "without name"
	}
	if end := strings.IndexAny(rest, " {\n"); end >= 0 {
		rest = rest[:end]
	}
	return rest
}
