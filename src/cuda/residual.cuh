/* What comes between two blocks of a layer, for one row by a block: y = norm(y) before if `before`; x += y; out = norm(x) after if
 * `out`. */
#ifndef SHK_CUDA_RESIDUAL_CUH
#define SHK_CUDA_RESIDUAL_CUH

#include "cuda/device.cuh"

enum { ROW_THREADS = 512, ROW_HELD = 8 };

/* A row in the registers of a block, where it is short enough: thread i has values i, i + ROW_THREADS... */
typedef struct held_row {
    float v[ROW_HELD];
} held_row;

static __device__ __forceinline__ float row_scale(const held_row &x, size_t n, float eps, float *space) {
    float squares = 0;
#pragma unroll
    for (int i = 0; i < ROW_HELD; i++) squares = fmaf(x.v[i], x.v[i], squares);
    return rsqrtf(block_sum(squares, space) / (float)n + eps);
}

static __device__ __forceinline__ void get_row(held_row *x, const float *from, size_t n) {
#pragma unroll
    for (int i = 0; i < ROW_HELD; i++) {
        size_t at = threadIdx.x + (size_t)i * ROW_THREADS;
        x->v[i] = at < n ? from[at] : 0;
    }
}

static __device__ __forceinline__ void put_row(float *to, const held_row &x, size_t n) {
#pragma unroll
    for (int i = 0; i < ROW_HELD; i++) {
        size_t at = threadIdx.x + (size_t)i * ROW_THREADS;
        if (at < n) to[at] = x.v[i];
    }
}

/* x *= scale * w */
static __device__ __forceinline__ void scale_row(held_row *x, const held_row &w, float scale) {
#pragma unroll
    for (int i = 0; i < ROW_HELD; i++) x->v[i] = x->v[i] * scale * w.v[i];
}

/* The slices of a row, in order; many loads are under way at once. */
static __device__ __forceinline__ void add_row(held_row *x, const row_parts &p, size_t n) {
#pragma unroll 4
    for (unsigned s = 0; s < p.slices; s++)
#pragma unroll
        for (int i = 0; i < ROW_HELD; i++) {
            size_t at = threadIdx.x + (size_t)i * ROW_THREADS;
            float v = at < n ? p.at[s * p.step + blockIdx.x * p.ld + at] : 0;
            x->v[i] = s ? x->v[i] + v : v;
        }
#pragma unroll
    for (int i = 0; i < ROW_HELD; i++) {
        size_t at = threadIdx.x + (size_t)i * ROW_THREADS;
        if (p.bias && at < n) x->v[i] += p.bias[at];
    }
}

/* The norms' weights, which do not change: they may be read at any time. */
typedef struct residual_weights {
    held_row before, after;
} residual_weights;
static __device__ __forceinline__ residual_weights get_weights(const residual_args &r) {
    residual_weights w = {};
    if (r.before) get_row(&w.before, r.before, r.n);
    if (r.out) get_row(&w.after, r.after, r.n);
    return w;
}

/* From the row's y on; `keep`: y is wanted in memory as it becomes. `space` [32]. */
static __device__ __forceinline__ void finish_residual(const residual_args &r, const residual_weights &w, size_t row, held_row y,
                                                       bool keep, float *space) {
    held_row x;
    get_row(&x, r.x + row * r.n, r.n);
    if (r.before) scale_row(&y, w.before, row_scale(y, r.n, r.eps, space));
    if (keep) put_row(r.y + row * r.n, y, r.n);
#pragma unroll
    for (int i = 0; i < ROW_HELD; i++) x.v[i] += y.v[i];
    put_row(r.x + row * r.n, x, r.n);
    if (!r.out) return;
    scale_row(&x, w.after, row_scale(x, r.n, r.eps_after, space));
    put_row(r.out + row * r.n, x, r.n);
}

#endif
