#include "cpu/x86/vec_avx2.h"

#define PACKED_GROUPS 1
enum { BIAS_8 = 128 };

/* Sums of two products fit 16 bits while w is at most 128. */
INLINE vi vi_dot(vi s, vu w, vu q) {
    return s + (vi)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)w, (__m256i)q), _mm256_set1_epi16(1));
}

/* |w - 128| times q with the sign of w - 128: sums of two products are at most 2 * 128 * 127. */
INLINE vi vi_dot8(vi s, vu w, vu q) {
    __m256i v = (__m256i)(w ^ 0x80808080);
    return vi_dot(s, (vu)_mm256_abs_epi8(v), (vu)_mm256_sign_epi8((__m256i)q, v));
}

#include "cpu/vec/packed.inc"
