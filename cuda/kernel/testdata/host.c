// Runs gotune's kernels on a processor, for tests: a thread for each of a block's, block after block, with plain C in the place of
// a GPU's instructions. The calls go through kernels.c, as XLA's do.
//
//	host TARGET CONFIGURATION OPERANDS SIZE... < operands > results
//
// Each size is a buffer's in bytes, operands first; results are what lies behind the operands.
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_THREADS 512

#define __device__
#define __global__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
typedef struct { unsigned x, y, z, w; } uint4;
typedef struct { float x, y, z, w; } float4;
typedef struct { unsigned x, y; } place;
static __thread place threadIdx;
static place blockIdx, blockDim, gridDim;
#define SHARED_BYTES(name) static unsigned char name[1 << 18] __attribute__((aligned(16)))
static pthread_barrier_t block, warps[MOST_THREADS / 32];
static unsigned words[MOST_THREADS][6];

static void __syncthreads(void) { pthread_barrier_wait(&block); }
static void warp_wait(void) { pthread_barrier_wait(&warps[threadIdx.x / 32]); }
static unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static float rsqrtf(float v) { return 1 / sqrtf(v); }
static float __shfl_xor_sync(unsigned all, float v, int other) {
	(void)all;
	words[threadIdx.x][0] = __float_as_uint(v);
	warp_wait();
	const float got = __uint_as_float(words[threadIdx.x ^ (unsigned)other][0]);
	warp_wait();
	return got;
}
static float half_to_float(unsigned short v) { _Float16 h; memcpy(&h, &v, 2); return (float)h; }
static unsigned short float_to_half(float f) { _Float16 h = (_Float16)f; unsigned short v; memcpy(&v, &h, 2); return v; }

static void copy_async(unsigned short *to, const unsigned short *from, int bytes) { memset(to, 0, 16), memcpy(to, from, (size_t)bytes); }
static void copies_done(void) {}

// ldmatrix: matrix j's row i is named by lane 8j + i, and of it lane 4i + k gets elements 2k and 2k+1; turned, of rows 2k and 2k+1 element i.
static const unsigned short *named[MOST_THREADS];
static void load_matrices(unsigned *v, const unsigned short *p, int turned) {
	const unsigned first = threadIdx.x & ~31u, lane = threadIdx.x & 31, i = lane / 4, k = 2 * (lane & 3);
	named[threadIdx.x] = p;
	warp_wait();
	for (unsigned j = 0; j < 4; j++) {
		const unsigned short *const *rows = named + first + 8 * j;
		v[j] = turned ? rows[k][i] | (unsigned)rows[k + 1][i] << 16 : rows[i][k] | (unsigned)rows[i][k + 1] << 16;
	}
	warp_wait();
}

static float element(unsigned word, int upper, int type);

// mma.m16n8k16: lane 4i + k holds of a the words k of rows i, i+8, and k+4 of both; of b those of column i; of c columns 2k, 2k+1 of both rows.
static void multiply(float *c, const unsigned *a, const unsigned *b, int type) {
	const unsigned first = threadIdx.x & ~31u, lane = threadIdx.x & 31;
	memcpy(words[threadIdx.x], a, 16), memcpy(words[threadIdx.x] + 4, b, 8);
	warp_wait();
	for (unsigned e = 0; e < 4; e++) {
		const unsigned low = e >> 1, row = lane / 4, col = 2 * (lane & 3) + (e & 1);
		for (unsigned k = 0; k < 16; k++) {
			const unsigned word = k / 2 & 3, upper = k / 8;
			c[e] += element(words[first + 4 * row + word][2 * upper + low], k & 1, type) * element(words[first + 4 * col + word][4 + upper], k & 1, type);
		}
	}
	warp_wait();
}

#include "../element.cu"
#include "../rms_norm.cu"
#include "../dropped_sum.cu"

static float element(unsigned word, int upper, int type) { return widen(upper ? word >> 16 : word & 0xffff, type); }

#include "../../kernels.c"

