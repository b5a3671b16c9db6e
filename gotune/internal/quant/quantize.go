package quant

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"sync"

	"github.com/gotune/gotune/gotune/internal/parallel"
	"github.com/gotune/gotune/gotune/internal/safetensors"
)

// DefaultBlockSize is the number of weights that share a scale in QLoRA.
const DefaultBlockSize = 64

// Tensor is a quantized array.
type Tensor struct {
	Type      Type
	Shape     []int
	BlockSize int

	// Codes holds two codes a byte, the earlier weight in the high nibble:
	// (n+1)/2 bytes for n weights.
	Codes []byte

	// Absmax is the scale of each block, as dequantization uses it: if Nested is
	// set, these are its values, decoded.
	Absmax []float32

	// Nested is set if the scales are stored in 8 bits (double quantization).
	Nested *Nested

	// DType is the type of the weights before they were packed: "float32",
	// "float16" or "bfloat16". bitsandbytes dequantizes to it.
	DType string
}

// Nested is a run of scales in 8-bit blocks: scale[i] =
// Map[Codes[i]]·Absmax[i/BlockSize] + Offset, each step rounded to float32.
type Nested struct {
	Codes     []byte
	Absmax    []float32 // one per block
	Offset    float32   // mean of the scales
	BlockSize int       // 256
	Map       *[256]float32
}

// A ValueError reports a weight that has no code: a NaN or an infinity.
type ValueError struct {
	Block int // the first block that holds one
	First int // index of the block's first weight
}

func (e *ValueError) Error() string {
	return fmt.Sprintf("quant: block %d (from weight %d on) holds a NaN or an infinity, which 4 bits cannot store: the checkpoint is broken; load the model again", e.Block, e.First)
}

// Quantize packs w, an array of the given shape in row-major order, with a scale
// for each blockSize weights, on all cores. Block sizes are powers of two from 32
// to 4096, 0 means 64. With double, the scales are quantized too.
//
// The result equals that of bitsandbytes in every bit; the scales of double
// quantization may differ where its mean of the scales is rounded differently. It
// returns a [*ValueError] if a weight is not finite.
func Quantize(typ Type, shape []int, w []float32, blockSize int, double bool) (*Tensor, error) {
	t, c, err := newTensor(typ, shape, len(w), blockSize, Room{})
	if err != nil {
		return nil, err
	}
	t.DType = "float32"
	return t, t.fill(double, func(from, to int) (int, error) {
		return c.packBlocks(t, from, w[from*t.BlockSize:min(to*t.BlockSize, len(w))]), nil
	})
}

// QuantizeTensor packs an F32, F16 or BF16 tensor without a float32 copy. The
// result is that of [Quantize] on its values; DType tells the original type.
func QuantizeTensor(typ Type, w safetensors.Tensor, blockSize int, double bool) (*Tensor, error) {
	return quantize(Room{}, typ, w.Spec(), int64(len(w.Data)), blockSize, double, func() source {
		return func(from, n int) ([]byte, error) { return w.Data[from:][:n], nil }
	})
}

// Room is memory lent for a result, used where it is long enough: fresh memory
// costs as much time as finding the codes.
type Room struct {
	Codes  []byte
	Absmax []float32
}

// QuantizeFrom is [QuantizeTensor] for a tensor described by spec, whose bytes
// come from r a piece at a time and in any order, with the result in room.
func QuantizeFrom(room Room, typ Type, spec safetensors.Spec, r io.ReaderAt, blockSize int, double bool) (*Tensor, error) {
	size, err := spec.Bytes()
	if err != nil {
		return nil, fmt.Errorf("quant: %w", err)
	}
	return quantize(room, typ, spec, size, blockSize, double, func() source {
		var buf []byte
		return func(from, n int) ([]byte, error) {
			buf = slices.Grow(buf[:0], n)[:n]
			if got, err := r.ReadAt(buf, int64(from)); got < n {
				return nil, fmt.Errorf("read bytes %d to %d of %d: %w", from, from+n, size, err)
			}
			return buf, nil
		}
	})
}

// source returns n bytes of a tensor, valid until its next call.
type source func(from, n int) ([]byte, error)

// readSize is how many bytes are read at a time: few enough for a core's own
// cache, enough that a call's cost is small beside them.
const readSize = 128 << 10

