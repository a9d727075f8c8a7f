/* The machine's ceilings, measured: what a share of the possible is a share of. */
#include <stdlib.h>
#include <time.h>

#include "cpu/detect.h"
#include "cpu/kernels.h"
#include "cpu/pool.h"
#include "error.h"
#include "mem.h"
#include "ops.h"

enum { REPEATS = 5, ROUNDS = 200000 };
static const size_t BYTES = (size_t)1 << 30; /* last-level caches of hundreds of MB exist */

typedef struct probe {
    shk_kernels k;
    const char *data; /* NULL: arithmetic */
    double flops[1024];
    float sink[1024][16]; /* [threads], a cache line each */
} probe;

static void probe_range(void *ctx, int thread, size_t begin, size_t end) {
    probe *p = ctx;
    p->sink[thread][0] = 0.5f;
    if (p->data) p->k.probe_read(p->sink[thread], p->data + begin, end - begin);
    else p->flops[thread] = p->k.probe_fma(p->sink[thread], (end - begin) * ROUNDS);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median time of a loop over n. */
static double median(probe *p, shk_pool *pool, size_t n, size_t grain) {
    double t[REPEATS];
    for (int r = 0; r < REPEATS; r++) {
        double start = now();
        shk_pool_run(pool, probe_range, p, n, grain);
        t[r] = now() - start;
    }
    qsort(t, REPEATS, sizeof *t, ascending);
    return t[REPEATS / 2];
}

shk_status shk_cpu_probe(shk_ceilings *out, int threads, shk_error *err) {
    unsigned cpu;
    shk_pool *pool = NULL;
    char *data = NULL;
    shk_status st = shk_cpu_detect(&cpu, err);
    if (st) return st;
    if (threads < 0 || threads > 1024) return shk_fail(err, SHK_E_ARGUMENT, "%d threads: must be from 0 to 1024", threads);
    if (!threads) threads = shk_cpu_count();
    probe *p = shk_calloc(1, sizeof *p);
    if (!p || !(data = shk_reserve(BYTES))) {
        st = shk_fail(err, SHK_E_MEMORY, "no memory for a probe of %zu bytes", BYTES);
        goto done;
    }
    st = shk_pool_new(&pool, threads, err);
    if (st) goto done;
    shk_cpu_kernels(&p->k, cpu);
    for (size_t i = 0; i < BYTES; i += 4096) data[i] = 1; /* pages of their own, not the one that reads as zero */
    p->data = data;
    out->bytes_per_s = (double)BYTES / median(p, pool, BYTES, 1 << 20);
    p->data = NULL;
    double t = median(p, pool, (size_t)threads, 1), flops = 0;
    for (int i = 0; i < threads; i++) flops += p->flops[i];
    out->flops_per_s = flops / t;
done:
    shk_pool_free(pool);
    shk_release(data, BYTES);
    free(p);
    return st;
}
