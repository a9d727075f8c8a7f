#include "cpu/kernels.h"

#include "cpu/detect.h"
#include "cpu/tiers.h"

#define ROW(T, type, isa)                                                                                          \
    .dot_rows[SHK_##T] = shk_dot_rows_##type##_##isa, .axpy_rows[SHK_##T] = shk_axpy_rows_##type##_##isa,          \
    .dequant[SHK_##T] = shk_dequant_##type##_##isa,
#define KV(T, type, isa) .dot_many[SHK_##T] = shk_dot_many_##type##_##isa, .axpy_many[SHK_##T] = shk_axpy_many_##type##_##isa,
#define SLOT(slot, fn, isa) .slot = shk_##slot##_##isa,
#define PACKED(T, type, isa) k->dot_packed[SHK_##T] = shk_dot_packed_##type##_##isa;
#define ROUND(T, type, isa) k->round_x[SHK_##T] = shk_quantize_x_##isa;
#define GATHERED(T, type, isa, block, group, min)                                                                  \
    k->row_scales[SHK_##T] = shk_row_scales_##type##_##isa, k->dot_gathered[SHK_##T] = shk_dot_gathered_##type##_##isa, \
    k->axpy_gathered[SHK_##T] = shk_axpy_gathered_##type##_##isa;
#define INTEGER(isa) SHK_PACKED_TYPES(PACKED, isa) SHK_PACKED_TYPES(ROUND, isa) SHK_GATHERED_TYPES(GATHERED, isa)
#define MATRIX_BF16(isa)                                                                                            \
    PACKED(BF16, bf16, isa) k->round_x[SHK_BF16] = shk_round_bf16_avx512bf16;                                      \
    k->gemm_panel_bf16 = shk_gemm_panel_bf16_##isa, k->gemm_pack_bf16 = shk_gemm_pack_bf16_avx512bf16;
#define TIER(isa) { .tier = #isa, SHK_ROW_TYPES(ROW, isa) SHK_KV_TYPES(KV, isa) SHK_SLOTS(SLOT, isa) }

/* A tier's f32 functions are a whole: exactness (kernels.h) ties them together. Integer products are the same in all. */
void shk_cpu_kernels(shk_kernels *k, unsigned cpu) {
    static const shk_kernels ref = TIER(ref);
    *k = ref;
    INTEGER(ref)
#if defined(__x86_64__)
    static const shk_kernels avx2 = TIER(avx2), avx512 = TIER(avx512);
    if (cpu & SHK_CPU_AVX512) *k = avx512;
    else if (cpu & SHK_CPU_AVX2) *k = avx2;
    if (cpu & SHK_CPU_AVX2) { INTEGER(avx2) }
    if (cpu & SHK_CPU_AVX512VNNI) { k->tier = "avx512vnni"; INTEGER(avx512vnni) }
    if (cpu & SHK_CPU_AVX512BF16) { k->tier = "avx512bf16"; MATRIX_BF16(avx512bf16) }
    if (cpu & SHK_CPU_AMX) { k->tier = "amx"; SHK_PACKED_TYPES(PACKED, amx) MATRIX_BF16(amx) }
#elif defined(__aarch64__)
    static const shk_kernels neon = TIER(neon);
    if (cpu & SHK_CPU_NEON) {
        *k = neon;
        INTEGER(neon)
    }
#endif
    (void)cpu;
}
