/* Products with gathered rows of quantized matrices, in the file's form, where activations may be rounded.
 *
 * Every sum of many products is one of integers, exact in any order; what is rounded, in which order, is written here, so that all
 * tiers give the same bits, however rows and columns are divided among tiles and threads. A weight is w = d q + m, with q a signed
 * byte, and d and m (0 for most types) of its group of 16 or 32.
 *
 * dot_gathered, x in blocks of 32 (packed.h): eight sums over the blocks in ascending order, and one for the m,
 *
 *   a_j += (float)(sum of q x.q over the values 4 j to 4 j + 3 of the block) * (d * x.d)                  j = 0..7, fused
 *   b   += m * (x.d * (sum of x.q over the group))                                                        fused, groups in order
 *   y    = ((a_0 + a_4) + (a_2 + a_6)) + ((a_1 + a_5) + (a_3 + a_7)) + b
 *
 * axpy_gathered: coefficients meet the scales first and become integers of 16 bits, relative to the largest of the rows at hand,
 *
 *   f_r = c_r * d_r    S = max |f_r| / 32512    i = 32512 / max |f_r|    e_r = f_r * i, exact, to the nearest integer, ties to even
 *   y   = (float)(sum_r e_r q_r) * S + (y + sum_r m_r c_r)                                                 fused, r in order
 *
 * so the error of a coefficient is 2^-16 of the largest. Where the largest is below SHK_GATHER_LEAST, the products count as 0;
 * where one is not finite, S is a NaN. 32512 = 127 * 256: both bytes of e, taken as signed ones, are in range. */
#ifndef SHK_CPU_GATHERED_H
#define SHK_CPU_GATHERED_H

#include "cpu/packed.h"

/* The most rows of one axpy_gathered: 512 * 32512 * 128 is below 2^31. */
enum { SHK_GATHER_ROWS = 512, SHK_GATHER_MAX = 32512 };
#define SHK_GATHER_LEAST 1e-30f

/* X(SHK_ constant, name, tier, values in a block, values with a scale of their own, has m) for each quantized type with rows */
#define SHK_GATHERED_TYPES(X, tier)                                                                                \
    X(Q8_0, q8_0, tier, 32, 32, 0) X(Q4_0, q4_0, tier, 32, 32, 0) X(Q4_1, q4_1, tier, 32, 32, 1)                    \
    X(Q5_0, q5_0, tier, 32, 32, 0) X(Q5_1, q5_1, tier, 32, 32, 1) X(IQ4_NL, iq4_nl, tier, 32, 32, 0)                \
    X(Q2_K, q2_k, tier, 256, 16, 1) X(Q3_K, q3_k, tier, 256, 16, 0) X(Q4_K, q4_k, tier, 256, 32, 1)                 \
    X(Q5_K, q5_k, tier, 256, 32, 1) X(Q6_K, q6_k, tier, 256, 16, 0)

/* Groups with a scale each in k values of the type. */
static inline size_t shk_scale_groups(shk_type type, size_t k) {
#define GROUPS_OF(T, type, tier, block, group, min) [SHK_##T] = group,
    static const uint8_t group[SHK_TYPE_COUNT] = { SHK_GATHERED_TYPES(GROUPS_OF, ) };
#undef GROUPS_OF
    return k / group[type];
}

/* A row, from the first of the columns wanted, and what row_scales says of it. */
typedef struct shk_gathered_row {
    const void *w;
    const float *scales; /* d [groups], m [groups]; the latter not read where the type has none */
} shk_gathered_row;

/* scales = d [groups], m [groups] (only if the type has m) of k values.   k a multiple of the type's block */
typedef void shk_row_scales_fn(float *scales, const void *w, size_t k);
/* y[i] = w[ids[i]] . x   y [n]   w rows of k values, `stride` bytes apart   x [k / 32] */
typedef void shk_dot_gathered_fn(float *y, const void *w, size_t stride, const uint32_t *ids, size_t n, const shk_xblock *x,
                                 size_t k);
/* y[j] += sum_i c[i] * row i[j]   y [k]   c [n], n <= SHK_GATHER_ROWS   k a multiple of the type's block
 *   ahead [n_ahead]: rows that will be wanted soon, whose k values are prefetched */
typedef void shk_axpy_gathered_fn(float *y, const shk_gathered_row *rows, const float *c, size_t n, size_t k,
                                  const void *const *ahead, size_t n_ahead);

#endif
