package layerwise

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"

	"github.com/gotune/gotune/gotune/internal/lora"
	"github.com/gotune/gotune/gotune/internal/model"
)

// adapterLayout says where each module of an adapter lies in one flat f32 vector:
// layer after layer, within a layer in the order of model.Projections.
type adapterLayout struct {
	layers  []loraSpecs
	keys    []string // of layers
	offsets []int    // of each layer's part
	size    int      // N, all trained values
}

// layoutOf derives the layout of a, checking its shapes against the model.
func layoutOf(cfg *model.Config, a *lora.Adapter) (*adapterLayout, error) {
	lay := &adapterLayout{}
	known := 0
	for i := range cfg.NumLayers {
		var specs loraSpecs
		for _, proj := range model.Projections {
			name := cfg.Module(i, proj)
			m := a.Modules[name]
			if m == nil {
				continue
			}
			known++
			out, in := cfg.ProjShape(proj)
			if m.In != in || m.Out != out || len(m.A) == 0 || len(m.A)%in != 0 || len(m.B) != len(m.A)/in*out || (m.Magnitude != nil && len(m.Magnitude) != out) {
				return nil, fmt.Errorf("layerwise: adapter module %s has %d values in A, %d in B, for a projection [%d, %d]; the adapter was made for another model", name, len(m.A), len(m.B), out, in)
			}
			s := loraSpec{proj: proj, in: in, out: out, rank: len(m.A) / in, scale: a.Config.Scale(), dora: m.Magnitude != nil}
			s.offset = specs.size()
			specs = append(specs, s)
		}
		lay.offsets = append(lay.offsets, lay.size)
		lay.layers = append(lay.layers, specs)
		lay.keys = append(lay.keys, specs.key())
		lay.size += specs.size()
	}
	if known != len(a.Modules) {
		return nil, fmt.Errorf("layerwise: %d of the adapter's %d modules are projections of this model's %d layers; the adapter was made for another model", known, len(a.Modules), cfg.NumLayers)
	}
	if lay.size == 0 {
		return nil, fmt.Errorf("layerwise: the adapter has no modules")
	}
	return lay, nil
}

// lowest is the lowest layer that has modules: below it no gradient is wanted.
func (lay *adapterLayout) lowest() int {
	return slices.IndexFunc(lay.layers, func(s loraSpecs) bool { return len(s) > 0 })
}

// each calls f for every tensor of every module with its PEFT name and place.
func (lay *adapterLayout) each(cfg *model.Config, f func(name string, shape []int, at int)) {
	for i, specs := range lay.layers {
		for _, s := range specs {
			name, at := "base_model.model."+cfg.Module(i, s.proj), lay.offsets[i]+s.offset
			f(name+".lora_A.weight", []int{s.rank, s.in}, at)
			at += s.rank * s.in
			f(name+".lora_B.weight", []int{s.out, s.rank}, at)
			at += s.out * s.rank
			if s.dora {
				f(name+".lora_magnitude_vector", []int{s.out}, at)
			}
		}
	}
}

// flatten copies a's values into one vector.
func (lay *adapterLayout) flatten(cfg *model.Config, a *lora.Adapter) []float32 {
	flat := make([]float32, 0, lay.size)
	for i, specs := range lay.layers {
		for _, s := range specs {
			m := a.Modules[cfg.Module(i, s.proj)]
			flat = append(append(append(flat, m.A...), m.B...), m.Magnitude...)
		}
	}
	return flat
}

// adapter is the inverse of flatten.
func (lay *adapterLayout) adapter(cfg *model.Config, c lora.Config, flat []float32) *lora.Adapter {
	a := &lora.Adapter{Config: c, Modules: map[string]*lora.Module{}}
	at := 0
	take := func(n int) []float32 {
		at += n
		return append([]float32(nil), flat[at-n:at]...)
	}
	for i, specs := range lay.layers {
		for _, s := range specs {
			m := &lora.Module{In: s.in, Out: s.out, A: take(s.rank * s.in), B: take(s.out * s.rank)}
			if s.dora {
				m.Magnitude = take(s.out)
			}
			a.Modules[cfg.Module(i, s.proj)] = m
		}
	}
	return a
}

// DeviceAdapter is an adapter on the device of a base model.
type DeviceAdapter struct {
	base   *Base
	layout *adapterLayout
	flat   compute.Buffer   // f32 [N]
	where  []compute.Buffer // one for each layer: int32 [2], layer and offset
}

// Upload puts an adapter on b's device. It returns an error when the adapter does
// not fit the model.
func (b *Base) Upload(a *lora.Adapter) (*DeviceAdapter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.upload(a)
}

func (b *Base) upload(a *lora.Adapter) (ad *DeviceAdapter, err error) {
	if err := b.usable("upload adapter"); err != nil {
		return nil, err
	}
	lay, err := layoutOf(b.cfg, a)
	if err != nil {
		return nil, err
	}
	ad = &DeviceAdapter{base: b, layout: lay}
	defer func() {
		if err != nil {
			ad.free()
		}
	}()
	if ad.flat, err = b.dev.upload(lay.flatten(b.cfg, a), dtypes.Float32, lay.size); err != nil {
		return nil, err
	}
	for i, at := range lay.offsets {
		w, err := b.dev.upload([]int32{int32(i), int32(at)}, dtypes.Int32, 2)
		if err != nil {
			return nil, err
		}
		ad.where = append(ad.where, w)
	}
	return ad, nil
}

// Bytes is the device memory that the adapter holds.
func (ad *DeviceAdapter) Bytes() int64 { return int64(4 * ad.layout.size) }

// Free releases the adapter's device memory. Freeing twice does nothing.
func (ad *DeviceAdapter) Free() {
	ad.base.mu.Lock()
	defer ad.base.mu.Unlock()
	ad.free()
}

func (ad *DeviceAdapter) free() {
	drop(ad.flat)
	drop(ad.where...)
	ad.flat, ad.where = nil, nil
}

// check returns an error when ad can't be used with b; a nil adapter can.
func (ad *DeviceAdapter) check(b *Base) error {
	switch {
	case ad == nil:
		return nil
	case ad.base != b:
		return fmt.Errorf("layerwise: the adapter was uploaded for another base model; upload it for this one")
	case ad.flat == nil:
		return fmt.Errorf("layerwise: the adapter was freed; upload it again")
	}
	return nil
}

// specs are the adapter's modules of layer i; a nil adapter has none.
func (ad *DeviceAdapter) specs(i int) loraSpecs {
	if ad == nil {
		return nil
	}
	return ad.layout.layers[i]
}

// key is what specs adds to a program's key.
func (ad *DeviceAdapter) key(i int) string {
	if ad == nil {
		return ""
	}
	return ad.layout.keys[i]
}
