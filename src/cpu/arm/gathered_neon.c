#include "cpu/arm/vec_neon.h"

#include <stdbool.h>

typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));

INLINE f8 f8_fma(f8 a, f8 b, f8 c) {
    float32x4_t x[2], y[2], z[2];
    memcpy(x, &a, sizeof a), memcpy(y, &b, sizeof b), memcpy(z, &c, sizeof c);
    UNROLL for (size_t i = 0; i < 2; i++) z[i] = vfmaq_f32(z[i], x[i], y[i]);
    memcpy(&c, z, sizeof c);
    return c;
}

INLINE vi vi_max(vi a, vi b) { return (vi)vmaxq_s32((int32x4_t)a, (int32x4_t)b); }

INLINE i8 i8_dot(bytes32 q, const int8_t *x) {
    int32x4_t s[2];
    i8 out;
    UNROLL for (size_t i = 0; i < 2; i++) {
        int8x16_t a = vld1q_s8((const int8_t *)&q + 16 * i), b = vld1q_s8(x + 16 * i);
        s[i] = vpaddq_s32(vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b))), vpaddlq_s16(vmull_high_s8(a, b)));
    }
    memcpy(&out, s, sizeof out);
    return out;
}

/* 16 bits a row */
INLINE void pack(vu word[2], const vu e[4]) {
    UNROLL for (size_t i = 0; i < 2; i++) word[i] = (e[2 * i] & 0xffff) | e[2 * i + 1] << 16;
}

enum { SUMS = 4 };

INLINE void add_rows(i8 *sum, const bytes32 q[4], const uint32_t words[4], bool wide) {
    (void)wide;
    int32x4_t s[8];
    memcpy(s, sum, sizeof s);
    UNROLL for (size_t i = 0; i < 4; i++)
        UNROLL for (size_t h = 0; h < 2; h++) {
            int8x16_t a = vld1q_s8((const int8_t *)&q[i] + 16 * h);
            int16_t e = (int16_t)(words[2 * h + i / 2] >> i % 2 * 16);
            int16x8_t low = vmovl_s8(vget_low_s8(a)), high = vmovl_high_s8(a);
            s[4 * h] = vmlal_n_s16(s[4 * h], vget_low_s16(low), e);
            s[4 * h + 1] = vmlal_high_n_s16(s[4 * h + 1], low, e);
            s[4 * h + 2] = vmlal_n_s16(s[4 * h + 2], vget_low_s16(high), e);
            s[4 * h + 3] = vmlal_high_n_s16(s[4 * h + 3], high, e);
        }
    memcpy(sum, s, sizeof s);
}

INLINE void finish(i8 out[4], const i8 *sum, const int32_t total[2]) {
    (void)total;
    UNROLL for (size_t v = 0; v < 4; v++) out[v] = sum[v];
}

#include "cpu/vec/gathered.inc"
