#include "cpu/x86/vec_avx512.h"

#include <stdbool.h>

#undef FN
#define FN(name) shk_##name##_avx512vnni

typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));

INLINE f8 f8_fma(f8 a, f8 b, f8 c) { return _mm256_fmadd_ps(a, b, c); }

INLINE vi vi_max(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }

/* vpdpbusd takes one side without sign: q's goes to x. */
INLINE i8 i8_dot(bytes32 q, const int8_t *x) {
    __m256i s = _mm256_sign_epi8(_mm256_loadu_si256((const void *)x), (__m256i)q);
    return (i8)_mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_abs_epi8((__m256i)q), s);
}

/* where the mask has ones a, else b */
#define CHOOSE(mask, a, b) _mm512_ternarylogic_epi32(mask, a, b, 0xca)

/* e = 256 high + low, with signed bytes for both: one byte a row, of rows 0, 2, 1, 3 */
INLINE void pack(vu word[2], const vu e[4]) {
    const __m512i odd = _mm512_set1_epi32((int)0xff00ff00), upper = _mm512_set1_epi32((int)0xffff0000);
    __m512i low[2], high[2];
    UNROLL for (size_t i = 0; i < 2; i++) {
        low[i] = CHOOSE(upper, _mm512_slli_epi32((__m512i)e[2 * i + 1], 16), (__m512i)e[2 * i]);
        high[i] = _mm512_add_epi16(low[i], _mm512_set1_epi16(128));
    }
    word[0] = (vu)CHOOSE(odd, high[1], _mm512_srli_epi32(high[0], 8));
    word[1] = (vu)CHOOSE(odd, _mm512_slli_epi32(low[1], 8), low[0]);
}

/* Sums of 4 columns of each half a vector: interleaving stays within halves. First those of the high bytes, then the low ones'. */
enum { SUMS = 8 };

INLINE void add_rows(i8 *sum, const bytes32 q[4], const uint32_t words[4], bool wide) {
    const __m256i top = _mm256_set1_epi8(-128); /* to q + 128, without sign */
    __m256i u[4], pairs[4], fours[4];
    UNROLL for (size_t i = 0; i < 4; i++) u[i] = _mm256_xor_si256((__m256i)q[i], top);
    pairs[0] = _mm256_unpacklo_epi8(u[0], u[2]), pairs[1] = _mm256_unpackhi_epi8(u[0], u[2]);
    pairs[2] = _mm256_unpacklo_epi8(u[1], u[3]), pairs[3] = _mm256_unpackhi_epi8(u[1], u[3]);
    UNROLL for (size_t i = 0; i < 2; i++) {
        fours[2 * i] = _mm256_unpacklo_epi16(pairs[i], pairs[i + 2]);
        fours[2 * i + 1] = _mm256_unpackhi_epi16(pairs[i], pairs[i + 2]);
    }
    UNROLL for (size_t part = 0; part < 2; part++) {
        __m256i e = _mm256_set1_epi32((int32_t)words[part]);
        if (wide) e = _mm256_blend_epi32(e, _mm256_set1_epi32((int32_t)words[2 + part]), 0xf0);
        UNROLL for (size_t v = 0; v < 4; v++)
            sum[4 * part + v] = (i8)_mm256_dpbusd_epi32((__m256i)sum[4 * part + v], fours[v], e);
    }
}

INLINE void finish(i8 out[4], const i8 *sum, const int32_t total[2]) {
    __m256i s[4], totals = _mm256_set_m128i(_mm_set1_epi32(total[1]), _mm_set1_epi32(total[0]));
    __m256i offset = _mm256_slli_epi32(totals, 7);
    UNROLL for (size_t v = 0; v < 4; v++)
        s[v] = _mm256_sub_epi32(_mm256_add_epi32(_mm256_slli_epi32((__m256i)sum[v], 8), (__m256i)sum[4 + v]), offset);
    UNROLL for (size_t v = 0; v < 2; v++) {
        out[v] = (i8)_mm256_permute2x128_si256(s[2 * v], s[2 * v + 1], 0x20);
        out[2 + v] = (i8)_mm256_permute2x128_si256(s[2 * v], s[2 * v + 1], 0x31);
    }
}

#include "cpu/vec/gathered.inc"
