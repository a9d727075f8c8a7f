/* Convolution and RG-LRU over whole batches, and backward: a thread takes some channels and goes through all rows. Where a document
 * begins, b->first says so. */
#include <math.h>
#include <string.h>

#include "cpu/ops_grad.h"

typedef struct conv_args {
    float *y, *dx, *dc, *dbias;
    const float *dy, *x, *c, *bias;
    const shk_batch *b;
    size_t w, taps;
} conv_args;

/* How many inputs before row i the convolution sees. */
static size_t seen(const conv_args *a, size_t i) {
    size_t t = i % a->b->T - (size_t)a->b->first[i];
    return t < a->taps - 1 ? t : a->taps - 1;
}

static void conv1d_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const conv_args *a = ctx;
    for (size_t i = 0; i < a->b->B * a->b->T; i++) {
        float *y = a->y + i * a->w;
        size_t back = seen(a, i);
        memcpy(y + begin, a->bias + begin, (end - begin) * sizeof *y);
        for (size_t k = 0; k <= back; k++) {
            const float *x = a->x + (i - k) * a->w, *c = a->c + (a->taps - 1 - k) * a->w;
            for (size_t j = begin; j < end; j++) y[j] += x[j] * c[j];
        }
    }
}

static void conv1d_grad_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const conv_args *a = ctx;
    for (size_t i = 0; i < a->b->B * a->b->T; i++) {
        const float *dy = a->dy + i * a->w;
        size_t back = seen(a, i);
        memset(a->dx + i * a->w + begin, 0, (end - begin) * sizeof(float));
        for (size_t j = begin; j < end; j++) a->dbias[j] += dy[j];
        for (size_t k = 0; k <= back; k++) { /* row i - k has been passed, and set to 0, before */
            size_t at = (a->taps - 1 - k) * a->w;
            const float *x = a->x + (i - k) * a->w, *c = a->c + at;
            float *dx = a->dx + (i - k) * a->w, *dc = a->dc + at;
            for (size_t j = begin; j < end; j++) dx[j] += dy[j] * c[j], dc[j] += dy[j] * x[j];
        }
    }
}

void shk_cpu_conv1d_rows(void *dev, float *y, const float *x, const float *c, const float *bias, const shk_batch *b, size_t w,
                         size_t taps) {
    conv_args args = { .y = y, .x = x, .c = c, .bias = bias, .b = b, .w = w, .taps = taps };
    shk_pool_run(((shk_cpu *)dev)->pool, conv1d_range, &args, w, SHK_CPU_COLUMNS);
}

void shk_cpu_conv1d_grad(void *dev, float *dx, float *dc, float *dbias, const float *dy, const float *x, const float *c,
                         const shk_batch *b, size_t w, size_t taps) {
    conv_args args = { .dx = dx, .dc = dc, .dbias = dbias, .dy = dy, .x = x, .c = c, .b = b, .w = w, .taps = taps };
    shk_pool_run(((shk_cpu *)dev)->pool, conv1d_grad_range, &args, w, SHK_CPU_COLUMNS);
}

typedef struct rglru_args {
    const shk_cpu *cpu;
    float *y, *dx, *dia, *dra, *dlambda;
    const float *dy, *h, *x, *ia, *ra, *lambda;
    const shk_batch *b;
    size_t w;
} rglru_args;

static bool begins(const shk_batch *b, size_t i) { return (size_t)b->first[i] == i % b->T; }

static void rglru_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rglru_args *a = ctx;
    float sl[SHK_CPU_COLUMNS], h[SHK_CPU_COLUMNS];
    for (size_t j = begin; j < end; j += SHK_CPU_COLUMNS) {
        size_t n = end - j < SHK_CPU_COLUMNS ? end - j : SHK_CPU_COLUMNS;
        a->cpu->k.softplus(sl, a->lambda + j, n);
        for (size_t i = 0; i < a->b->B * a->b->T; i++) {
            size_t at = i * a->w + j;
            a->cpu->k.rglru_step(a->y + at, h, a->x + at, a->ia + at, a->ra + at, sl, n, begins(a->b, i));
        }
    }
}

static void rglru_grad_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const rglru_args *a = ctx;
    for (size_t j = begin; j < end; j += SHK_CPU_COLUMNS) {
        size_t n = end - j < SHK_CPU_COLUMNS ? end - j : SHK_CPU_COLUMNS;
        float sl[SHK_CPU_COLUMNS], carry[SHK_CPU_COLUMNS] = { 0 };
        double dsl[SHK_CPU_COLUMNS] = { 0 };
        a->cpu->k.softplus(sl, a->lambda + j, n);
        for (size_t i = a->b->B * a->b->T; i-- > 0;) {
            size_t at = i * a->w + j;
            const float *before = begins(a->b, i) ? NULL : a->h + at - a->w; /* the carry is 0 before a document's last row */
            a->cpu->k.rglru_grad_step(a->dx + at, a->dia + at, a->dra + at, dsl, carry, a->dy + at, before, a->x + at, a->ia + at,
                                      a->ra + at, sl, n);
        }
        for (size_t k = 0; k < n; k++) a->dlambda[j + k] += (float)(dsl[k] / (1 + exp(-(double)a->lambda[j + k])));
    }
}

void shk_cpu_rglru_rows(void *dev, float *y, const float *x, const float *ia, const float *ra, const float *lambda,
                        const shk_batch *b, size_t w) {
    shk_cpu *cpu = dev;
    rglru_args args = { .cpu = cpu, .y = y, .x = x, .ia = ia, .ra = ra, .lambda = lambda, .b = b, .w = w };
    shk_pool_run(cpu->pool, rglru_range, &args, w, SHK_CPU_COLUMNS);
}

void shk_cpu_rglru_grad(void *dev, float *dx, float *dia, float *dra, float *dlambda, const float *dy, const float *y,
                        const float *x, const float *ia, const float *ra, const float *lambda, const shk_batch *b, size_t w) {
    shk_cpu *cpu = dev;
    rglru_args args = { cpu, NULL, dx, dia, dra, dlambda, dy, y, x, ia, ra, lambda, b, w };
    shk_pool_run(cpu->pool, rglru_grad_range, &args, w, SHK_CPU_COLUMNS);
}
