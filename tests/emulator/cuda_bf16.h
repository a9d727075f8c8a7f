/* bf16, as cuda_runtime.h has CUDA. */
#ifndef SHK_EMULATED_CUDA_BF16_H
#define SHK_EMULATED_CUDA_BF16_H

#include <cuda_runtime.h>

extern "C" {
#include "file/types.h"
}

struct __nv_bfloat16 {
    uint16_t bits = 0;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float f) : bits(shk_f32_to_bf16(f)) {}
    operator float() const { return shk_bf16_to_f32(bits); }
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
} __align__(4);

static inline float __bfloat162float(__nv_bfloat16 v) { return v; }
static inline __nv_bfloat16 __float2bfloat16_rn(float f) { return __nv_bfloat16(f); }
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return { __nv_bfloat16(a), __nv_bfloat16(b) }; }
static inline float __low2float(__nv_bfloat162 v) { return v.x; }
static inline float __high2float(__nv_bfloat162 v) { return v.y; }
static inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) {
    return __floats2bfloat162_rn((float)a.x + (float)b.x, (float)a.y + (float)b.y);
}

#endif
