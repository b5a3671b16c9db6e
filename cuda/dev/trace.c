// trace.c writes each kernel and copy of a process, with its times, as CUPTI sees it. Build it where CUDA is and let the driver load it:
//
//	cc -O2 -shared -fPIC -I CUDA/include trace.c -o trace.so -L CUPTI/lib -l:libcupti.so.13 -lpthread
//	CUDA_INJECTION64_PATH=$PWD/trace.so GOTUNE_TRACE=trace.tsv gotune train run.yaml
//
// A line of the file is: start and end in ns, stream, name (copies are named by their kind). summary.py beside this adds them up. The
// records are flushed five times a second, for a Go program ends without running exit handlers.
#include <cupti.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static FILE *out;

static void CUPTIAPI requested(uint8_t **buffer, size_t *size, size_t *records) {
    *size = 8 << 20;
    *buffer = aligned_alloc(8, *size);
    *records = 0;
}

static void CUPTIAPI completed(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    CUpti_Activity *r = NULL;
    (void)context, (void)stream, (void)size;
    while (cuptiActivityGetNextRecord(buffer, valid, &r) == CUPTI_SUCCESS) {
        if (r->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            CUpti_ActivityKernel9 *k = (CUpti_ActivityKernel9 *)r;
            fprintf(out, "%llu\t%llu\t%u\t%s\n", (unsigned long long)k->start, (unsigned long long)k->end, k->streamId, k->name);
        } else if (r->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            CUpti_ActivityMemcpy6 *c = (CUpti_ActivityMemcpy6 *)r;
            fprintf(out, "%llu\t%llu\t%u\tcopy kind %d of %llu bytes\n", (unsigned long long)c->start, (unsigned long long)c->end, c->streamId, c->copyKind,
                    (unsigned long long)c->bytes);
        } else if (r->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
            CUpti_ActivityMemset4 *m = (CUpti_ActivityMemset4 *)r;
            fprintf(out, "%llu\t%llu\t%u\tset %llu bytes\n", (unsigned long long)m->start, (unsigned long long)m->end, m->streamId, (unsigned long long)m->bytes);
        }
    }
    fflush(out);
    free(buffer);
}

static void *flush(void *unused) {
    (void)unused;
    for (;;) {
        usleep(200000);
        cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    }
    return NULL;
}

static void must(const char *what, CUptiResult r) {
    const char *why = "";
    if (r == CUPTI_SUCCESS) return;
    cuptiGetResultString(r, &why);
    fprintf(stderr, "trace: %s: %s\n", what, why);
}

// InitializeInjection is what the driver calls when it loads this library.
int InitializeInjection(void) {
    const char *path = getenv("GOTUNE_TRACE");
    pthread_t thread;
    out = fopen(path ? path : "trace.tsv", "w");
    if (!out) {
        perror("trace");
        return 0;
    }
    must("callbacks", cuptiActivityRegisterCallbacks(requested, completed));
    must("kernels", cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL));
    must("copies", cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY));
    must("sets", cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET));
    pthread_create(&thread, NULL, flush, NULL);
    return 1;
}
