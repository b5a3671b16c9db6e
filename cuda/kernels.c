#define _GNU_SOURCE
#include "kernels.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*launch_fn)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
typedef int (*occupancy_fn)(int *, void *, int, size_t);

static launch_fn launch;
static occupancy_fn occupancy;
static int processors, last_error;

// The kernels' entries. Those of the gradient through dropped inputs need compute capability 8.0.
enum { PRODUCT, NORM, NORM_BACKWARD = NORM + 2, DROPPED_SUM = NORM_BACKWARD + 4, ENTRIES = DROPPED_SUM + 4 };
static const char *const names[ENTRIES] = {"gotune_packed_product", "gotune_rms_norm_bf16", "gotune_rms_norm_f16",
	"gotune_rms_norm_backward_bf16_1", "gotune_rms_norm_backward_bf16_2", "gotune_rms_norm_backward_f16_1", "gotune_rms_norm_backward_f16_2",
	"gotune_dropped_sum_bf16_2", "gotune_dropped_sum_bf16_4", "gotune_dropped_sum_f16_2", "gotune_dropped_sum_f16_4"};
static void *entries[ENTRIES];

static void note(int e) {
	if (e) __atomic_store_n(&last_error, e, __ATOMIC_RELAXED);
}

// numbers reads a call's configuration, "name_1_2_3", and reports whether it has that many.
static bool numbers(const char *opaque, size_t n, long *out, int count) {
	char text[256], *at = text;
	if (n >= sizeof text) return false;
	memcpy(text, opaque, n);
	text[n] = 0;
	while (*at && !strchr("0123456789", *at)) at++;
	for (int i = 0; i < count; i++) {
		char *end;
		out[i] = strtol(at, &end, 10);
		if (end == at) return false;
		at = *end == '_' ? end + 1 : end;
	}
	return !*at;
}

static float float_of(long bits) {
	uint32_t b = (uint32_t)bits;
	float f;
	memcpy(&f, &b, sizeof f);
	return f;
}

enum { THREADS = 256, TABLE_BYTES = 2048, INVALID = 1 /* CUDA_ERROR_INVALID_VALUE */ };

// The handlers of custom calls get the operands and then the results in buffers; opaque is the call's configuration.

// call_product: codes, absmax, x; y. rows, out, in, block, type.
static void call_product(void *stream, void **buffers, const char *opaque, size_t n, void *status) {
	(void)status;
	long c[5];
	if (!numbers(opaque, n, c, 5)) { note(INVALID); return; }
	int rows = (int)c[0], out = (int)c[1], in = (int)c[2], type = (int)c[4], shift = __builtin_ctz((unsigned)c[3]), fit = 0;
	unsigned bytes = TABLE_BYTES + (unsigned)((in + 1023) / 1024) * 4096;
	if (occupancy(&fit, entries[PRODUCT], THREADS, bytes) || fit < 1) fit = 1;
	unsigned need = (unsigned)(out + THREADS / 32 - 1) / (THREADS / 32), grid = (unsigned)(fit * processors);
	if (grid > need) grid = need;
	void *args[] = {&buffers[0], &buffers[1], &buffers[2], &buffers[3], &out, &in, &shift, &type};
	note(launch(entries[PRODUCT], grid, (unsigned)rows, 1, THREADS, 1, 1, bytes, stream, args, NULL));
}

// A call's masks: the slot of each (kernel/element.cu), the words that they are halves of, the limit, the scale, and whether an operand says how many
// tokens come before. Without masks adapters have a slot each.
typedef struct { int n, slot[3]; uint32_t word[2], limit; float scale; bool from; } dropout;

static dropout dropout_of(const long *c) {
	dropout m = {.n = (int)c[0], .limit = (uint32_t)c[2] << 16, .scale = float_of(c[3]), .from = c[4] != 0};
	int words = 0;
	for (int i = 0; i < m.n && i < 3; i++) {
		const uint32_t lane = c[1] >> 4 * i & 15;
		int w = 0;
		while (w < words && m.word[w] != lane >> 1) w++;
		if (w == 2) { m.n = -1; break; } // two words have four slots
		if (w == words) m.word[words++] = lane >> 1;
		m.slot[i] = m.limit ? 2 * w + (int)(lane & 1) : i;
	}
	return m;
}

// launch_norm launches an entry of kernel/rms_norm.cu for rows of d, each elements a thread, in whole warps: as many blocks as stand on the device side by side.
static void launch_norm(void *entry, int each, int rows, int d, void *stream, void **args) {
	const int threads = ((d + each - 1) / each + 31) / 32 * 32;
	int fit = 0;
	if (occupancy(&fit, entry, threads, 0) || fit < 1) fit = 1;
	const int side = fit * processors;
	note(launch(entry, (unsigned)(side < rows ? side : rows), 1, 1, (unsigned)threads, 1, 1, 0, stream, args, NULL));
}

