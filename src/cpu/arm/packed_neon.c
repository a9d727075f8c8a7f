#include "cpu/arm/vec_neon.h"

#define PACKED_GROUPS 2
enum { BIAS_8 = 128 };

/* w below 128, as signed bytes */
INLINE vi vi_dot(vi s, vu w, vu q) {
    int8x16_t a = vreinterpretq_s8_u32(w), b = vreinterpretq_s8_u32(q);
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b))), high = vpaddlq_s16(vmull_high_s8(a, b));
    return vaddq_s32(s, vpaddq_s32(low, high));
}
/* w - 128 is w with its top bit turned */
INLINE vi vi_dot8(vi s, vu w, vu q) { return vi_dot(s, w ^ 0x80808080, q); }

#include "cpu/vec/packed.inc"
