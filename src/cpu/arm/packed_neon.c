#include "cpu/arm/vec_neon.h"

#define PACKED_TOKENS 8
enum { BIAS_8 = 128 };

INLINE vi dot_signed(vi s, int8x16_t w, const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(four));
    int32x4_t a = vpaddlq_s16(vmull_s8(vget_low_s8(w), x)), b = vpaddlq_s16(vmull_s8(vget_high_s8(w), x));
    return vaddq_s32(s, vpaddq_s32(a, b));
}

INLINE vi vi_dot(vi s, vu w, const int8_t *q) { return dot_signed(s, vreinterpretq_s8_u32(w), q); }
/* w - 128 is w with its top bit turned */
INLINE vi vi_dot8(vi s, vu w, const int8_t *q) { return dot_signed(s, vreinterpretq_s8_u32(w ^ 0x80808080), q); }

#include "cpu/vec/packed.inc"
