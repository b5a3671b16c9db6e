// gotune's kernels: compiled by NVRTC for the GPU at hand, registered with a PJRT
// plugin as targets of custom calls.

#ifndef GOTUNE_KERNELS_H
#define GOTUNE_KERNELS_H

#include <stddef.h>

// gt_kernels_compile compiles source with the NVRTC library of that name for an
// architecture ("sm_90"). It returns n bytes of code, which the caller frees, or NULL
// with words in log.
char *gt_kernels_compile(const char *library, const char *source, const char *arch, char *log, size_t log_size, size_t *n);

// gt_kernels_load loads the code into the first device's primary context. It returns the
// driver's error, 0 for none, -1 without a driver.
int gt_kernels_load(const void *code);

// gt_kernels_register names the kernels to a plugin that is loaded from path.
int gt_kernels_register(const char *path);

// gt_kernels_error is the last error of a launch (CUresult), 0 for none.
int gt_kernels_error(void);

#endif