// run is what a thread runs: a kernel's entry with the arguments of its launch.
typedef struct { int entry; void **args; unsigned thread; } work;
#define P(i) (*(void **)w->args[i])
#define I(i) (*(int *)w->args[i])
#define F(i) (*(float *)w->args[i])
#define NORM_ARGS P(0), P(1), P(2), P(3), P(4), P(5), P(6), P(7), P(8), P(9), I(10), I(11), F(12), (u32)I(13), (u32)I(14), (u32)I(15), F(16)
#define BACKWARD_ARGS P(0), P(1), P(2), P(3), P(4), I(5), I(6), F(7)
#define SUM_ARGS P(0), P(1), P(2), P(3), P(4), P(5), P(6), P(7), P(8), P(9), P(10), P(11), I(12), I(13), I(14), (u32)I(15), (u32)I(16), (u32)I(17), F(18)
static void *run(void *p) {
	work *w = p;
	threadIdx = (place){w->thread, 0};
	switch (w->entry) {
	case NORM: gotune_rms_norm_bf16(NORM_ARGS); break;
	case NORM + 1: gotune_rms_norm_f16(NORM_ARGS); break;
	case NORM_BACKWARD: gotune_rms_norm_backward_bf16_1(BACKWARD_ARGS); break;
	case NORM_BACKWARD + 1: gotune_rms_norm_backward_bf16_2(BACKWARD_ARGS); break;
	case NORM_BACKWARD + 2: gotune_rms_norm_backward_f16_1(BACKWARD_ARGS); break;
	case NORM_BACKWARD + 3: gotune_rms_norm_backward_f16_2(BACKWARD_ARGS); break;
	case DROPPED_SUM: gotune_dropped_sum_bf16_2(SUM_ARGS); break;
	case DROPPED_SUM + 1: gotune_dropped_sum_bf16_4(SUM_ARGS); break;
	case DROPPED_SUM + 2: gotune_dropped_sum_f16_2(SUM_ARGS); break;
	case DROPPED_SUM + 3: gotune_dropped_sum_f16_4(SUM_ARGS); break;
	}
	return NULL;
}

static int host_launch(void *entry, unsigned gx, unsigned gy, unsigned gz, unsigned tx, unsigned ty, unsigned tz, unsigned shared, void *stream, void **args, void **extra) {
	if (gz != 1 || tx > MOST_THREADS || tx % 32 || ty != 1 || tz != 1 || shared > 1 << 18 || stream || extra) return 1;
	static pthread_t threads[MOST_THREADS];
	static work works[MOST_THREADS];
	blockDim = (place){tx, 1}, gridDim = (place){gx, gy};
	pthread_barrier_init(&block, NULL, tx);
	for (blockIdx.y = 0; blockIdx.y < gy; blockIdx.y++)
		for (blockIdx.x = 0; blockIdx.x < gx; blockIdx.x++) {
			for (unsigned t = 0; t < tx; t++) {
				works[t] = (work){(int)(size_t)entry, args, t};
				if (pthread_create(&threads[t], NULL, run, &works[t])) return 2;
			}
			for (unsigned t = 0; t < tx; t++) pthread_join(threads[t], NULL);
		}
	return 0;
}

static int host_occupancy(int *blocks, void *entry, int threads, size_t shared) {
	(void)entry, (void)threads, (void)shared;
	*blocks = 2;
	return 0;
}

int main(int argc, char **argv) {
	if (argc < 4) return 2;
	launch = host_launch, occupancy = host_occupancy, processors = 1;
	for (int i = 0; i < ENTRIES; i++) entries[i] = (void *)(size_t)i;
	for (int i = 0; i < MOST_THREADS / 32; i++) pthread_barrier_init(&warps[i], NULL, 32);
	const int operands = atoi(argv[3]), buffers = argc - 4;
	void **b = calloc((size_t)buffers, sizeof *b);
	for (int i = 0; i < buffers; i++) {
		const size_t n = strtoull(argv[4 + i], NULL, 10);
		b[i] = aligned_alloc(64, (n + 63) / 64 * 64);
		memset(b[i], 0xff, n);
		if (i < operands && fread(b[i], 1, n, stdin) != n) return 3;
	}
	for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
		if (!strcmp(targets[i].name, argv[1])) targets[i].call(NULL, b, argv[2], strlen(argv[2]), NULL);
	if (gt_kernels_error()) { fprintf(stderr, "error %d\n", gt_kernels_error()); return 4; }
	for (int i = operands; i < buffers; i++) fwrite(b[i], 1, strtoull(argv[4 + i], NULL, 10), stdout);
	return 0;
}
