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
static void *product;
static int processors, last_error;

enum { THREADS = 256, TABLE_BYTES = 2048 };

// call_product is the custom call's handler: operands codes, absmax, x, result y.
// opaque is the call's configuration, "…_rows_out_in_block_type" of decimal numbers.
static void call_product(void *stream, void **buffers, const char *opaque, size_t n, void *status) {
	(void)status;
	char text[160];
	int rows, out, in, block, type;
	if (n >= sizeof text) { last_error = 1; return; }
	memcpy(text, opaque, n);
	text[n] = 0;
	const char *numbers = strpbrk(text, "0123456789");
	if (!numbers || sscanf(numbers, "%d_%d_%d_%d_%d", &rows, &out, &in, &block, &type) != 5) { last_error = 1; return; }
	int shift = __builtin_ctz((unsigned)block), fit = 0;
	unsigned bytes = TABLE_BYTES + (unsigned)((in + 1023) / 1024) * 4096;
	if (occupancy(&fit, product, THREADS, bytes) || fit < 1) fit = 1;
	unsigned need = (unsigned)(out + THREADS / 32 - 1) / (THREADS / 32), grid = (unsigned)(fit * processors);
	if (grid > need) grid = need;
	void *args[] = {&buffers[0], &buffers[1], &buffers[2], &buffers[3], &out, &in, &shift, &type};
	int e = launch(product, grid, (unsigned)rows, 1, THREADS, 1, 1, bytes, stream, args, NULL);
	if (e) __atomic_store_n(&last_error, e, __ATOMIC_RELAXED);
}

int gt_kernels_error(void) { return __atomic_load_n(&last_error, __ATOMIC_RELAXED); }

// compile makes a cubin; the caller frees it.
static char *compile(void *nvrtc, const char *source, const char *arch, char *log, size_t log_size) {
	int (*create)(void **, const char *, const char *, int, const char **, const char **) = dlsym(nvrtc, "nvrtcCreateProgram");
	int (*build)(void *, int, const char **) = dlsym(nvrtc, "nvrtcCompileProgram");
	int (*destroy)(void **) = dlsym(nvrtc, "nvrtcDestroyProgram");
	int (*size)(void *, size_t *) = dlsym(nvrtc, "nvrtcGetCUBINSize");
	int (*get)(void *, char *) = dlsym(nvrtc, "nvrtcGetCUBIN");
	int (*words_size)(void *, size_t *) = dlsym(nvrtc, "nvrtcGetProgramLogSize");
	int (*words)(void *, char *) = dlsym(nvrtc, "nvrtcGetProgramLog");
	if (!create || !build || !destroy || !size || !get || !words_size || !words) return NULL;
	void *p = NULL;
	if (create(&p, source, "gotune.cu", 0, NULL, NULL)) return NULL;
	char option[64], *bin = NULL;
	snprintf(option, sizeof option, "--gpu-architecture=%s", arch);
	const char *options[] = {option};
	size_t n = 0;
	if (build(p, 1, options)) {
		char *all = NULL;
		if (!words_size(p, &n) && (all = malloc(n + 1)) && !words(p, all)) snprintf(log, log_size, "%.*s", (int)n, all);
		free(all);
	} else if (!size(p, &n) && (bin = malloc(n)) && get(p, bin)) {
		free(bin);
		bin = NULL;
	}
	destroy(&p);
	return bin;
}

int gt_kernels_compile(const char *nvrtc, const char *source, const char *arch, char *log, size_t log_size) {
	void *rtc = dlopen(nvrtc, RTLD_NOW | RTLD_LOCAL);
	if (!rtc) { snprintf(log, log_size, "%s", dlerror()); return 1; }
	char *bin = compile(rtc, source, arch, log, log_size);
	if (!bin) return 2;
	void *cu = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
	if (!cu) { free(bin); return 3; }
	int (*retain)(void **, int) = dlsym(cu, "cuDevicePrimaryCtxRetain");
	int (*push)(void *) = dlsym(cu, "cuCtxPushCurrent_v2"), (*pop)(void **) = dlsym(cu, "cuCtxPopCurrent_v2");
	int (*load)(void **, const void *) = dlsym(cu, "cuModuleLoadData");
	int (*find)(void **, void *, const char *) = dlsym(cu, "cuModuleGetFunction");
	int (*attribute)(int *, int, int) = dlsym(cu, "cuDeviceGetAttribute");
	int (*allow)(void *, int, int) = dlsym(cu, "cuFuncSetAttribute");
	launch = (launch_fn)dlsym(cu, "cuLaunchKernel");
	occupancy = (occupancy_fn)dlsym(cu, "cuOccupancyMaxActiveBlocksPerMultiprocessor");
	void *context = NULL, *module = NULL;
	int e = -1;
	if (retain && push && pop && load && find && attribute && allow && launch && occupancy && !(e = retain(&context, 0)) && !(e = push(context))) {
		int most = 0;
		if (!(e = load(&module, bin)) && !(e = find(&product, module, "gotune_packed_product")) &&
			!(e = attribute(&processors, 16 /* multiprocessors */, 0)) && !(e = attribute(&most, 97 /* shared bytes of a block, by choice */, 0)))
			e = allow(product, 8 /* most dynamic shared bytes */, most);
		pop(&context); // the context stays retained: the kernels live as long as the process
	}
	free(bin);
	if (e) { snprintf(log, log_size, "CUDA driver error %d", e); return 4; }
	return 0;
}

// The GPU extension of the PJRT C API (pjrt_c_api_gpu_extension.h), type 0.
typedef struct extension { size_t size; int type; struct extension *next; } extension;
typedef struct { size_t size; const char *name; size_t name_size; int version; void *instantiate, *prepare, *initialize, *execute; uint32_t traits; } register_args;
typedef struct { extension base; void *(*add)(register_args *); } gpu_extension;

int gt_kernels_register(const char *path, const char *target) {
	void *h = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
	if (!h) return 1;
	void *(*get)(void) = (void *(*)(void))dlsym(h, "GetPjrtApi");
	char *api = get ? get() : NULL;
	dlclose(h);
	if (!api) return 2;
	for (extension *e = *(extension **)(api + sizeof(size_t)); e; e = e->next) {
		if (e->type != 0) continue;
		register_args a = {.size = sizeof a, .name = target, .name_size = strlen(target), .version = 0, .execute = (void *)call_product};
		return ((gpu_extension *)e)->add(&a) ? 4 : 0;
	}
	return 3;
}
