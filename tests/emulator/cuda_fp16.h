/* Half precision, as cuda_runtime.h has CUDA. */
#ifndef SHK_EMULATED_CUDA_FP16_H
#define SHK_EMULATED_CUDA_FP16_H

#include <cuda_runtime.h>

extern "C" {
#include "file/types.h"
}

struct __half {
    uint16_t bits;
};
struct __half2 {
    __half x, y;
} __align__(4);

static inline __half __ushort_as_half(unsigned short bits) { return { bits }; }
static inline float __half2float(__half h) { return shk_f16_to_f32(h.bits); }
static inline __half __float2half_rn(float f) { return { shk_f32_to_f16(f) }; }
static inline float2 __half22float2(__half2 h) { return { __half2float(h.x), __half2float(h.y) }; }

#endif
