/* The union form of a sparse layer: every row that any token of a tile wants meets all tokens of the tile. */
#ifndef SHK_BENCH_UNION_H
#define SHK_BENCH_UNION_H

#include <string.h>

#include "cpu/gathered.h"

/* Tokens of a tile, and bytes of their activations in the order that the kernels want, 32 values of each token. */
enum { UNION_TOKENS = 16, UNION_XBYTES = 96 };

/* c[t, ldc] *= w[ids[i]] . x[t] for n rows of k values;   x: `arrange` of the rounded ones, or f32 [tokens, k] */
typedef void union_up_fn(float *c, size_t ldc, const void *w, size_t stride, const uint32_t *ids, size_t n, const void *x,
                         size_t tokens, size_t k);
/* y[t, ldy] += sum_i c[t, i] * row i;   `ahead`: n rows that will be wanted soon.   integers: n <= SHK_GATHER_ROWS, with scales */
typedef void union_down_fn(float *y, size_t ldy, const shk_gathered_row *rows, const void *const *ahead, const float *c, size_t ldc,
                           size_t n, size_t tokens, size_t k);
typedef struct union_kernels {
    void (*arrange)(void *out, const shk_xblock *x, size_t tokens, size_t k);
    union_up_fn *up_integer, *up_float;
    union_down_fn *down_integer, *down_float;
} union_kernels;

/* q8_0 as integers, bf16 as floats; tokens: 2, 4, 8 or 16 */
extern const union_kernels union_avx2, union_avx512vnni;

/* What goes with a tier of cpu/kernels.h; NULL: the union is not written for it. */
static inline const union_kernels *union_of(const char *tier) {
    if (!strcmp(tier, "avx2")) return &union_avx2;
    return !strcmp(tier, "avx512vnni") || !strcmp(tier, "avx512bf16") || !strcmp(tier, "amx") ? &union_avx512vnni : NULL;
}

#endif