// call_norm: x, w and, with masks, keys, where, perhaps from; h if it is wanted, then the dropped copies. rows, D, type, ε, h, dropout.
static void call_norm(void *stream, void **buffers, const char *opaque, size_t n, void *status) {
	(void)status;
	long c[10];
	if (!numbers(opaque, n, c, 10)) { note(INVALID); return; }
	int rows = (int)c[0], d = (int)c[1];
	float eps = float_of(c[3]);
	dropout m = dropout_of(c + 5);
	if (m.n < 0 || m.n > 3) { note(INVALID); return; }
	void *none = NULL, *x = *buffers++, *w = *buffers++, *keys = m.n ? *buffers++ : none, *where = m.n ? *buffers++ : none, *from = m.from ? *buffers++ : none;
	void *h = c[4] ? *buffers++ : none, *y[4] = {NULL, NULL, NULL, NULL};
	for (int i = 0; i < m.n; i++) y[m.slot[i]] = *buffers++;
	void *args[] = {&x, &w, &keys, &where, &from, &h, &y[0], &y[1], &y[2], &y[3], &rows, &d, &eps, &m.word[0], &m.word[1], &m.limit, &m.scale};
	launch_norm(entries[NORM + (c[2] != 0)], 16, rows, d, stream, args);
}

// call_norm_backward: x, w, dh, dres; dx. rows, D, type, ε.
static void call_norm_backward(void *stream, void **buffers, const char *opaque, size_t n, void *status) {
	(void)status;
	long c[4];
	if (!numbers(opaque, n, c, 4)) { note(INVALID); return; }
	int rows = (int)c[0], d = (int)c[1];
	float eps = float_of(c[3]);
	void *args[] = {&buffers[0], &buffers[1], &buffers[2], &buffers[3], &buffers[4], &rows, &d, &eps};
	const int twice = d > 8 * 512; // a row is too long for 8 elements a thread
	launch_norm(entries[NORM_BACKWARD + 2 * (c[2] != 0) + twice], twice ? 16 : 8, rows, d, stream, args);
}

// call_dropped_sum: g of each adapter, a of each and, with masks, keys, where, perhaps from; out. rows, D, R, type, dropout.
static void call_dropped_sum(void *stream, void **buffers, const char *opaque, size_t n, void *status) {
	(void)status;
	long c[9];
	if (!numbers(opaque, n, c, 9)) { note(INVALID); return; }
	int rows = (int)c[0], d = (int)c[1], rank = (int)c[2], last = 0;
	dropout m = dropout_of(c + 4);
	if (m.n < 1 || m.n > 3) { note(INVALID); return; }
	void *none = NULL, *g[4] = {NULL, NULL, NULL, NULL}, *a[4] = {NULL, NULL, NULL, NULL};
	for (int i = 0; i < m.n; i++) {
		g[m.slot[i]] = buffers[i], a[m.slot[i]] = buffers[m.n + i];
		if (m.slot[i] > last) last = m.slot[i];
	}
	buffers += 2 * m.n;
	void *keys = m.limit ? *buffers++ : none, *where = m.limit ? *buffers++ : none, *from = m.from ? *buffers++ : none, *out = *buffers;
	void *args[] = {&g[0], &g[1], &g[2], &g[3], &a[0], &a[1], &a[2], &a[3], &keys, &where, &from, &out, &rows, &d, &rank, &m.word[0], &m.word[1], &m.limit, &m.scale};
	// As many blocks as stand on the device side by side, each for 128 columns; rows of out, g [64, R + 8] and a [R, 136] in shared memory.
	unsigned depth = (unsigned)(rank + 15) / 16 * 16, bytes = 64 * 68 * 4 + (unsigned)m.n * 2 * (64 * (depth + 8) + depth * 136);
	unsigned columns = (unsigned)d / 128, tiles = (unsigned)(rows + 63) / 64;
	int fit = 0, entry = DROPPED_SUM + (c[3] != 0) * 2 + (last > 1);
	if (occupancy(&fit, entries[entry], THREADS, bytes) || fit < 1) fit = 1;
	unsigned side = (unsigned)(fit * processors) / columns;
	note(launch(entries[entry], columns, side < 1 ? 1 : side > tiles ? tiles : side, 1, THREADS, 1, 1, bytes, stream, args, NULL));
}

static const struct { const char *name; void (*call)(void *, void **, const char *, size_t, void *); } targets[] = {
	{"gotune_packed_product", call_product}, {"gotune_rms_norm", call_norm}, {"gotune_rms_norm_backward", call_norm_backward}, {"gotune_dropped_sum", call_dropped_sum}};

int gt_kernels_error(void) { return __atomic_load_n(&last_error, __ATOMIC_RELAXED); }

