package gotune

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// GoNB gives a cell two named pipes. Into one go gob-encoded DisplayData values
// {Data map[string]any by MIME type; DisplayID string}: the first value with a
// display id makes a new output, later ones replace it. Out of the other come
// answers, of which only the one to a sync request matters here.
//
// The gob stream is written by hand: encoding/gob would add 30 ms to the build
// of every cell, and a second gob encoder on the pipe, that of package gonbui
// in the same cell, would send type numbers that clash.

// Numbers of the types in our stream. Those that encoding/gob gives out in the
// same process begin at 65 and stay far below.
const (
	gobDisplayData = 29001
	gobData        = 29002
	gobCommValue   = 29003

	// Numbers that gob itself defines.
	gobInt       = 2
	gobString    = 6
	gobInterface = 8
)

// A gobBuffer collects one gob message.
type gobBuffer []byte

// uint writes an unsigned number: itself below 128, else its byte count,
// negated, and its bytes, the most significant first.
func (b *gobBuffer) uint(u uint64) {
	if u < 128 {
		*b = append(*b, byte(u))
		return
	}
	n := (bits.Len64(u) + 7) / 8
	*b = append(*b, byte(-n))
	*b = append(*b, binary.BigEndian.AppendUint64(nil, u)[8-n:]...)
}

// int writes a signed number, its sign in the lowest bit.
func (b *gobBuffer) int(i int) {
	if i < 0 {
		b.uint(uint64(^i)<<1 | 1)
	} else {
		b.uint(uint64(i) << 1)
	}
}

func (b *gobBuffer) string(s string) {
	b.uint(uint64(len(s)))
	*b = append(*b, s...)
}

// any writes an interface value: its type's name and number, then the value
// with its length in front.
func (b *gobBuffer) any(name string, id int, value gobBuffer) {
	b.string(name)
	b.int(id)
	b.uint(uint64(len(value)))
	*b = append(*b, value...)
}

// gobStruct is the definition of a struct type of the fields' names and types.
func gobStruct(id int, name string, fields ...any) gobBuffer {
	var b gobBuffer
	b.int(-id)
	b.uint(3) // wireType.StructT
	b.uint(1) // structType.CommonType
	b.uint(1) // CommonType.Name
	b.string(name)
	b.uint(1) // CommonType.Id
	b.int(id)
	b.uint(0)
	b.uint(1) // structType.Field
	b.uint(uint64(len(fields) / 2))
	for i := 0; i < len(fields); i += 2 {
		b.uint(1)
		b.string(fields[i].(string))
		b.uint(1)
		b.int(fields[i+1].(int))
		b.uint(0)
	}
	return append(b, 0, 0)
}

// gobMap is the definition of a map type.
func gobMap(id, key, elem int) gobBuffer {
	var b gobBuffer
	b.int(-id)
	b.uint(4) // wireType.MapT
	b.uint(1) // mapType.CommonType, which has no name
	b.uint(2) // CommonType.Id
	b.int(id)
	b.uint(0)
	b.uint(1) // mapType.Key
	b.int(key)
	b.uint(1) // mapType.Elem
	b.int(elem)
	return append(b, 0, 0)
}

// message puts the length in front.
func (b gobBuffer) message() []byte {
	var m gobBuffer
	m.uint(uint64(len(b)))
	return append(m, b...)
}

// gobTypes are the type definitions that open the stream.
func gobTypes() []byte {
	return slices.Concat(
		gobStruct(gobDisplayData, "DisplayData", "Data", gobData, "DisplayID", gobString).message(),
		gobMap(gobData, gobString, gobInterface).message(),
		gobStruct(gobCommValue, "CommValue", "Address", gobString, "Value", gobInterface).message())
}

// gobDisplay is a DisplayData of some texts by MIME type.
func gobDisplay(id string, mime ...[2]string) []byte {
	var b gobBuffer
	b.int(gobDisplayData)
	b.uint(1) // Data
	b.uint(uint64(len(mime)))
	for _, m := range mime {
		b.string(m[0])
		var text gobBuffer
		text.uint(0) // not a struct
		text.string(m[1])
		b.any("string", gobString, text)
	}
	if id != "" {
		b.uint(1) // DisplayID
		b.string(id)
	}
	b.uint(0)
	return b.message()
}

// gobSync is a DisplayData that asks for an answer on the other pipe.
func gobSync(n int) []byte {
	var value, number, b gobBuffer
	number.uint(0)
	number.int(n)
	value.uint(1) // Address
	value.string("#gonbui/sync")
	value.uint(1) // Value
	value.any("int", gobInt, number)
	value.uint(0)
	b.int(gobDisplayData)
	b.uint(1)
	b.uint(1)
	b.string("gonb/comm_value")
	b.any("github.com/janpfeifer/gonb/gonbui/protocol.CommValue", gobCommValue, value)
	b.uint(0)
	return b.message()
}

