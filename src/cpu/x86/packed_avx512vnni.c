#include "cpu/x86/vec_avx512.h"

#undef FN
#define FN(name) shk_##name##_avx512vnni

#define PACKED_TOKENS 8
enum { BIAS_8 = 0 };

INLINE vi vi_dot(vi s, vu w, const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return (vi)_mm512_dpbusd_epi32((__m512i)s, (__m512i)w, _mm512_set1_epi32(four));
}
INLINE vi vi_dot8(vi s, vu w, const int8_t *q) { return vi_dot(s, w, q); }

#include "cpu/vec/packed.inc"
