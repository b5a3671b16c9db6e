package cuda

// #include "pjrt.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// ErrNoPinnedHost says that a device has no pinned host memory.
var ErrNoPinnedHost = errors.New("the device has no pinned host memory")

// CopyToHost runs copy, which has the plugin copy one buffer to a device
// (PJRT_Buffer_CopyToDevice) on this goroutine: the copy goes to the device's pinned
// host memory instead, from which a copy to the device brings it back. It is queued
// behind what makes the buffer and runs beside what is queued later; [Arrival.Wait]
// waits for it. PJRT keeps the buffer's memory until it was read, also when the buffer
// is destroyed. Both sides go at the bus's full rate, since the GPU reaches that memory
// itself.
func (c *Client) CopyToHost(copy func() error) (*Arrival, error) {
	if t := C.gt_at(C.int(c.table)); t.host == nil {
		return nil, ErrNoPinnedHost
	}
	runtime.LockOSThread() // so that the plugin's call comes from this thread
	defer runtime.UnlockOSThread()
	C.gt_copies_to_host(1)
	err := copy()
	event := C.gt_copies_to_host(0)
	if err != nil {
		err = fmt.Errorf("copy to pinned host memory: %w", err)
	} else if event == nil {
		err = errors.New("copy to pinned host memory: nothing was copied")
	}
	a := &Arrival{client: c, event: event}
	if err != nil {
		a.free()
		return nil, err
	}
	return a, nil
}

// Arrival is a copy to the host under way.
type Arrival struct {
	client *Client
	event  unsafe.Pointer // nil once it was awaited
}

// Wait returns when the copy is there, or with the error of what should have made the
// buffer. Waiting again does nothing.
func (a *Arrival) Wait() error {
	if a.event == nil {
		return nil
	}
	defer a.free()
	w := C.gt_get_args{size: C.sizeof_gt_get_args, in: a.event}
	if err := a.client.call(C.GT_EVENT_AWAIT, unsafe.Pointer(&w)); err != nil {
		return fmt.Errorf("copy to pinned host memory: %w", err)
	}
	return nil
}

func (a *Arrival) free() {
	if a.event == nil {
		return
	}
	d := C.gt_get_args{size: C.sizeof_gt_get_args, in: a.event}
	_ = a.client.call(C.GT_EVENT_DESTROY, unsafe.Pointer(&d)) // of an event that is there: it can't fail
	a.event = nil
}
