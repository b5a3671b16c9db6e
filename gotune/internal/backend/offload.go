package backend

import (
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/pjrt"

	"github.com/gotune/gotune/cuda"
)

// HostCopy is a device tensor's copy in host memory.
type HostCopy struct {
	num     compute.DeviceNum
	buf     *xla.Buffer // in pinned host memory, or nil
	arrival *cuda.Arrival

	be    compute.Backend // of a plain copy
	shape shapes.Shape
	flat  any
}

// ToHost copies a tensor to the host. With XLA it goes to the device's pinned host
// memory, beside what is queued; the tensor may be freed at once, though its memory
// is free only after [HostCopy.Wait]. Where there is no such memory it is a plain
// copy, which waits for the tensor.
func ToHost(b compute.Buffer) (*HostCopy, error) {
	num, err := b.DeviceNum()
	if err != nil {
		return nil, err
	}
	h := &HostCopy{num: num}
	if x, ok := b.(*xla.Buffer); ok {
		err := h.pin(x)
		if !errors.Is(err, cuda.ErrNoPinnedHost) {
			return h, err
		}
	}
	h.be = b.Backend()
	if h.shape, err = b.Shape(); err != nil {
		return nil, err
	}
	h.flat = dtypes.MakeAnySlice(h.shape.DType, h.shape.Size())
	return h, b.ToFlatData(h.flat)
}

// Pinned says whether the copy is in pinned host memory.
func (h *HostCopy) Pinned() bool { return h.buf != nil }

// pin makes a pinned copy.
func (h *HostCopy) pin(b *xla.Buffer) error {
	client := clientOf(b.Backend())
	if client == nil {
		return cuda.ErrNoPinnedHost
	}
	var to *xla.Buffer
	arrival, err := client.CopyToHost(func() (err error) {
		to, err = copyOf(b)
		return err
	})
	h.buf, h.arrival = to, arrival
	return err
}

// clientOf is the attached plugin of a backend, nil without one.
func clientOf(b compute.Backend) *cuda.Client {
	mu.Lock()
	defer mu.Unlock()
	for _, o := range open {
		if o.compute == b {
			return o.client
		}
	}
	return nil
}

// Wait returns when the copy is there, with the error of what was to make the tensor.
func (h *HostCopy) Wait() error {
	if h.arrival == nil {
		return nil
	}
	return h.arrival.Wait()
}

// Back copies the tensor to the device again, queued like any call; there waits until
// it is there. The copy on the host stays.
func (h *HostCopy) Back() (b compute.Buffer, there func() error, err error) {
	if h.buf == nil {
		b, err = h.be.BufferFromFlatData(h.num, h.flat, h.shape)
		return b, func() error { return nil }, err
	}
	var to *xla.Buffer
	arrival, err := clientOf(h.buf.Backend()).CopyToDevice(func() (err error) {
		to, err = copyOf(h.buf)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("copy from pinned host memory: %w", err)
	}
	return to, arrival.Wait, nil
}

// Free releases the host's memory, once a copy back that is under way is done.
func (h *HostCopy) Free() {
	if h.buf != nil {
		_ = h.Wait()
		_ = h.buf.Finalize()
		h.buf = nil
	}
	h.flat = nil
}

// copyOf copies a buffer to its own device. The XLA backend refuses that, for it
// knows one memory of a device alone; PJRT does not.
func copyOf(b *xla.Buffer) (*xla.Buffer, error) {
	inner, err := innerOf(b)
	if err != nil {
		return nil, err
	}
	device, err := (*inner).Device()
	if err != nil {
		return nil, err
	}
	to, err := (*inner).CopyToDevice(device)
	if err != nil {
		return nil, err
	}
	out := *b // its backend
	if inner, err = innerOf(&out); err != nil {
		return nil, err
	}
	*inner = to
	return &out, nil
}

// innerOf is PJRT's buffer in the XLA backend's, which does not export it.
func innerOf(b *xla.Buffer) (**pjrt.Buffer, error) {
	f, ok := reflect.TypeFor[xla.Buffer]().FieldByName("pjrtBuffer")
	if !ok || f.Type != reflect.TypeFor[*pjrt.Buffer]() {
		return nil, fmt.Errorf("a buffer of this version of the XLA backend has no field pjrtBuffer of type %v", reflect.TypeFor[*pjrt.Buffer]())
	}
	return (**pjrt.Buffer)(unsafe.Add(unsafe.Pointer(b), f.Offset)), nil
}
