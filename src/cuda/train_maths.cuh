/* Functions of one value that attention and recurrence share. FAST: to about 1e-6, as values of bf16 deserve, each a few
 * instructions; numbers below 2^-126 count as 0. */
#ifndef SHK_CUDA_TRAIN_MATHS_CUH
#define SHK_CUDA_TRAIN_MATHS_CUH
#ifdef __CUDACC__

#include "cuda/ptx.cuh"

constexpr float LOG2_E = 1.44269504088896340736f, LN_2 = 0.69314718055994530942f;

template <bool FAST> static __device__ __forceinline__ float train_exp(float x) {
    if constexpr (FAST) return fast_exp2(x * LOG2_E);
    else return expf(x);
}
template <bool FAST> static __device__ __forceinline__ float train_sigmoid(float x) {
    if constexpr (FAST) return fast_reciprocal(1 + fast_exp2(-LOG2_E * x));
    else return 1 / (1 + expf(-x));
}
template <bool FAST> static __device__ __forceinline__ float train_softplus(float x) {
    float e = train_exp<FAST>(-fabsf(x));
    if constexpr (FAST) return fmaf(fast_log2(1 + e), LN_2, fmaxf(x, 0));
    else return fmaxf(x, 0) + log1pf(e);
}
/* cap tanh(s / cap), inverse is 1 / cap; 0: no cap */
template <bool FAST> static __device__ __forceinline__ float train_capped(float s, float cap, float inverse) {
    if constexpr (FAST) return cap - 2 * cap * fast_reciprocal(1 + fast_exp2(2 * LOG2_E * inverse * s));
    else return cap * tanhf(s * inverse);
}

#endif
#endif
