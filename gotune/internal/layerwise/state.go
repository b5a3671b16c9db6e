package layerwise

import (
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// Names of the counters in a trainer's state, I64 [3] and F32 [1]; the other
// tensors are param., exp_avg. and exp_avg_sq. with an adapter tensor's PEFT name.
const (
	stateCounters = "gotune.counters" // calls, updates, good steps since the scale changed
	stateScale    = "gotune.loss_scale"
)

// statePrefixes name the three flat vectors.
var statePrefixes = [3]string{"param.", "exp_avg.", "exp_avg_sq."}

// State copies everything to the host that a later [Trainer.Restore] needs to go
// on as if nothing had happened: trained values, optimizer states, counters.
func (t *Trainer) State() ([]safetensors.Tensor, error) {
	b := t.base
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := firstError(b.usable("save state"), t.ad.check(b)); err != nil {
		return nil, err
	}
	var out []safetensors.Tensor
	add := func(ts safetensors.Tensor, err error) error {
		out = append(out, ts)
		return err
	}
	if t.first == nil {
		if err := t.pageIn(); err != nil {
			return nil, err
		}
	}
	var failed error
	for k, buf := range t.vectors() {
		flat, err := download[float32](buf, t.ad.layout.size)
		if err != nil {
			return nil, err
		}
		t.ad.layout.each(b.cfg, func(name string, shape []int, at int) {
			err := add(safetensors.FromFloat32(statePrefixes[k]+name, shape, flat[at:at+product(shape)], safetensors.F32))
			failed = firstError(failed, err)
		})
	}
	failed = firstError(failed,
		add(safetensors.FromInt64(stateCounters, []int{3}, []int64{int64(t.calls), int64(t.updates), int64(t.scale.good)})),
		add(safetensors.FromFloat32(stateScale, []int{1}, []float32{float32(t.scale.value)}, safetensors.F32)))
	return out, failed
}

// vectors are the three flat vectors of the state.
func (t *Trainer) vectors() [3]compute.Buffer {
	return [3]compute.Buffer{t.ad.flat, t.first, t.second}
}

// Restore puts a state from [Trainer.State] back. The adapter's shape must be the
// same; otherwise nothing is changed and an error names the first difference.
func (t *Trainer) Restore(state []safetensors.Tensor) error {
	b := t.base
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := firstError(b.usable("restore state"), t.ad.check(b)); err != nil {
		return err
	}
	byName := map[string]safetensors.Tensor{}
	for _, ts := range state {
		byName[ts.Name] = ts
	}
	lay := t.ad.layout
	var vectors [3][]float32
	var failed error
	for k := range vectors {
		vectors[k] = make([]float32, lay.size)
		lay.each(b.cfg, func(name string, shape []int, at int) {
			ts, ok := byName[statePrefixes[k]+name]
			n := product(shape)
			switch {
			case failed != nil:
			case !ok:
				failed = fmt.Errorf("layerwise: restore: the state has no tensor %s%s; it was saved by a run with another adapter", statePrefixes[k], name)
			case ts.Len() != n:
				failed = fmt.Errorf("layerwise: restore: %s%s has shape %v in the state, want %v", statePrefixes[k], name, ts.Shape, shape)
			default:
				failed = ts.Float32Into(vectors[k][at:at+n], 0, n)
			}
		})
	}
	if failed != nil {
		return failed
	}
	if want := 3*lay.tensors() + 2; len(state) != want {
		return fmt.Errorf("layerwise: restore: the state has %d tensors, want %d; it was saved by a run with another adapter", len(state), want)
	}
	counters, err := byName[stateCounters].Int64s()
	if err != nil || len(counters) != 3 {
		return fmt.Errorf("layerwise: restore: %s has %d values, want 3 (%v)", stateCounters, len(counters), err)
	}
	scale, err := byName[stateScale].Float32()
	if err != nil || len(scale) != 1 || !(scale[0] >= 1) {
		return fmt.Errorf("layerwise: restore: %s holds %v, want one value of at least 1 (%v)", stateScale, scale, err)
	}
	return t.restore(vectors, counters, float64(scale[0]))
}

func (t *Trainer) restore(vectors [3][]float32, counters []int64, scale float64) error {
	flat, err := t.base.dev.upload(vectors[0], dtypes.Float32, t.ad.layout.size)
	if err != nil {
		return err
	}
	if err := t.setStates(vectors[1], vectors[2]); err != nil {
		drop(flat)
		return err
	}
	drop(t.ad.flat)
	t.ad.flat = flat
	t.calls, t.updates, t.scale.good = int(counters[0]), int(counters[1]), int(counters[2])
	if t.scale.dynamic {
		t.scale.value = scale
	}
	return nil
}

// tensors is the number of tensors of the adapter.
func (lay *adapterLayout) tensors() (n int) {
	for _, specs := range lay.layers {
		for _, s := range specs {
			n += 2
			if s.dora {
				n++
			}
		}
	}
	return n
}

func product(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}
