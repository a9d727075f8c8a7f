/* Packed bf16: each word of two values of 16 rows is multiplied by the same two activations. One sum a row and token, k ascending
 * in pairs. */
#include "cpu/x86/vec_avx512.h"

#include "cpu/tiers.h"

enum { GROUPS = 2, TOKENS = 6 };

INLINE void tile(size_t groups, size_t tokens, float *y, size_t ldy, size_t n, const char *w, const char *x, size_t k) {
    vf acc[GROUPS][TOKENS] = { { { 0 } } };
    for (size_t j = 0; j < k; j += 2, w += 64) {
        __m512bh v[GROUPS];
        UNROLL for (size_t g = 0; g < groups; g++) v[g] = (__m512bh)_mm512_loadu_si512(w + g * SHK_PACK_ROWS * k * 2);
        UNROLL for (size_t t = 0; t < tokens; t++) {
            int32_t pair;
            memcpy(&pair, x + (t * k + j) * 2, sizeof pair);
            UNROLL for (size_t g = 0; g < groups; g++)
                acc[g][t] = _mm512_dpbf16_ps(acc[g][t], v[g], (__m512bh)_mm512_set1_epi32(pair));
        }
    }
    UNROLL for (size_t g = 0; g < groups; g++) {
        size_t row = g * SHK_PACK_ROWS;
        if (row >= n) break;
        size_t some = n - row < SHK_PACK_ROWS ? n - row : SHK_PACK_ROWS;
        UNROLL for (size_t t = 0; t < tokens; t++) vf_put(y + t * ldy + row, acc[g][t], some);
    }
}

INLINE void all_tokens(size_t groups, float *y, size_t ldy, size_t n, const char *w, const char *x, size_t tokens, size_t k) {
    size_t tiles = (tokens + TOKENS - 1) / TOKENS, each = (tokens + tiles - 1) / tiles, some;
    for (size_t t = 0; t < tokens; t += some) {
        some = tokens - t < each ? tokens - t : each;
#define CASE(c) case c: tile(groups, c, y + t * ldy, ldy, n, w, x + t * k * 2, k); break;
        switch (some) { /* a tile's size must be a constant */
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
        }
#undef CASE
    }
}

void shk_dot_packed_bf16_avx512bf16(float *y, size_t ldy, const void *w, size_t n, const void *x, size_t tokens, size_t k) {
    size_t i = 0, group = SHK_PACK_ROWS * k * 2;
    const char *at = w;
    for (; i + SHK_PACK_ROWS < n; i += GROUPS * SHK_PACK_ROWS, at += GROUPS * group)
        all_tokens(GROUPS, y + i, ldy, n - i, at, x, tokens, k);
    if (i < n) all_tokens(1, y + i, ldy, n - i, at, x, tokens, k);
}

void shk_round_bf16_avx512bf16(void *out, const float *x, size_t k) {
    for (size_t j = 0; j < k; j += LANES)
        _mm256_storeu_si256((void *)((char *)out + j * 2), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + j)));
}
