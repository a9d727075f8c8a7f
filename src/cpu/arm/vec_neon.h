/* AArch64 Advanced SIMD; the list of what this must define is in vec/types.h. */
#include <arm_neon.h>

#define LANES 4
#define TILE_TOKENS 6 /* of matmul's tiles: 4 rows x 6 tokens of sums, 6 + 1 operands: 31 of 32 registers */
#define FN(name) shk_##name##_neon
#include "cpu/vec/types.h"

INLINE vf vf_load_part(const void *p, size_t n) {
    float v[LANES] = { 0 };
    memcpy(v, p, 4 * n);
    return vf_load(v);
}
INLINE void vf_store_part(void *p, vf v, size_t n) { memcpy(p, &v, 4 * n); }

INLINE uint16x4_t load_shorts(const void *p, size_t n) {
    uint16_t v[LANES] = { 0 };
    memcpy(v, p, 2 * n);
    return vld1_u16(v);
}
INLINE vf vf_f16_part(const void *p, size_t n) { return vcvt_f32_f16(vreinterpret_f16_u16(load_shorts(p, n))); }
INLINE vf vf_f16(const void *p) { return vf_f16_part(p, LANES); }
INLINE vf vf_bf16_part(const void *p, size_t n) { return vreinterpretq_f32_u32(vshll_n_u16(load_shorts(p, n), 16)); }
INLINE vf vf_bf16(const void *p) { return vf_bf16_part(p, LANES); }
INLINE vf vf_i8(const void *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four)))));
}
INLINE vf vf_u8(const void *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
}

INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
INLINE vf vf_sqrt(vf a) { return vsqrtq_f32(a); }
INLINE vf vf_max(vf a, vf b) { return vmaxq_f32(a, b); }
INLINE vf vf_min(vf a, vf b) { return vminq_f32(a, b); }
INLINE float vf_sum(vf a) { return vaddvq_f32(a); }

INLINE vd vd_low(vf a) { return vcvt_f64_f32(vget_low_f32(a)); }
INLINE vd vd_high(vf a) { return vcvt_high_f64_f32(a); }
INLINE vd vd_fma(vd a, vd b, vd c) { return vfmaq_f64(c, a, b); }

INLINE size_t vf_append_gt(uint32_t *out, vf a, vf b, size_t i) {
    size_t count = 0;
    for (size_t lane = 0; lane < LANES; lane++) {
        out[count] = (uint32_t)(i + lane);
        count += a[lane] > b[lane];
    }
    return count;
}

INLINE float f16_scalar(uint16_t h) {
    __fp16 f;
    memcpy(&f, &h, sizeof f);
    return f;
}

INLINE vf vf_bytes(bytes32 a, size_t v) { return vf_i8((const char *)&a + v * LANES); }

INLINE bytes32 bytes32_of(uint8x16_t low, uint8x16_t high) {
    bytes32 v;
    memcpy(&v, &low, 16);
    memcpy((char *)&v + 16, &high, 16);
    return v;
}

INLINE bytes32 bytes32_nibbles(const uint8_t *qs) {
    uint8x16_t q = vld1q_u8(qs);
    return bytes32_of(vandq_u8(q, vdupq_n_u8(15)), vshrq_n_u8(q, 4));
}

INLINE uint8x16_t spread_bits(unsigned u) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    return vtstq_u8(vcombine_u8(vdup_n_u8((uint8_t)u), vdup_n_u8((uint8_t)(u >> 8))), bit);
}
INLINE bytes32 bytes32_bits(uint32_t u) { return bytes32_of(spread_bits(u & 0xffff), spread_bits(u >> 16)); }

INLINE bytes32 bytes32_lookup(const int8_t table[16], bytes32 a) {
    uint8x16_t t = vreinterpretq_u8_s8(vld1q_s8(table)), low, high;
    memcpy(&low, &a, 16);
    memcpy(&high, (char *)&a + 16, 16);
    return bytes32_of(vqtbl1q_u8(t, low), vqtbl1q_u8(t, high));
}
#include "cpu/vec/math.h"
