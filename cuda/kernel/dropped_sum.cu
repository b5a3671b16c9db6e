// The gradient that comes back through adapters' dropped inputs, of up to three adapters with the same input:
//
//	out[t, c] = s · Σ_i mask_i(t, c) · Σ_r g_i[t, r]·a_i[r, c],  s = 1/(1−p)
//
// A block makes 64×128 of out [T, D] by the tensor cores (mma.m16n8k16, float32 sums), 32 of R at a time; masks are made where the
// sums stand in registers. XLA writes each g·a, and reads all of them for the masks. R is a multiple of 32, D of 128. Compute capability 8.0.

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

#define SUM_ROWS 64
#define SUM_COLS 128
#define SUM_STRIDE 20 // words of a row of 32 elements and what keeps eight rows out of each other's banks
#define SUM_OUT 68    // words of a row of out

#ifdef __CUDACC__
// load_matrices is ldmatrix: of four 8×8 matrices, each lane's words. p is the row that this lane has to name.
DEVICE void load_matrices(u32 *v, const u32 *p) {
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
		: "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"((u32)__cvta_generic_to_shared(p)));
}
// multiply adds a·b of 16×16 and 16×8 elements to c.
DEVICE void multiply(float *c, const u32 *a, const u32 *b, int type) {
#define MULTIPLY(t) \
	asm("mma.sync.aligned.m16n8k16.row.col.f32." t "." t ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
		: "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
	if (type == BFLOAT16) MULTIPLY("bf16");
	else MULTIPLY("f16");
}
#endif

DEVICE void dropped_sum(const u16 *g0, const u16 *g1, const u16 *g2, const u16 *a0, const u16 *a1, const u16 *a2, const u32 *keys, const u32 *where,
	const u32 *from, u16 *out, int rows, int d, int rank, int lanes, u32 threshold, float scale, const int n, const int type) {
	__shared__ __align__(16) u32 shared[SUM_ROWS * SUM_OUT];
	u32 *gs = shared, *as = shared + SUM_ROWS * SUM_STRIDE; // [64][32], and a's [128][32] with r inside
	const int t = threadIdx.x, lane = t & 31, warp = t >> 5, row0 = blockIdx.y * SUM_ROWS, col0 = blockIdx.x * SUM_COLS;
	const int wr = (warp >> 2) * 32, wc = (warp & 3) * 32; // the warp's 32×32
	const u16 *gp[3] = {g0, g1, g2}, *ap[3] = {a0, a1, a2};
	float sum[3][2][4][4];
#pragma unroll
	for (int i = 0; i < 3; i++) {
		if (i >= n) break;
#pragma unroll
		for (int k = 0; k < 32; k++) sum[i][k >> 4][k >> 2 & 3][k & 3] = 0;
		for (int r = 0; r < rank; r += 32) {
			__syncthreads();
			const int row = t >> 2;
			uint4 v = {0, 0, 0, 0};
			if (row0 + row < rows) v = *(const uint4 *)(gp[i] + (size_t)(row0 + row) * rank + r + (t & 3) * 8);
			*(uint4 *)(gs + row * SUM_STRIDE + (t & 3) * 4) = v;
#pragma unroll
			for (int k = 0; k < 4; k++) { // of a two rows and two columns: turned, two words
				const int unit = warp * 4 + k, pair = (unit & 3) * 4 + (lane & 3), col = (unit >> 2) * 16 + (lane >> 2) * 2;
				const u16 *p = ap[i] + (size_t)(r + 2 * pair) * d + col0 + col;
				const u32 upper = *(const u32 *)p, lower = *(const u32 *)(p + d);
				as[col * SUM_STRIDE + pair] = (upper & 0xffff) | lower << 16;
				as[(col + 1) * SUM_STRIDE + pair] = upper >> 16 | (lower & 0xffff0000u);
			}
			__syncthreads();
#pragma unroll
			for (int k = 0; k < 16; k += 8) { // words: 16 of r
				u32 a[2][4], b[2][4];
#pragma unroll
				for (int j = 0; j < 2; j++) {
					load_matrices(a[j], gs + (wr + j * 16 + (lane & 15)) * SUM_STRIDE + k + (lane >> 4) * 4);
					load_matrices(b[j], as + (wc + j * 16 + (lane & 7) + (lane >> 4) * 8) * SUM_STRIDE + k + (lane >> 3 & 1) * 4);
				}
#pragma unroll
				for (int j = 0; j < 8; j++) multiply(sum[i][j >> 2][j & 3], a[j >> 2], b[(j & 3) >> 1] + (j & 1) * 2, type);
			}
		}
	}
	__syncthreads();
	masks m = {{0}};
	u32 before = 0;
	if (threshold) m = masks_of(n, lanes, threshold, keys, where), before = from ? *from : 0;
#pragma unroll
	for (int k = 0; k < 16; k++) { // pairs of columns
		const int ri = k >> 3, ci = k >> 1 & 3, low = k & 1, row = wr + ri * 16 + low * 8 + (lane >> 2), col = wc + ci * 8 + (lane & 3) * 2;
		float v[2] = {0, 0};
#pragma unroll
		for (int e = 0; e < 2; e++) {
			int keep[3] = {1, 1, 1};
			if (threshold) kept(keep, &m, n, (before + row0 + row) * (u32)d + (u32)(col0 + col + e));
#pragma unroll
			for (int i = 0; i < 3; i++)
				if (i < n && keep[i]) v[e] += sum[i][ri][ci][low * 2 + e];
		}
		shared[row * SUM_OUT + (col >> 1)] = narrow(v[0] * scale, type) | narrow(v[1] * scale, type) << 16;
	}
	__syncthreads();
#pragma unroll
	for (int k = 0; k < 4; k++) {
		const int at = k * 256 + t, row = at >> 4;
		if (row0 + row < rows) *(uint4 *)(out + (size_t)(row0 + row) * d + col0 + (at & 15) * 8) = *(const uint4 *)(shared + row * SUM_OUT + (at & 15) * 4);
	}
}

#define SUM(name, n, type) \
	ENTRY void __launch_bounds__(256, n < 3 ? 2 : 1) gotune_dropped_sum_##name##_##n(const u16 *g0, const u16 *g1, const u16 *g2, const u16 *a0, \
		const u16 *a1, const u16 *a2, const u32 *keys, const u32 *where, const u32 *from, u16 *out, int rows, int d, int rank, int lanes, u32 threshold, \
		float scale) { \
		dropped_sum(g0, g1, g2, a0, a1, a2, keys, where, from, out, rows, d, rank, lanes, threshold, scale, n, type); \
	}
SUM(bf16, 1, BFLOAT16)
SUM(bf16, 2, BFLOAT16)
SUM(bf16, 3, BFLOAT16)
SUM(f16, 1, FLOAT16)
SUM(f16, 2, FLOAT16)
SUM(f16, 3, FLOAT16)

#endif
