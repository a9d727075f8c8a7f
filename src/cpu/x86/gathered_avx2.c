#include "cpu/x86/vec_avx2.h"

#include <stdbool.h>

typedef vf f8;
typedef vi i8;

INLINE f8 f8_fma(f8 a, f8 b, f8 c) { return vf_fma(a, b, c); }

INLINE vi vi_max(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }

/* Sums of two products of 127 * 128 fit 16 bits. */
INLINE i8 i8_dot(bytes32 q, const int8_t *x) {
    __m256i s = _mm256_sign_epi8(_mm256_loadu_si256((const void *)x), (__m256i)q);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)q), s);
    return (i8)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* 16 bits a row */
INLINE void pack(vu word[2], const vu e[4]) {
    UNROLL for (size_t i = 0; i < 2; i++) word[i] = (e[2 * i] & 0xffff) | e[2 * i + 1] << 16;
}

enum { SUMS = 4 };

INLINE void add_rows(i8 *sum, const bytes32 q[4], const uint32_t words[4], bool wide) {
    UNROLL for (size_t i = 0; i < 2; i++) {
        __m256i low = _mm256_unpacklo_epi8((__m256i)q[2 * i], (__m256i)q[2 * i + 1]);
        __m256i high = _mm256_unpackhi_epi8((__m256i)q[2 * i], (__m256i)q[2 * i + 1]);
        __m256i e[2] = { _mm256_set1_epi32((int32_t)words[i]), _mm256_set1_epi32((int32_t)words[wide ? 2 + i : i]) };
        __m128i pairs[4] = { _mm256_castsi256_si128(low), _mm256_castsi256_si128(high), _mm256_extracti128_si256(low, 1),
                             _mm256_extracti128_si256(high, 1) };
        UNROLL for (size_t v = 0; v < 4; v++)
            sum[v] += (i8)_mm256_madd_epi16(_mm256_cvtepi8_epi16(pairs[v]), e[v / 2]);
    }
}

INLINE void finish(i8 out[4], const i8 *sum, const int32_t total[2]) {
    (void)total;
    UNROLL for (size_t v = 0; v < 4; v++) out[v] = sum[v];
}

#include "cpu/vec/gathered.inc"
