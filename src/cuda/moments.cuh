/* Mean and deviation of a row of scores, in parts that kernels make where the scores arise: in double, around a value of the part
 * itself, so that little is lost in a difference of sums. All round alike, whatever the compiler makes of them. */
#ifndef SHK_CUDA_MOMENTS_CUH
#define SHK_CUDA_MOMENTS_CUH

#include "cuda/device.cuh"

enum { MOMENTS_TILE = 16, MOMENTS_MOST = 1024 }; /* values of a part; parts of a row that is joined by a block */

/* A sum, and the sum of squares of what the values differ from their mean by. */
typedef struct alignas(16) moments {
    double sum, squares;
} moments;

/* From the sums of the differences of n values from `first` and of their squares. `inverse`: 1 / n. */
static __device__ __forceinline__ moments moments_from(double first, double off, double squares, unsigned n, double inverse) {
    return moments{ fma((double)n, first, off), fma(-off, off * inverse, squares) };
}

/* Of n <= MOMENTS_TILE values, one each of the first lanes of half a warp: in the first lane. All lanes take part. */
static __device__ __forceinline__ moments moments_of_lanes(float v, unsigned n, double inverse) {
    unsigned lane = threadIdx.x % 32, i = lane % MOMENTS_TILE;
    double first = (double)__shfl_sync(0xffffffffu, v, (int)(lane - i)), d = i < n ? (double)v - first : 0;
    auto add = [](double a, double b) { return a + b; };
    double off = warp_join<MOMENTS_TILE>(d, add), squares = warp_join<MOMENTS_TILE>(__dmul_rn(d, d), add);
    return moments_from(first, off, squares, n, inverse);
}

/* The same by one thread. */
static __device__ __forceinline__ moments moments_of(const float *v, unsigned n, double inverse) {
    double d[MOMENTS_TILE], e[MOMENTS_TILE], first = (double)v[0];
#pragma unroll
    for (unsigned i = 0; i < MOMENTS_TILE; i++) {
        d[i] = i < n ? (double)v[i] - first : 0;
        e[i] = __dmul_rn(d[i], d[i]);
    }
#pragma unroll
    for (unsigned w = MOMENTS_TILE / 2; w; w /= 2) {
#pragma unroll
        for (unsigned i = 0; i < w; i++) d[i] += d[i + w], e[i] += e[i + w];
    }
    return moments_from(first, d[0], e[0], n, inverse);
}

/* A row of n values is cut into tiles. */
static __host__ __device__ __forceinline__ unsigned moments_tiles(unsigned n) { return (n + MOMENTS_TILE - 1) / MOMENTS_TILE; }
/* How many are in one, and 1 / as many; `tail`: that of the last tile, as moments_tail gives it. */
static __host__ __device__ __forceinline__ unsigned moments_values(unsigned tile, unsigned n) {
    unsigned first = tile * MOMENTS_TILE;
    return first >= n ? 0 : n - first < MOMENTS_TILE ? n - first : MOMENTS_TILE;
}

static inline double moments_tail(unsigned n) { return 1 / (double)((n - 1) % MOMENTS_TILE + 1); }
static __device__ __forceinline__ double moments_inverse(unsigned values, double tail) {
    return values == MOMENTS_TILE ? 1.0 / (double)MOMENTS_TILE : tail;
}

typedef struct moments_add {
    __device__ __forceinline__ moments operator()(const moments &a, const moments &b) const {
        return moments{ a.sum + b.sum, a.squares + b.squares };
    }
} moments_add;

/* A row's tiles are dealt out to MOMENTS_LANES threads: lane p adds up p, p + MOMENTS_LANES, ..., which are `tiles` [MOMENTS_EACH]
 * (anything where the row has fewer), around `pivot`; the lanes' sums are added in pairs, by warps of 32, then the warps'. */
enum { MOMENTS_LANES = 256, MOMENTS_EACH = MOMENTS_MOST / MOMENTS_LANES };
static __device__ __forceinline__ double moments_pivot(const moments &first, unsigned n, double tail) {
    return first.sum * moments_inverse(moments_values(0, n), tail);
}
static __device__ __forceinline__ moments moments_of_lane(const moments tiles[MOMENTS_EACH], unsigned p, double pivot, unsigned n,
                                                          double tail) {
    moments all = {};
#pragma unroll
    for (unsigned i = 0; i < MOMENTS_EACH; i++) {
        unsigned have = moments_values(p + i * MOMENTS_LANES, n);
        double off = fma(-(double)have, pivot, tiles[i].sum), part = off * moments_inverse(have, tail);
        if (have) all = moments_add()(all, moments{ off, fma(off, part, tiles[i].squares) });
    }
    return all;
}
/* The row's, from the sum of all lanes. */
static __device__ __forceinline__ moments moments_around(double pivot, const moments &all, unsigned n, double inverse_n) {
    double squares = fma(-all.sum, all.sum * inverse_n, all.squares);
    return moments{ fma((double)n, pivot, all.sum), squares < 0 ? 0 : squares };
}

#endif