char *gt_kernels_compile(const char *library, const char *source, const char *arch, char *log, size_t log_size, size_t *n) {
	void *nvrtc = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	if (!nvrtc) { snprintf(log, log_size, "can't be loaded: %s", dlerror()); return NULL; }
	int (*create)(void **, const char *, const char *, int, const char **, const char **) = dlsym(nvrtc, "nvrtcCreateProgram");
	int (*build)(void *, int, const char **) = dlsym(nvrtc, "nvrtcCompileProgram");
	int (*destroy)(void **) = dlsym(nvrtc, "nvrtcDestroyProgram");
	int (*size)(void *, size_t *) = dlsym(nvrtc, "nvrtcGetCUBINSize");
	int (*get)(void *, char *) = dlsym(nvrtc, "nvrtcGetCUBIN");
	int (*words_size)(void *, size_t *) = dlsym(nvrtc, "nvrtcGetProgramLogSize");
	int (*words)(void *, char *) = dlsym(nvrtc, "nvrtcGetProgramLog");
	void *p = NULL;
	snprintf(log, log_size, "is no NVRTC, or too old");
	if (!create || !build || !destroy || !size || !get || !words_size || !words || create(&p, source, "gotune.cu", 0, NULL, NULL)) return NULL;
	char option[64], *bin = NULL;
	snprintf(option, sizeof option, "--gpu-architecture=%s", arch);
	const char *options[] = {option};
	if (build(p, 1, options)) {
		char *all = NULL;
		snprintf(log, log_size, "can't compile");
		if (!words_size(p, n) && (all = malloc(*n + 1)) && !words(p, all)) snprintf(log, log_size, "can't compile: %.*s", (int)*n, all);
		free(all);
	} else if (!size(p, n) && (bin = malloc(*n)) && get(p, bin)) {
		free(bin);
		bin = NULL;
	}
	destroy(&p);
	return bin;
}

int gt_kernels_load(const void *code) {
	void *cu = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
	if (!cu) return -1;
	int (*retain)(void **, int) = dlsym(cu, "cuDevicePrimaryCtxRetain");
	int (*push)(void *) = dlsym(cu, "cuCtxPushCurrent_v2"), (*pop)(void **) = dlsym(cu, "cuCtxPopCurrent_v2");
	int (*load)(void **, const void *) = dlsym(cu, "cuModuleLoadData");
	int (*find)(void **, void *, const char *) = dlsym(cu, "cuModuleGetFunction");
	int (*attribute)(int *, int, int) = dlsym(cu, "cuDeviceGetAttribute");
	int (*allow)(void *, int, int) = dlsym(cu, "cuFuncSetAttribute");
	launch = (launch_fn)dlsym(cu, "cuLaunchKernel");
	occupancy = (occupancy_fn)dlsym(cu, "cuOccupancyMaxActiveBlocksPerMultiprocessor");
	void *context = NULL, *module = NULL;
	int e, most = 0;
	if (!retain || !push || !pop || !load || !find || !attribute || !allow || !launch || !occupancy) return -1;
	if ((e = retain(&context, 0)) || (e = push(context))) return e;
	e = load(&module, code);
	for (int i = 0; !e && i < ENTRIES; i++)
		if ((e = find(&entries[i], module, names[i])) && i >= DROPPED_SUM) entries[i] = NULL, e = 0; // an older GPU
	if (!e && !(e = attribute(&processors, 16 /* multiprocessors */, 0)) && !(e = attribute(&most, 97 /* shared bytes of a block, by choice */, 0)))
		for (int i = 0; !e && i < ENTRIES; i++)
			if (entries[i] && (i == PRODUCT || i >= DROPPED_SUM)) e = allow(entries[i], 8 /* most dynamic shared bytes */, most);
	pop(&context); // the context stays retained: the kernels live as long as the process
	return e;
}

// The GPU extension of the PJRT C API (pjrt_c_api_gpu_extension.h), type 0.
typedef struct extension { size_t size; int type; struct extension *next; } extension;
typedef struct { size_t size; const char *name; size_t name_size; int version; void *instantiate, *prepare, *initialize, *execute; uint32_t traits; } register_args;
typedef struct { extension base; void *(*add)(register_args *); } gpu_extension;

int gt_kernels_register(const char *path) {
	void *h = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	if (!h) return 1;
	void *(*get)(void) = (void *(*)(void))dlsym(h, "GetPjrtApi");
	char *api = get ? get() : NULL;
	dlclose(h);
	if (!api) return 2;
	for (extension *e = *(extension **)(api + sizeof(size_t)); e; e = e->next) {
		if (e->type != 0) continue;
		for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
			register_args a = {.size = sizeof a, .name = targets[i].name, .name_size = strlen(targets[i].name), .version = 0, .execute = (void *)targets[i].call};
			if (((gpu_extension *)e)->add(&a)) return 4;
		}
		return 0;
	}
	return 3;
}
