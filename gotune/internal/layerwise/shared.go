package layerwise

import (
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// sharesMemory says whether device tensors can be written in place by the host, as
// on a CPU. Weights are then made where they stay: a copy would cost as much as
// quantizing them, nearly all of it for fresh pages.
func (d *device) sharesMemory() bool { return d.cpu && d.be.HasSharedBuffers() }

// shared makes a device tensor of n elements with its memory, which must not be
// written once the tensor is in use, and must not be donated. It needs
// [device.sharesMemory].
func shared[E any](d *device, dt dtypes.DType, dims ...int) (buf compute.Buffer, flat []E, err error) {
	doing := fmt.Sprintf("make room for %s%v", dt, dims)
	defer guard(&err, doing)
	buf, memory, err := d.be.NewSharedBuffer(d.num, shapes.Make(dt, dims...))
	if err != nil {
		return nil, nil, failure(doing, err)
	}
	flat, ok := memory.([]E)
	if !ok {
		drop(buf)
		return nil, nil, fmt.Errorf("layerwise: %s: the backend's memory is %T, want %T", doing, memory, flat)
	}
	wantHugePages(flat)
	return buf, flat, nil
}

// filled makes a device tensor of n elements that fill writes: in place where the
// device shares the host's memory, else by way of a copy.
func filled[E any](d *device, dt dtypes.DType, fill func(flat []E) error, dims ...int) (compute.Buffer, error) {
	if !d.sharesMemory() {
		flat := make([]E, shapes.Make(dt, dims...).Size())
		if err := fill(flat); err != nil {
			return nil, err
		}
		return d.upload(flat, dt, dims...)
	}
	buf, flat, err := shared[E](d, dt, dims...)
	if err != nil {
		return nil, err
	}
	if err := fill(flat); err != nil {
		drop(buf)
		return nil, err
	}
	return buf, nil
}
