// gotune's kernels: compiled by NVRTC for the GPU at hand, registered with a PJRT
// plugin as targets of custom calls.

#ifndef GOTUNE_KERNELS_H
#define GOTUNE_KERNELS_H

#include <stddef.h>

// gt_kernels_compile compiles source with the NVRTC library at nvrtc for an
// architecture ("sm_90") and loads it into the first device's primary context. It
// returns 0, or the number of the step that failed, with words in log.
int gt_kernels_compile(const char *nvrtc, const char *source, const char *arch, char *log, size_t log_size);

// gt_kernels_register names the packed product to a plugin that is loaded from path.
int gt_kernels_register(const char *path, const char *target);

// gt_kernels_error is the last error of a launch (CUresult), 0 for none.
int gt_kernels_error(void);

#endif
