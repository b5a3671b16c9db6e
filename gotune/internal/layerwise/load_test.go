package layerwise

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/gotune/gotune/gotune/internal/model"
	"github.com/gotune/gotune/gotune/internal/oracle"
)

// Loading reports every tensor once, reaches the whole checkpoint, quantizes the
// projections and nothing else, and accounts for their bytes.
func TestLoadReportsTensors(t *testing.T) {
	ck, err := model.Open(oracle.Dir(t, "llama", "linearrope_bias"))
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	var last Progress
	calls := 0
	b, err := Load(context.Background(), openCPU(t), ck, LoadOptions{Quant: QuantNF4, DoubleQuant: true, ResidentBytes: -1}, func(p Progress) {
		if p.Done < last.Done || p.DeviceUsed < last.DeviceUsed || p.Tensor == "" {
			t.Errorf("progress went from %+v to %+v", last, p)
		}
		last = p
		calls++
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Free()
	if last.Done != last.Total || last.Total != ck.Bytes() || last.DeviceUsed != b.Bytes() || calls != len(b.Tensors()) {
		t.Errorf("last report %+v of %d, %d bytes on the device, %d tensors", last, calls, b.Bytes(), len(b.Tensors()))
	}
	quantized := 0
	for _, x := range b.Tensors() {
		if x.Quantized {
			quantized++
			if n := int64(product(x.Shape)); x.DType != "nf4" || x.Bytes < n/2 || x.Bytes > n {
				t.Errorf("%+v", x)
			}
		}
	}
	if want := b.Config().NumLayers * len(model.Projections); quantized != want {
		t.Errorf("%d quantized tensors, want %d", quantized, want)
	}
	b.Free()
	if b.Bytes() != 0 {
		t.Errorf("%d bytes after Free", b.Bytes())
	}
}

// A cancelled load ends with the context's error; wrong options name themselves.
func TestLoadRefusals(t *testing.T) {
	ck, err := model.Open(oracle.Dir(t, "llama", "gqa"))
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	ctx, cancel := context.WithCancel(context.Background())
	_, err = Load(ctx, openCPU(t), ck, LoadOptions{}, func(Progress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled load: %v", err)
	}
	for _, o := range []LoadOptions{{Quant: "int8"}, {ComputeDType: "float8"}, {Quant: QuantNF4, BlockSize: 48}} {
		if _, err := Load(context.Background(), openCPU(t), ck, o, nil); err == nil {
			t.Errorf("options %+v were accepted", o)
		}
	}
}

// 4-bit layers unpacked inside each call give the values of layers kept unpacked,
// whatever the block size; a block may run over rows and end short.
func TestUnpackingInCallsIsExact(t *testing.T) {
	dir := oracle.Dir(t, "llama", "gqa")
	bt := goldenBatch(openGolden(t, "llama", "gqa", "expect.safetensors"))
	for _, o := range []LoadOptions{{Quant: QuantFP4, BlockSize: 4096}, {Quant: QuantNF4, DoubleQuant: true, BlockSize: 128}} {
		kept := loadDir(t, dir, o)
		o.ResidentBytes = -1
		packed := loadDir(t, dir, o)
		if kept.Resident() == 0 || packed.Resident() != 0 {
			t.Fatalf("%d and %d resident bytes", kept.Resident(), packed.Resident())
		}
		want, err := kept.Logits(nil, bt)
		if err != nil {
			t.Fatal(err)
		}
		got, err := packed.Logits(nil, bt)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: logits differ", o)
		}
	}
}

// Parts whose size is no multiple of the block are padded apart, and unpack to
// their own rows.
func TestGroupPadsShortBlocks(t *testing.T) {
	s := groupSpec{parts: []part{{"q_proj", 3}, {"k_proj", 1}}, in: 10, typ: QuantNF4, block: 64}
	if s.totalBlocks() != 2 || s.out() != 4 || s.shapes()[0].Size() != 64 {
		t.Errorf("%d blocks, %d rows, codes %v", s.totalBlocks(), s.out(), s.shapes()[0])
	}
}
