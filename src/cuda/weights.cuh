/* Reading matrices of any format (formats.h) in kernels. */
#ifndef SHK_CUDA_WEIGHTS_CUH
#define SHK_CUDA_WEIGHTS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/device.cuh"

typedef shk_cuda_format format;

static __device__ __forceinline__ float bf16_low(uint32_t w) { return __uint_as_float(w << 16); }
static __device__ __forceinline__ float bf16_high(uint32_t w) { return __uint_as_float(w & 0xffff0000u); }

static __device__ __forceinline__ void stream(uint4 *v, const void *p) { *v = stream16(p); }
static __device__ __forceinline__ void stream(uint2 *v, const void *p) { *v = stream8(p); }

static __device__ __forceinline__ float byte_of(uint32_t w, int i) { return (float)(int8_t)(w >> (8 * i)); }

/* Values [k, k + 8) of a row whose padded length is `padded`; k a multiple of 8. */
template <format F> static __device__ __forceinline__ void load8(float v[8], const char *row, size_t padded, size_t k) {
    if constexpr (F == SHK_CUDA_F32) {
        uint4 a = stream16(row + k * 4), b = stream16(row + k * 4 + 16);
        v[0] = __uint_as_float(a.x), v[1] = __uint_as_float(a.y), v[2] = __uint_as_float(a.z), v[3] = __uint_as_float(a.w);
        v[4] = __uint_as_float(b.x), v[5] = __uint_as_float(b.y), v[6] = __uint_as_float(b.z), v[7] = __uint_as_float(b.w);
    } else if constexpr (F == SHK_CUDA_BF16) {
        uint4 a = stream16(row + k * 2);
        uint32_t w[4] = { a.x, a.y, a.z, a.w };
        for (int i = 0; i < 4; i++) v[2 * i] = bf16_low(w[i]), v[2 * i + 1] = bf16_high(w[i]);
    } else if constexpr (F == SHK_CUDA_F16) {
        uint4 a = stream16(row + k * 2);
        uint32_t w[4] = { a.x, a.y, a.z, a.w };
        for (int i = 0; i < 4; i++) {
            float2 f = __half22float2(*(const __half2 *)&w[i]);
            v[2 * i] = f.x, v[2 * i + 1] = f.y;
        }
    } else {
        size_t group = k / 64, b = k / 32 % 2, t = k / 8 % 4;
        const __half *scales = (const __half *)(row + (F == SHK_CUDA_Q8 ? padded : padded / 2));
        float d = __half2float(scales[k / 32]);
        if constexpr (F == SHK_CUDA_Q8) {
            uint2 a = stream8(row + group * 64 + t * 16 + b * 8);
            for (int i = 0; i < 4; i++) v[i] = d * byte_of(a.x, i), v[4 + i] = d * byte_of(a.y, i);
        } else {
            uint32_t w = *(const uint32_t *)(row + group * 32 + t * 8 + b * 4);
            for (int i = 0; i < 8; i++) v[i] = d * ((float)(w >> (4 * (i / 2) + 16 * (i % 2)) & 15) - 8.0f);
        }
    }
}

static inline bool is_tiled(const shk_mat *m) {
    return m->packed && !m->by_rows && shk_cuda_tile_bytes(shk_cuda_format_of(m->type));
}

/* The same of row `row` of a matrix, in tiles or not. */
template <format F, bool TILED>
static __device__ __forceinline__ void load8_of(float v[8], const char *W, size_t stride, size_t padded, size_t row, size_t k) {
    if constexpr (!TILED || F < SHK_CUDA_BF16) {
        load8<F>(v, W + row * stride, padded, k);
    } else {
        const size_t bytes = F == SHK_CUDA_BF16 ? 2048 : F == SHK_CUDA_Q8 ? 1088 : 576;
        size_t h = k / 32 % 2, lane = row % 8 * 4 + k / 8 % 4, low = row % 16 / 8;
        const char *tile = W + (row / 16 * (padded / 64) + k / 64) * bytes;
        if constexpr (F == SHK_CUDA_BF16) {
            load8<F>(v, tile + (h * 2 + low) * 512 + lane * 16, 0, 0);
        } else {
            float d = __half2float(*(const __half *)(tile + bytes - 64 + row % 16 * 4 + h * 2));
            if constexpr (F == SHK_CUDA_Q8) {
                uint2 a = stream8(tile + low * 512 + lane * 16 + h * 8);
                for (int i = 0; i < 4; i++) v[i] = d * byte_of(a.x, i), v[4 + i] = d * byte_of(a.y, i);
            } else {
                uint32_t w = *(const uint32_t *)(tile + low * 256 + lane * 8 + h * 4);
                for (int i = 0; i < 8; i++) v[i] = d * ((float)(w >> (4 * (i / 2) + 16 * (i % 2)) & 15) - 8.0f);
            }
        }
    }
}

/* A kernel template's instance for a matrix's format. */
#define BY_FORMAT(f, call)                                                                                                         \
    do {                                                                                                                           \
        switch (f) {                                                                                                               \
        case SHK_CUDA_F16: call(SHK_CUDA_F16); break;                                                                              \
        case SHK_CUDA_BF16: call(SHK_CUDA_BF16); break;                                                                            \
        case SHK_CUDA_Q8: call(SHK_CUDA_Q8); break;                                                                                \
        case SHK_CUDA_Q4: call(SHK_CUDA_Q4); break;                                                                                \
        default: call(SHK_CUDA_F32);                                                                                               \
        }                                                                                                                          \
    } while (0)

#endif