// A notebook is the pipe to GoNB.
type notebook struct {
	mu       sync.Mutex
	out      *os.File
	back     chan struct{} // a value for each answer; nil when gonbui reads them
	syncs    int
	displays int
	typed    bool // the types' definitions were sent
	unsynced bool
	dead     bool
}

// openTimeout is how long GoNB may take to open its ends of the pipes.
const openTimeout = 3 * time.Second

// openNotebook opens the pipes that GoNB named in the environment.
func openNotebook(outPath, backPath string) (*notebook, error) {
	type opened struct {
		f   *os.File
		err error
	}
	open := func(path string, flag int) (*os.File, error) {
		c := make(chan opened, 1)
		go func() {
			f, err := os.OpenFile(path, flag, 0)
			c <- opened{f, err}
		}()
		select {
		case o := <-c:
			return o.f, o.err
		case <-time.After(openTimeout):
			return nil, errors.New("open " + path + ": nobody has opened the other end")
		}
	}
	out, err := open(outPath, os.O_WRONLY)
	if err != nil {
		return nil, err
	}
	n := &notebook{out: out}
	if backPath != "" && !gonbuiLinked() {
		back, err := open(backPath, os.O_RDONLY)
		if err != nil {
			return nil, err
		}
		n.back = make(chan struct{}, 16)
		go n.readBack(back)
	}
	return n, nil
}

// gonbuiLinked says whether the program may use package gonbui, which then
// reads the answers and must not miss any.
func gonbuiLinked() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Deps, func(m *debug.Module) bool { return m.Path == "github.com/janpfeifer/gonb" })
}

// readBack turns answers into signals. Nothing but answers to syncs is sent to
// a program that asked for nothing else, so what they say does not matter; but
// definitions of types, which come before the first, are no answers.
func (n *notebook) readBack(f io.Reader) {
	r := bufio.NewReader(f)
	for {
		length, _, err := gobUint(r)
		if err != nil {
			return
		}
		id, width, err := gobUint(r)
		if err != nil || uint64(width) > length {
			return
		}
		if _, err := r.Discard(int(length) - width); err != nil {
			return
		}
		if id&1 == 0 { // not negative: a value
			n.back <- struct{}{}
		}
	}
}

// gobUint reads an unsigned number and says how many bytes it had.
func gobUint(r io.ByteReader) (u uint64, width int, err error) {
	b, err := r.ReadByte()
	if err != nil || b < 128 {
		return uint64(b), 1, err
	}
	for range -int8(b) {
		next, err := r.ReadByte()
		if err != nil {
			return 0, 0, err
		}
		u = u<<8 | uint64(next)
	}
	return u, 1 - int(int8(b)), nil
}

// newID makes a display id that no other cell, run or display has: GoNB sends
// only updates for an id it has seen, even if the output was cleared.
func (n *notebook) newID() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.displays++
	return "gotune-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36) + "-" + strconv.Itoa(n.displays)
}

// show sends an output, or replaces that of the same id. It says whether the
// notebook still listens.
func (n *notebook) show(id, html, text string) bool {
	return n.send(gobDisplay(id, [2]string{"text/html", html}, [2]string{"text/plain", text}))
}

func (n *notebook) send(b []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		return false
	}
	if !n.typed { // definitions with no value after them would be an error to GoNB
		n.typed = true
		b = append(gobTypes(), b...)
	}
	if _, err := n.out.Write(b); err != nil {
		n.dead = true
		return false
	}
	n.unsynced = true
	return true
}

// syncTimeout is how long GoNB may take to hand on what it was sent.
const syncTimeout = 3 * time.Second

// sync waits until GoNB has handed on all outputs: those in the pipe are lost
// when the program ends.
func (n *notebook) sync() {
	n.mu.Lock()
	pending := n.unsynced && !n.dead
	n.unsynced = false
	n.syncs++
	number := n.syncs
	n.mu.Unlock()
	if !pending {
		return
	}
	if n.back == nil {
		n.drain()
		return
	}
	for len(n.back) > 0 {
		<-n.back
	}
	if !n.send(gobSync(number)) {
		return
	}
	n.mu.Lock()
	n.unsynced = false
	n.mu.Unlock()
	select {
	case <-n.back:
	case <-time.After(syncTimeout):
	}
}

// drain waits until GoNB has read everything from the pipe, and a little longer
// for it to hand that on.
func (n *notebook) drain() {
	for end := time.Now().Add(syncTimeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		left, err := unread(n.out)
		if err != nil || left == 0 {
			break
		}
	}
	time.Sleep(50 * time.Millisecond)
}

// unread is the number of bytes in the pipe.
func unread(f *os.File) (int32, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var left int32
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, fionread, uintptr(unsafe.Pointer(&left)))
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return left, err
}
