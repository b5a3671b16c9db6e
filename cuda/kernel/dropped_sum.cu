// The gradient that comes back through adapters' dropped inputs, of up to four adapters with the same input, each in its mask's slot:
//
//	out[t, c] = s · Σ_i mask_i(t, c) · Σ_r g_i[t, r]·a_i[r, c],  s = 1/(1−p)
//
// A block makes 64×128 of out [T, D] by the tensor cores (mma.m16n8k16, float32 sums), 32 of R at a time with the next two on their way; masks
// are made where the sums stand in registers. XLA writes each g·a, and reads all of them for the masks. R is a multiple of 8, D of 128.
// Compute capability 8.0.

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

#define SUM_ROWS 64
#define SUM_COLS 128
#define SUM_DEPTH 32
#define SUM_STAGES 3
#define SUM_G 40    // elements of a row of g, and of a's: what keeps eight rows out of each other's banks
#define SUM_A 136
#define SUM_STAGE (SUM_ROWS * SUM_G + SUM_DEPTH * SUM_A)
#define SUM_OUT 68  // words of a row of out

#ifdef __CUDACC__
// copy_async brings 16 bytes to shared memory, of which the source has so many and the others are zero.
DEVICE void copy_async(u16 *to, const u16 *from, int bytes) {
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory");
}
DEVICE void copies_begun(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
// copies_done waits for all but the last two groups of copies.
DEVICE void copies_done(void) { asm volatile("cp.async.wait_group %0;" :: "n"(SUM_STAGES - 1) : "memory"); }
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

// sum_stage begins the copies of a stage: 32 of R of one adapter.
DEVICE void sum_stage(u16 *stage, const u16 *g, const u16 *a, int r, int rows, int d, int rank) {
	const int t = threadIdx.x, row0 = blockIdx.y * SUM_ROWS, col0 = blockIdx.x * SUM_COLS;
	const int row = t >> 2, at = r + (t & 3) * 8, in = row0 + row < rows && at < rank;
	copy_async(stage + row * SUM_G + (t & 3) * 8, in ? g + (size_t)(row0 + row) * rank + at : g, in ? 16 : 0);
#pragma unroll
	for (int k = 0; k < 2; k++) {
		const int depth = k * 16 + (t >> 4), inside = r + depth < rank;
		copy_async(stage + SUM_ROWS * SUM_G + depth * SUM_A + (t & 15) * 8, inside ? a + (size_t)(r + depth) * d + col0 + (t & 15) * 8 : a, inside ? 16 : 0);
	}
}

DEVICE void dropped_sum(const u16 *const *g, const u16 *const *a, const u32 *keys, const u32 *where, const u32 *from, u16 *out, int rows, int d,
	int rank, u32 word0, u32 word1, u32 limit, float scale, const int slots, const int type) {
	__shared__ __align__(16) u16 shared[SUM_STAGES * SUM_STAGE];
	const int t = threadIdx.x, lane = t & 31, warp = t >> 5, row0 = blockIdx.y * SUM_ROWS, col0 = blockIdx.x * SUM_COLS;
	const int wr = (warp >> 2) * 32, wc = (warp & 3) * 32; // the warp's 32×32
	const int chunks = (rank + SUM_DEPTH - 1) / SUM_DEPTH;
	float sum[SLOTS][2][4][4];
	int at = 0, next = 0, slot = -1, chunk = chunks; // stages: the one at work, the next to copy and its place
#define NEXT_STAGE() \
	if (chunk == chunks) { \
		chunk = 0; \
		do slot++; while (slot < slots && !(slot == 0 ? g[0] : slot == 1 ? g[1] : slot == 2 ? g[2] : g[3])); \
	} \
	if (slot < slots) \
		sum_stage(shared + next * SUM_STAGE, slot == 0 ? g[0] : slot == 1 ? g[1] : slot == 2 ? g[2] : g[3], slot == 0 ? a[0] : slot == 1 ? a[1] : slot == 2 ? a[2] : a[3], \
			chunk++ * SUM_DEPTH, rows, d, rank); \
	copies_begun(); \
	next = next == SUM_STAGES - 1 ? 0 : next + 1
	for (int i = 0; i < SUM_STAGES; i++) { NEXT_STAGE(); }
#pragma unroll
	for (int i = 0; i < SLOTS; i++) {
		if (i >= slots) break;
#pragma unroll
		for (int k = 0; k < 32; k++) sum[i][k >> 4][k >> 2 & 3][k & 3] = 0;
		if (!g[i]) continue;
		for (int c = 0; c < chunks; c++) {
			copies_done();
			__syncthreads();
			const u16 *gs = shared + at * SUM_STAGE, *as = gs + SUM_ROWS * SUM_G;
#pragma unroll
			for (int k = 0; k < SUM_DEPTH; k += 16) {
				u32 p[2][4], q[2][4];
#pragma unroll
				for (int j = 0; j < 2; j++) {
					load_matrices(p[j], gs + (wr + j * 16 + (lane & 15)) * SUM_G + k + (lane >> 4) * 8, 0);
					load_matrices(q[j], as + (k + (lane & 15)) * SUM_A + wc + j * 16 + (lane >> 4) * 8, 1);
				}
#pragma unroll
				for (int j = 0; j < 8; j++) multiply(sum[i][j >> 2][j & 3], p[j >> 2], q[(j & 3) >> 1] + (j & 1) * 2, type);
			}
			__syncthreads();
			NEXT_STAGE();
			at = at == SUM_STAGES - 1 ? 0 : at + 1;
		}
	}
	word_key key[2] = {{0, 0}, {0, 0}};
	u32 before = (u32)row0;
	if (limit) {
		key[0] = key_of(word0, keys, where);
		if (slots > 2) key[1] = key_of(word1, keys, where);
		if (from) before += *from;
	}
	u32 *words = (u32 *)shared;
#pragma unroll
	for (int k = 0; k < 16; k++) { // pairs of columns
		const int ri = k >> 3, ci = k >> 1 & 3, low = k & 1, row = wr + ri * 16 + low * 8 + (lane >> 2), col = wc + ci * 8 + (lane & 3) * 2;
		float v[2] = {0, 0};
#pragma unroll
		for (int e = 0; e < 2; e++) {
			const u32 element = (before + row) * (u32)d + (u32)(col0 + col + e);
#pragma unroll
			for (int n = 0; n < 2; n++) {
				if (2 * n >= slots) break;
				const u32 bits = limit ? bits_of(element, key[n]) : 0;
				if (keeps(bits, 0, limit)) v[e] += sum[2 * n][ri][ci][low * 2 + e];
				if (keeps(bits, 1, limit)) v[e] += sum[2 * n + 1][ri][ci][low * 2 + e];
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
