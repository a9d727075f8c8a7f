/* The tiers' functions, shk_<slot>_<tier> and shk_<slot>_<type>_<tier>, declared from two lists of which kernels.c makes its
 * tables. */
#ifndef SHK_CPU_TIERS_H
#define SHK_CPU_TIERS_H

#include "cpu/gathered.h"
#include "cpu/kernels.h"
#include "cpu/packed.h"

/* X(SHK_ constant, name) for each type with rows */
#define SHK_ROW_TYPES(X, tier)                                                                                     \
    X(F32, f32, tier) X(F16, f16, tier) X(BF16, bf16, tier) X(Q8_0, q8_0, tier)                                     \
    X(Q4_0, q4_0, tier) X(Q4_1, q4_1, tier) X(Q5_0, q5_0, tier) X(Q5_1, q5_1, tier) X(IQ4_NL, iq4_nl, tier)         \
    X(Q2_K, q2_k, tier) X(Q3_K, q3_k, tier) X(Q4_K, q4_k, tier) X(Q5_K, q5_k, tier) X(Q6_K, q6_k, tier)

/* ... for each type that sessions keep keys and values in */
#define SHK_KV_TYPES(X, tier) X(F32, f32, tier) X(BF16, bf16, tier) X(Q8_0, q8_0, tier)

/* X(slot, its function type) for each slot without types */
#define SHK_SLOTS(X, tier)                                                                                         \
    X(matmul_f32, matmul_f32, tier) X(rmsnorm, rmsnorm, tier) X(moments, moments, tier) X(gelu_mul, gelu_mul, tier) \
    X(softmax, softmax, tier) X(softplus, map, tier) X(softcap, softcap, tier) X(add, add, tier) X(mul, mul, tier)  \
    X(exp_sum, exp_sum, tier) X(fold, fold, tier) X(mix_f32, mix_f32, tier)                                         \
    X(select, select, tier) X(rope, rope, tier) X(conv1d_step, conv1d_step, tier) X(rglru_step, rglru_step, tier) \
    X(gemm_tile, gemm_tile, tier) X(gelu_mul_grad, gelu_mul_grad, tier) X(exp, exp, tier)                          \
    X(softplus_grad, softplus_grad, tier) X(rglru_grad_step, rglru_grad_step, tier) X(subtract, subtract, tier)     \
    X(rmsnorm_grad, rmsnorm_grad, tier) X(softmax_grad, softmax_grad, tier) X(adamw, adamw, tier)                  \
    X(probe_fma, probe_fma, tier) X(probe_read, probe_read, tier)

#define SHK_DECLARE_ROW(T, type, tier)                                                                             \
    shk_dot_rows_fn shk_dot_rows_##type##_##tier;                                                                  \
    shk_axpy_rows_fn shk_axpy_rows_##type##_##tier;                                                                \
    shk_dequant_fn shk_dequant_##type##_##tier;
#define SHK_DECLARE_KV(T, type, tier)                                                                              \
    shk_dot_many_fn shk_dot_many_##type##_##tier;                                                                  \
    shk_axpy_many_fn shk_axpy_many_##type##_##tier;
#define SHK_DECLARE_SLOT(slot, fn, tier) shk_##fn##_fn shk_##slot##_##tier;
#define SHK_DECLARE_TIER(tier)                                                                                     \
    SHK_ROW_TYPES(SHK_DECLARE_ROW, tier) SHK_KV_TYPES(SHK_DECLARE_KV, tier) SHK_SLOTS(SHK_DECLARE_SLOT, tier)

SHK_DECLARE_TIER(ref)
SHK_DECLARE_TIER(avx2)
SHK_DECLARE_TIER(avx512)
SHK_DECLARE_TIER(neon)

/* Integer products are the same in every tier (packed.h), so that they need no table of their own for each. */
#define SHK_DECLARE_PACKED(T, type, tier) shk_dot_packed_fn shk_dot_packed_##type##_##tier;
#define SHK_DECLARE_GATHERED(T, type, tier, block, group, min)                                                     \
    shk_row_scales_fn shk_row_scales_##type##_##tier;                                                              \
    shk_dot_gathered_fn shk_dot_gathered_##type##_##tier;                                                          \
    shk_axpy_gathered_fn shk_axpy_gathered_##type##_##tier;
#define SHK_DECLARE_INTEGER(tier)                                                                                  \
    SHK_PACKED_TYPES(SHK_DECLARE_PACKED, tier)                                                                     \
    SHK_GATHERED_TYPES(SHK_DECLARE_GATHERED, tier)                                                                 \
    shk_round_x_fn shk_quantize_x_##tier;
SHK_DECLARE_INTEGER(ref)
SHK_DECLARE_INTEGER(avx2)
SHK_DECLARE_INTEGER(avx512vnni)
SHK_DECLARE_INTEGER(neon)
SHK_PACKED_TYPES(SHK_DECLARE_PACKED, amx)
shk_dot_packed_fn shk_dot_packed_bf16_avx512bf16, shk_dot_packed_bf16_amx;
shk_round_x_fn shk_round_bf16_avx512bf16;
shk_gemm_pack_bf16_fn shk_gemm_pack_bf16_avx512bf16;
shk_gemm_panel_bf16_fn shk_gemm_panel_bf16_avx512bf16, shk_gemm_panel_bf16_amx;

#endif
