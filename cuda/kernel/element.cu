// What gotune's kernels share: 16-bit elements and the bits of dropout. It stands before the others in one source. All of them are
// C, too: a test runs them on a processor (testdata/host.c), which has plain C in the place of a GPU's instructions.

typedef unsigned int u32;
typedef unsigned short u16;

#define BFLOAT16 0
#define FLOAT16 1
#define FLOAT32 2
#define DEVICE static __device__ __forceinline__
#ifdef __cplusplus
#define ENTRY extern "C" __global__
#else
#define ENTRY static
#endif

#ifdef __CUDACC__
DEVICE float half_to_float(u16 v) {
	float f;
	asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
	return f;
}
DEVICE u16 float_to_half(float f) {
	u16 v;
	asm("cvt.rn.f16.f32 %0, %1;" : "=h"(v) : "f"(f));
	return v;
}
#endif

// widen is the value of a 16-bit element; type is a constant wherever it is called.
DEVICE float widen(u32 v, int type) { return type == BFLOAT16 ? __uint_as_float(v << 16) : half_to_float((u16)v); }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
// narrow2 rounds a pair to the nearest, ties to even: by hand it was half of a norm's time.
DEVICE u32 narrow2(float low, float high, int type) {
	u32 v;
	if (type == FLOAT16) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
	else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
	return v;
}

// times2 is a product of two pairs, each rounded; + −0, for compute capability 8.0 has no product of bfloat16 alone.
DEVICE u32 times2(u32 a, u32 b, int type) {
	u32 v;
	if (type == FLOAT16) asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(v) : "r"(a), "r"(b));
	else asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(v) : "r"(a), "r"(b), "r"(0x80008000u));
	return v;
}
#else
// narrow rounds to the nearest, ties to even. What is not a number stays so.
DEVICE u32 narrow(float f, int type) {
	if (type == FLOAT16) return float_to_half(f);
	const u32 b = __float_as_uint(f);
	return (b & 0x7fffffff) > 0x7f800000 ? 0x7fff : (b + 0x7fff + ((b >> 16) & 1)) >> 16;
}

DEVICE u32 narrow2(float low, float high, int type) { return narrow(low, type) | narrow(high, type) << 16; }

DEVICE u32 times2(u32 a, u32 b, int type) {
	return narrow2(widen(a & 0xffff, type) * widen(b & 0xffff, type), widen(a >> 16, type) * widen(b >> 16, type), type);
}
#endif

// raw8 are eight elements as they were read, which takes time; open8 makes numbers of them.
typedef struct { uint4 a, b; } raw8; // b of FLOAT32 alone
DEVICE raw8 read8(const void *p, size_t at, int type) { // at is a multiple of 8
	raw8 r = {{0, 0, 0, 0}, {0, 0, 0, 0}};
	if (type == FLOAT32) r.a = ((const uint4 *)p)[at / 4], r.b = ((const uint4 *)p)[at / 4 + 1];
	else r.a = ((const uint4 *)p)[at / 8];
	return r;
}
DEVICE void open8(float *v, raw8 r, int type) {
	const u32 a[4] = {r.a.x, r.a.y, r.a.z, r.a.w}, b[4] = {r.b.x, r.b.y, r.b.z, r.b.w};
#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (type == FLOAT32) v[i] = __uint_as_float(a[i]), v[4 + i] = __uint_as_float(b[i]);
		else v[2 * i] = widen(a[i] & 0xffff, type), v[2 * i + 1] = widen(a[i] >> 16, type);
	}
}

// store4 writes eight 16-bit elements, store8 eight of either kind.
DEVICE void store4(void *p, size_t at, const u32 *words) {
	const uint4 q = {words[0], words[1], words[2], words[3]};
	((uint4 *)p)[at / 8] = q;
}
DEVICE void store8(void *p, size_t at, const float *v, int type) {
	if (type == FLOAT32) {
		const float4 a = {v[0], v[1], v[2], v[3]}, b = {v[4], v[5], v[6], v[7]};
		((float4 *)p)[at / 4] = a, ((float4 *)p)[at / 4 + 1] = b;
		return;
	}
	u32 words[4];
#pragma unroll
	for (int i = 0; i < 4; i++) words[i] = narrow2(v[2 * i], v[2 * i + 1], type);
	store4(p, at, words);
}

// The masks are those of layerwise/dropout.go: a mask is a half of a word's bits, and a call has one or two words. What it does for masks stands in slots,
// 2·word + half.
#define SLOTS 4

DEVICE u32 hash32(u32 x) {
	x = (x ^ x >> 16) * 0x7feb352du;
	x = (x ^ x >> 15) * 0x846ca68bu;
	return x ^ x >> 16;
}

typedef struct { u32 key, key1; } word_key;

// key_of is a word's key in the layer where[0].
DEVICE word_key key_of(u32 word, const u32 *keys, const u32 *where) {
	word_key k;
	k.key = hash32(keys[0] ^ hash32(where[0] * 8 + word));
	k.key1 = hash32(keys[1] + k.key);
	return k;
}

// bits_of is mix32 but for its last step, x ^ x >> 16, which leaves the upper half.
DEVICE u32 bits_of(u32 x, word_key k) {
	x ^= k.key;
	x = (x ^ x >> 16) * 0x7feb352du + k.key1;
	return (x ^ x >> 15) * 0x846ca68bu;
}

// keeps says whether a half of the bits is at least limit's upper half.
DEVICE int keeps(u32 bits, int half, u32 limit) { return (half ? bits : bits << 16 ^ (bits & 0xffff0000u)) >= limit; }
