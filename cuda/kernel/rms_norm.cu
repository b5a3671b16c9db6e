// RMSNorm with its dropped copies, and its gradient with the residual sum: one block of D/16 threads a row x [D] in float32,
//
//	r = 1/√(mean(x²) + ε),  h = x·r∘w,  y_i = mask_i∘h / (1−p)
//	dx = dres + r·(g − x·r·mean(g∘x·r)),  g = dh∘w
//
// A thread keeps its elements of a row in registers, so that each tensor is read or written once: XLA makes the copies in a
// pass each, and of the gradient three passes over x.

#define NORM_THREADS 512
#define NORM_VECTORS 2 // of 8 elements a thread: D ≤ 8192

// block_sums adds a and b over the block.
DEVICE void block_sums(float *a, float *b) {
	__shared__ float part[2][NORM_THREADS / 32];
	for (int o = 16; o; o >>= 1) *a += __shfl_xor_sync(0xffffffffu, *a, o), *b += __shfl_xor_sync(0xffffffffu, *b, o);
	if (!(threadIdx.x & 31)) part[0][threadIdx.x >> 5] = *a, part[1][threadIdx.x >> 5] = *b;
	__syncthreads();
	*a = *b = 0;
	for (int i = 0; i < blockDim.x >> 5; i++) *a += part[0][i], *b += part[1][i];
}

DEVICE void rms_norm(const void *x, const float *w, const u32 *keys, const u32 *where, const u32 *from, u16 *h, u16 *y0, u16 *y1, u16 *y2, u16 *y3,
	int d, float eps, u32 word0, u32 word1, u32 limit, float scale, int xt, int ht) {
	float v[NORM_VECTORS][8], sum = 0, none = 0;
	const size_t row = (size_t)blockIdx.x * d;
#pragma unroll
	for (int i = 0; i < NORM_VECTORS; i++) {
		const int c = (i * blockDim.x + threadIdx.x) * 8;
		if (c >= d) break;
		load8(v[i], x, row + c, xt);
#pragma unroll
		for (int j = 0; j < 8; j++) sum = fmaf(v[i][j], v[i][j], sum);
	}
	block_sums(&sum, &none);
	const float r = 1 / sqrtf(sum / d + eps), s = widen(narrow(scale, ht), ht);
	u16 *const y[SLOTS] = {y0, y1, y2, y3};
	word_key k[2] = {{0, 0}, {0, 0}};
	u32 first = blockIdx.x;
	if (y0 || y1) k[0] = key_of(word0, keys, where);
	if (y2 || y3) k[1] = key_of(word1, keys, where);
	if (from) first += *from;
	first *= (u32)d;
#pragma unroll
	for (int i = 0; i < NORM_VECTORS; i++) {
		const int c = (i * blockDim.x + threadIdx.x) * 8;
		if (c >= d) break;
		float weight[8], out[8];
		load8(weight, w, c, FLOAT32);
#pragma unroll
		for (int j = 0; j < 8; j += 2) {
			const u32 pair = narrow2(v[i][j] * r * weight[j], v[i][j + 1] * r * weight[j + 1], ht);
			v[i][j] = widen(pair & 0xffff, ht), v[i][j + 1] = widen(pair >> 16, ht);
		}
		if (h) store8(h, row + c, v[i], ht);
#pragma unroll
		for (int j = 0; j < 8; j++) v[i][j] *= s;
#pragma unroll
		for (int n = 0; n < 2; n++) {
			if (!y[2 * n] && !y[2 * n + 1]) continue;
			u32 bits[8];
#pragma unroll
			for (int j = 0; j < 8; j++) bits[j] = bits_of(first + (u32)(c + j), k[n]);
#pragma unroll
			for (int half = 0; half < 2; half++) {
				if (!y[2 * n + half]) continue;
#pragma unroll
				for (int j = 0; j < 8; j++) out[j] = keeps(bits[j], half, limit) ? v[i][j] : 0;
				store8(y[2 * n + half], row + c, out, ht);
			}
		}
	}
}

DEVICE void rms_norm_backward(const void *x, const float *w, const u16 *dh, const void *dres, void *dx, int d, float eps, int xt, int ht) {
	float v[NORM_VECTORS][8], g[NORM_VECTORS][8], squares = 0, inner = 0;
	const size_t row = (size_t)blockIdx.x * d;
#pragma unroll
	for (int i = 0; i < NORM_VECTORS; i++) {
		const int c = (i * blockDim.x + threadIdx.x) * 8;
		if (c >= d) break;
		float weight[8];
		load8(v[i], x, row + c, xt), load8(g[i], dh, row + c, ht), load8(weight, w, c, FLOAT32);
#pragma unroll
		for (int j = 0; j < 8; j++) {
			g[i][j] *= weight[j];
			squares = fmaf(v[i][j], v[i][j], squares), inner = fmaf(v[i][j], g[i][j], inner);
		}
	}
	block_sums(&squares, &inner);
	const float r = 1 / sqrtf(squares / d + eps), back = r * r * r * (inner / d);
#pragma unroll
	for (int i = 0; i < NORM_VECTORS; i++) {
		const int c = (i * blockDim.x + threadIdx.x) * 8;
		if (c >= d) break;
		float out[8];
		load8(out, dres, row + c, xt);
#pragma unroll
		for (int j = 0; j < 8; j++) out[j] += r * g[i][j] - back * v[i][j];
		store8(dx, row + c, out, xt);
	}
}

#define NORM(name, xt, ht) \
	ENTRY void __launch_bounds__(NORM_THREADS, 2) gotune_rms_norm_##name(const void *x, const float *w, const u32 *keys, const u32 *where, \
		const u32 *from, u16 *h, u16 *y0, u16 *y1, u16 *y2, u16 *y3, int d, float eps, u32 word0, u32 word1, u32 limit, float scale) { \
		rms_norm(x, w, keys, where, from, h, y0, y1, y2, y3, d, eps, word0, word1, limit, scale, xt, ht); \
	} \
	ENTRY void __launch_bounds__(NORM_THREADS, 2) gotune_rms_norm_backward_##name(const void *x, const float *w, const u16 *dh, \
		const void *dres, void *dx, int d, float eps) { \
		rms_norm_backward(x, w, dh, dres, dx, d, eps, xt, ht); \
	}
NORM(bf16, BFLOAT16, BFLOAT16) // residual stream and norm
NORM(f16, FLOAT32, FLOAT16)
