// RMSNorm with its dropped copies, and its gradient with the residual sum: one block a row x [D] in float32,
//
//	r = 1/√(mean(x²) + ε),  h = x·r∘w,  y_i = mask_i∘h / (1−p)
//	dx = dres + r·(g − x·r·mean(g∘x·r)),  g = dh∘w
//
// A thread keeps its elements of a row in registers, 8 for D up to 4,096 and 16 beyond, so that each tensor is read or written once: XLA
// makes the copies in a pass each, and of the gradient three passes over x. All that a row needs is read before the block's sum is known.

#define NORM_THREADS 512

// block_sums adds a and b over the block.
DEVICE void block_sums(float *a, float *b) {
	__shared__ float part[2][NORM_THREADS / 32];
	for (int o = 16; o; o >>= 1) *a += __shfl_xor_sync(0xffffffffu, *a, o), *b += __shfl_xor_sync(0xffffffffu, *b, o);
	if (!(threadIdx.x & 31)) part[0][threadIdx.x >> 5] = *a, part[1][threadIdx.x >> 5] = *b;
	__syncthreads();
	*a = *b = 0;
	for (int i = 0; i < blockDim.x >> 5; i++) *a += part[0][i], *b += part[1][i];
}

// dropped8 writes eight elements' copies of one word's masks.
DEVICE void dropped8(u16 *low, u16 *high, size_t at, const u32 *scaled, u32 element, word_key key, u32 limit) {
	u32 out[2][4];
#pragma unroll
	for (int j = 0; j < 4; j++) {
		const u32 a = bits_of(element + 2 * j, key), b = bits_of(element + 2 * j + 1, key);
#pragma unroll
		for (int half = 0; half < 2; half++) out[half][j] = scaled[j] & ((keeps(a, half, limit) ? 0xffffu : 0) | (keeps(b, half, limit) ? 0xffff0000u : 0));
	}
	if (low) store4(low, at, out[0]);
	if (high) store4(high, at, out[1]);
}

DEVICE void rms_norm(const void *x, const float *w, const u32 *keys, const u32 *where, const u32 *from, u16 *h, u16 *y0, u16 *y1, u16 *y2, u16 *y3,
	int d, float eps, u32 word0, u32 word1, u32 limit, float scale, const int vectors, const int xt, const int ht) {
	float v[2][8], weight[2][8], sum = 0, none = 0;
	const size_t row = (size_t)blockIdx.x * d;
#pragma unroll
	for (int i = 0; i < vectors; i++) {
		const int c = (i * blockDim.x + threadIdx.x) * 8;
		if (c >= d) break;
		load8(v[i], x, row + c, xt), load8(weight[i], w, c, FLOAT32);
#pragma unroll
		for (int j = 0; j < 8; j++) sum = fmaf(v[i][j], v[i][j], sum);
	}
	word_key k[2] = {{0, 0}, {0, 0}};
	u32 first = blockIdx.x;
	if (y0 || y1) k[0] = key_of(word0, keys, where);
	if (y2 || y3) k[1] = key_of(word1, keys, where);
	if (from) first += *from;
	block_sums(&sum, &none);
	const float r = 1 / sqrtf(sum / d + eps);
	const u32 s = narrow2(scale, scale, ht);
#pragma unroll
	for (int i = 0; i < vectors; i++) {
		const int c = (i * blockDim.x + threadIdx.x) * 8;
		if (c >= d) break;
		u32 words[4];
#pragma unroll
		for (int j = 0; j < 4; j++) words[j] = narrow2(v[i][2 * j] * r * weight[i][2 * j], v[i][2 * j + 1] * r * weight[i][2 * j + 1], ht);
		if (h) store4(h, row + c, words);
#pragma unroll
		for (int j = 0; j < 4; j++) words[j] = times2(words[j], s, ht);
		if (y0 || y1) dropped8(y0, y1, row + c, words, first * (u32)d + (u32)c, k[0], limit);
		if (y2 || y3) dropped8(y2, y3, row + c, words, first * (u32)d + (u32)c, k[1], limit);
	}
}

DEVICE void rms_norm_backward(const void *x, const float *w, const u16 *dh, const void *dres, void *dx, int d, float eps, const int vectors, const int xt,
	const int ht) {
	float v[2][8], g[2][8], out[2][8], squares = 0, inner = 0;
	const size_t row = (size_t)blockIdx.x * d;
#pragma unroll
	for (int i = 0; i < vectors; i++) {
		const int c = (i * blockDim.x + threadIdx.x) * 8;
		if (c >= d) break;
		float weight[8];
		load8(v[i], x, row + c, xt), load8(g[i], dh, row + c, ht), load8(out[i], dres, row + c, xt), load8(weight, w, c, FLOAT32);
#pragma unroll
		for (int j = 0; j < 8; j++) {
			g[i][j] *= weight[j];
			squares = fmaf(v[i][j], v[i][j], squares), inner = fmaf(v[i][j], g[i][j], inner);
		}
	}
	block_sums(&squares, &inner);
	const float r = 1 / sqrtf(squares / d + eps), back = r * r * r * (inner / d);
#pragma unroll
	for (int i = 0; i < vectors; i++) {
		const int c = (i * blockDim.x + threadIdx.x) * 8;
		if (c >= d) break;
#pragma unroll
		for (int j = 0; j < 8; j++) out[i][j] += r * g[i][j] - back * v[i][j];
		store8(dx, row + c, out[i], xt);
	}
}

#define NORM(name, vectors, blocks, xt, ht) \
	ENTRY void __launch_bounds__(NORM_THREADS, blocks) gotune_rms_norm_##name##_##vectors(const void *x, const float *w, const u32 *keys, const u32 *where, \
		const u32 *from, u16 *h, u16 *y0, u16 *y1, u16 *y2, u16 *y3, int d, float eps, u32 word0, u32 word1, u32 limit, float scale) { \
		rms_norm(x, w, keys, where, from, h, y0, y1, y2, y3, d, eps, word0, word1, limit, scale, vectors, xt, ht); \
	} \
	ENTRY void __launch_bounds__(NORM_THREADS, blocks) gotune_rms_norm_backward_##name##_##vectors(const void *x, const float *w, const u16 *dh, \
		const void *dres, void *dx, int d, float eps) { \
		rms_norm_backward(x, w, dh, dres, dx, d, eps, vectors, xt, ht); \
	}
NORM(bf16, 1, 3, BFLOAT16, BFLOAT16) // residual stream and norm
NORM(bf16, 2, 2, BFLOAT16, BFLOAT16)
NORM(f16, 1, 3, FLOAT32, FLOAT16)
NORM(f16, 2, 2, FLOAT32, FLOAT16)