// quantize packs the tensor whose bytes the sources give, one for each core.
func quantize(room Room, typ Type, spec safetensors.Spec, bytes int64, blockSize int, double bool, open func() source) (*Tensor, error) {
	size, names := spec.DType.Size(), map[safetensors.DType]string{
		safetensors.F32: "float32", safetensors.F16: "float16", safetensors.BF16: "bfloat16",
	}
	if names[spec.DType] == "" {
		return nil, fmt.Errorf("quant: tensor %q has the type %s, wanted F32, F16 or BF16", spec.Name, spec.DType)
	}
	n := int(bytes) / size
	t, c, err := newTensor(typ, spec.Shape, n, blockSize, room)
	if err != nil {
		return nil, fmt.Errorf("%w (tensor %q)", err, spec.Name)
	}
	t.DType = names[spec.DType]
	read := max(readSize/size/t.BlockSize, 1) // blocks
	err = t.fill(double, func(from, to int) (int, error) {
		get, wide := open(), make([]float32, max(2048, t.BlockSize))
		for b := from; b < to; b += read {
			first := b * t.BlockSize
			raw, err := get(first*size, (min(min(b+read, to)*t.BlockSize, n)-first)*size)
			if err != nil {
				return -1, err
			}
			if bad := c.packRaw(t, b, spec.DType, raw, wide); bad >= 0 {
				return bad, nil
			}
		}
		return -1, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w (tensor %q)", err, spec.Name)
	}
	return t, nil
}

// packRaw packs raw values, which begin with block number first. They are widened
// a piece at a time into wide, a whole number of blocks that stays in the nearest
// cache. It returns the number of the first block that it could not pack, or -1.
func (c *codec) packRaw(t *Tensor, first int, dt safetensors.DType, raw []byte, wide []float32) int {
	for size := dt.Size(); len(raw) > 0; first += len(wide) / t.BlockSize {
		part := wide[:min(len(wide), len(raw)/size)]
		widen(dt, part, raw)
		if bad := c.packBlocks(t, first, part); bad >= 0 {
			return bad
		}
		raw = raw[len(part)*size:]
	}
	return -1
}

// newTensor checks the arguments and makes room for the result, where the given
// room is too small.
func newTensor(typ Type, shape []int, n, blockSize int, room Room) (*Tensor, *codec, error) {
	c := codecs[typ]
	if c == nil {
		return nil, nil, fmt.Errorf("quant: unknown code %q, wanted %q or %q", typ, NF4, FP4)
	}
	if blockSize == 0 {
		blockSize = DefaultBlockSize
	}
	if err := checkBlockSize(blockSize); err != nil {
		return nil, nil, err
	}
	bytes, err := safetensors.Spec{Name: "weights", DType: safetensors.U8, Shape: shape}.Bytes()
	if err != nil {
		return nil, nil, fmt.Errorf("quant: %w", err)
	}
	if bytes != int64(n) {
		return nil, nil, fmt.Errorf("quant: found %d weights, but the shape %v wants %d", n, shape, bytes)
	}
	t := &Tensor{Type: typ, Shape: slices.Clone(shape), BlockSize: blockSize}
	t.Codes = lent(room.Codes, (n+1)/2)
	t.Absmax = lent(room.Absmax, (n+blockSize-1)/blockSize)
	return t, c, nil
}

// lent returns the first n elements of room, or fresh ones if it has fewer.
func lent[E any](room []E, n int) []E {
	if len(room) < n {
		return make([]E, n)
	}
	return room[:n:n]
}

func checkBlockSize(n int) error {
	if n < 32 || n > 4096 || bits.OnesCount(uint(n)) != 1 {
		return fmt.Errorf("quant: the block size is %d, wanted 32, 64, 128, 256, 512, 1024, 2048 or 4096", n)
	}
	return nil
}

// fill runs pack over all blocks in parallel, and then quantizes the scales if
// double is set. pack returns the number of the first block that it could not
// pack, or -1, and what else failed.
func (t *Tensor) fill(double bool, pack func(from, to int) (int, error)) error {
	var mu sync.Mutex
	first, failed := math.MaxInt, error(nil)
	parallel.For(len(t.Absmax), 256, func(from, to int) {
		bad, err := pack(from, to)
		mu.Lock()
		defer mu.Unlock()
		if bad >= 0 {
			first = min(first, bad)
		}
		if failed == nil {
			failed = err
		}
	})
	if failed != nil {
		return fmt.Errorf("quant: %w", failed)
	}
	if first < math.MaxInt {
		return &ValueError{first, first * t.BlockSize}
	}
	if double {
		t.Nested = newNested(t.Absmax)
		t.Nested.decode(t.Absmax)
	}
	return nil
}

// tiny is the smallest scale that is divided by.
const tiny float32 = 1e-38

// packBlocks packs w, which begins with block number first, into t. It returns
// the number of the first block with a weight that is not finite, or -1.
func (c *codec) packBlocks(t *Tensor, first int, w []float32) int {
	done := c.packWhole(t, first, w)
	w = w[done*t.BlockSize:]
	for b := first + done; len(w) > 0; b++ {
		block := w[:min(t.BlockSize, len(w))]
		w = w[len(block):]
		m := absmax(block)
		if m > math.MaxFloat32 || m != m {
			return b
		}
		codes := t.Codes[b*t.BlockSize/2:]
		if len(block) == t.BlockSize {
			t.Absmax[b] = m
			c.grid.pack(codes, block, 1/max(m, tiny))
			continue
		}
		m = max(m, tiny)
		t.Absmax[b] = m
		c.packShort(codes, block, m)
	}
	return -1
}

// pack writes the codes of a block whose length is a multiple of 4.
func (g *grid) pack(dst []byte, x []float32, inv float32) {
	scale := g.scale
	dst = dst[:len(x)/2]
	for i := range dst {
		if 2*i+1 >= len(x) {
			break
		}
		s, u := float32(x[2*i]*inv), float32(x[2*i+1]*inv)
		a := &g.cells[uint32(int32(float32(s*scale)+scale))&2047]
		b := &g.cells[uint32(int32(float32(u*scale)+scale))&2047]
		var sa, sb uint32
		if s > a.mid {
			sa = 8
		}
		if u > b.mid {
			sb = 8
		}
		dst[i] = byte(a.codes>>sa<<4) | byte(b.codes>>sb)
	}
}

// packShort writes the codes of a short last block. It divides, and is the plain
// form of the rule.
func (c *codec) packShort(dst []byte, x []float32, m float32) {
	for i, v := range x {
		code := c.ladder.code(v / m)
		if i%2 == 0 {
			dst[i/2] = code<<4 | c.ladder.code(0)
		} else {
			dst[i/2] = dst[i/2]&0xf0 | code
		}
	}
}

// absmax returns the largest magnitude, compared as bit patterns: those of
// magnitudes grow with the value, and NaN and infinity lie above all.
func absmax(x []float32) float32 {
	var m0, m1, m2, m3 uint32
	for len(x) >= 4 {
		m0 = max(m0, math.Float32bits(x[0])&0x7fffffff)
		m1 = max(m1, math.Float32bits(x[1])&0x7fffffff)
		m2 = max(m2, math.Float32bits(x[2])&0x7fffffff)
		m3 = max(m3, math.Float32bits(x[3])&0x7fffffff)
		x = x[4:]
	}
	for _, v := range x {
		m0 = max(m0, math.Float32bits(v)&0x7fffffff)
	}
	return math.Float32frombits(max(m0, m1, m2, m3))
}

// widen converts len(dst) little-endian values.
func widen(dt safetensors.DType, dst []float32, src []byte) {
	n := widenWhole(dt, dst, src)
	dst, src = dst[n:], src[n*dt.Size():]
	switch dt {
	case safetensors.F32:
		src = src[:4*len(dst)]
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case safetensors.F16:
		src = src[:2*len(dst)]
		for i := range dst {
			dst[i] = safetensors.F16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case safetensors.BF16:
		for len(dst) >= 4 && len(src) >= 8 {
			w := binary.LittleEndian.Uint64(src)
			dst[0] = math.Float32frombits(uint32(w) << 16)
			dst[1] = math.Float32frombits(uint32(w) & 0xffff0000)
			dst[2] = math.Float32frombits(uint32(w>>32) << 16)
			dst[3] = math.Float32frombits(uint32(w>>32) & 0xffff0000)
			dst, src = dst[4:], src[8:]
		}
		for i := range dst {
			dst[i] = safetensors.BF16ToF32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}
}
