// The gradient that comes back through adapters' dropped inputs, of up to four adapters with the same input, each in its mask's slot:
//
//	out[t, c] = s · Σ_i mask_i(t, c) · Σ_r g_i[t, r]·a_i[r, c],  s = 1/(1−p)
//
// A block keeps 128 columns of the adapters' A in shared memory and goes through rows of out [T, D], 64 at a time, by the tensor cores (mma.m16n8k16,
// float32 sums); masks are made where the sums stand in registers, while the next rows of g are on their way. XLA writes each g·a, and reads
// all of them for the masks. R is a multiple of 8, D of 128; the adapters' R together are at most 192. Compute capability 8.0.
//
// On an H200, T = D = 4,096, two adapters of R=64: 50 µs, XLA 58 in three kernels. Most of it is the masks: 512 threads a block with smaller tiles took 57, 64 rows
// a block without A kept 55.

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

#define SUM_ROWS 64
#define SUM_COLS 128
#define SUM_A 136   // elements of a row of a, and words of a row of out: what keeps eight rows out of each other's banks
#define SUM_OUT 68

#ifdef __CUDACC__
#define SHARED_BYTES(name) extern __shared__ __align__(16) unsigned char name[]
// copy_async brings 16 bytes to shared memory, of which the source has so many and the others are zero.
DEVICE void copy_async(u16 *to, const u16 *from, int bytes) {
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory");
}
DEVICE void copies_done(void) { asm volatile("cp.async.wait_all;" ::: "memory"); }
// load_matrices is ldmatrix: of four 8×8 matrices, each lane's words; turned, of their transposes. p is the row that this lane has to name.
DEVICE void load_matrices(u32 *v, const u16 *p, int turned) {
#define LOAD(t) \
	asm volatile("ldmatrix.sync.aligned.m8n8.x4" t ".shared.b16 {%0, %1, %2, %3}, [%4];" \
		: "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"((u32)__cvta_generic_to_shared(p)) : "memory")
	if (turned) LOAD(".trans");
	else LOAD("");
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

// copy_g begins the copies of 64 rows of one adapter's g, of depth (R in whole sixteens) and 8 elements a row.
DEVICE void copy_g(u16 *to, const u16 *g, int row0, int rows, int rank, int depth) {
	const int pieces = depth / 8;
	for (int at = threadIdx.x; at < SUM_ROWS * pieces; at += 256) {
		const int row = at / pieces, r = (at - row * pieces) * 8, in = row0 + row < rows && r < rank;
		copy_async(to + row * (depth + 8) + r, in ? g + (size_t)(row0 + row) * rank + r : g, in ? 16 : 0);
	}
}

DEVICE void dropped_sum(const u16 *const *g, const u16 *const *a, const u32 *keys, const u32 *where, const u32 *from, u16 *out, int rows, int d,
	int rank, u32 word0, u32 word1, u32 limit, float scale, const int slots, const int type) {
	SHARED_BYTES(sum_shared);
	const int t = threadIdx.x, lane = t & 31, warp = t >> 5, col0 = blockIdx.x * SUM_COLS;
	const int wr = (warp >> 2) * 32, wc = (warp & 3) * 32; // the warp's 32×32
	const int depth = (rank + 15) & ~15, g_size = SUM_ROWS * (depth + 8), a_size = depth * SUM_A;
	u32 *words = (u32 *)sum_shared;
	u16 *gs = (u16 *)(words + SUM_ROWS * SUM_OUT), *as = gs, *to;
	int tile = blockIdx.y;
#pragma unroll
	for (int i = 0; i < SLOTS; i++)
		if (i < slots && g[i]) as += g_size;
	to = as;
#pragma unroll
	for (int i = 0; i < SLOTS; i++) {
		if (i >= slots || !g[i]) continue;
		for (int at = t; at < depth * 16; at += 256) {
			const int r = at >> 4, c = (at & 15) * 8, in = r < rank;
			copy_async(to + r * SUM_A + c, in ? a[i] + (size_t)r * d + col0 + c : a[i], in ? 16 : 0);
		}
		to += a_size;
	}
	to = gs;
#pragma unroll
	for (int i = 0; i < SLOTS; i++)
		if (i < slots && g[i]) copy_g(to, g[i], tile * SUM_ROWS, rows, rank, depth), to += g_size;
	word_key key[2] = {{0, 0}, {0, 0}};
	u32 before = 0;
	if (limit) {
		key[0] = key_of(word0, keys, where);
		if (slots > 2) key[1] = key_of(word1, keys, where);
		if (from) before = *from;
	}
	for (; tile * SUM_ROWS < rows; tile += gridDim.y) {
		float sum[SLOTS][2][4][4];
		const u16 *gi = gs, *ai = as;
		copies_done();
		__syncthreads();
#pragma unroll
		for (int i = 0; i < SLOTS; i++) {
			if (i >= slots) break;
#pragma unroll
			for (int k = 0; k < 32; k++) sum[i][k >> 4][k >> 2 & 3][k & 3] = 0;
			if (!g[i]) continue;
			for (int k = 0; k < depth; k += 16) {
				u32 p[2][4], q[2][4];
#pragma unroll
				for (int j = 0; j < 2; j++) {
					load_matrices(p[j], gi + (wr + j * 16 + (lane & 15)) * (depth + 8) + k + (lane >> 4) * 8, 0);
					load_matrices(q[j], ai + (k + (lane & 15)) * SUM_A + wc + j * 16 + (lane >> 4) * 8, 1);
				}
#pragma unroll
				for (int j = 0; j < 8; j++) multiply(sum[i][j >> 2][j & 3], p[j >> 2], q[(j & 3) >> 1] + (j & 1) * 2, type);
			}
			gi += g_size, ai += a_size;
		}
		__syncthreads();
		to = gs;
#pragma unroll
		for (int i = 0; i < SLOTS; i++)
			if (i < slots && g[i] && (tile + gridDim.y) * SUM_ROWS < rows) copy_g(to, g[i], (tile + gridDim.y) * SUM_ROWS, rows, rank, depth), to += g_size;
		const int row0 = tile * SUM_ROWS;
#pragma unroll
		for (int k = 0; k < 16; k++) { // pairs of columns
			const int ri = k >> 3, ci = k >> 1 & 3, low = k & 1, row = wr + ri * 16 + low * 8 + (lane >> 2), col = wc + ci * 8 + (lane & 3) * 2;
			float v[2] = {0, 0};
#pragma unroll
			for (int e = 0; e < 2; e++) {
				const u32 element = (before + row0 + row) * (u32)d + (u32)(col0 + col + e);
#pragma unroll
				for (int n = 0; n < 2; n++) {
					if (2 * n >= slots) break;
					const u32 bits = limit ? bits_of(element, key[n]) : 0;
					v[e] += keeps(bits, 0, limit) ? sum[2 * n][ri][ci][low * 2 + e] : 0;
					v[e] += keeps(bits, 1, limit) ? sum[2 * n + 1][ri][ci][low * 2 + e] : 0;
				}
			}
			words[row * SUM_OUT + (col >> 1)] = narrow2(v[0] * scale, v[1] * scale, type);
		}
		__syncthreads();
#pragma unroll
		for (int k = 0; k < 4; k++) {
			const int place = k * 256 + t, row = place >> 4;
			if (row0 + row < rows) *(uint4 *)(out + (size_t)(row0 + row) * d + col0 + (place & 15) * 8) = *(const uint4 *)(words + row * SUM_OUT + (place & 15) * 4);
		}
	}
}

#define SUM(name, slots, type) \
	ENTRY void __launch_bounds__(256, slots < 4 ? 2 : 1) gotune_dropped_sum_##name##_##slots(const u16 *g0, const u16 *g1, const u16 *g2, const u16 *g3, \
		const u16 *a0, const u16 *a1, const u16 *a2, const u16 *a3, const u32 *keys, const u32 *where, const u32 *from, u16 *out, int rows, int d, int rank, \
		u32 word0, u32 word1, u32 limit, float scale) { \
		const u16 *const g[SLOTS] = {g0, g1, g2, g3}, *const a[SLOTS] = {a0, a1, a2, a3}; \
		dropped_sum(g, a, keys, where, from, out, rows, d, rank, word0, word1, limit, scale, slots, type); \
	}
SUM(bf16, 2, BFLOAT16)
SUM(bf16, 4, BFLOAT16)
SUM(f16, 2, FLOAT16)
SUM(f16, 4, FLOAT16)

#endif
