#include "cpu/x86/vec_avx2.h"

#define PACKED_GROUPS 1
enum { BIAS_8 = 0 };

/* Sums of two products fit 16 bits while w < 128. */
INLINE vi vi_dot(vi s, vu w, vu q) {
    return s + (vi)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)w, (__m256i)q), _mm256_set1_epi16(1));
}

/* w = 2 (w >> 1) + (w & 1) */
INLINE vi vi_dot8(vi s, vu w, vu q) {
    __m256i high = _mm256_maddubs_epi16((__m256i)(w >> 1 & 0x7f7f7f7f), (__m256i)q);
    __m256i low = _mm256_maddubs_epi16((__m256i)(w & 0x01010101), (__m256i)q);
    return s + (vi)_mm256_madd_epi16(high, _mm256_set1_epi16(2)) + (vi)_mm256_madd_epi16(low, _mm256_set1_epi16(1));
}

#include "cpu/vec/packed.inc"
