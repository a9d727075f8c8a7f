#include "cpu/kernels.h"

#include "cpu/detect.h"
#include "cpu/tiers.h"

#define ROW(T, type, isa)                                                                                          \
    .dot_rows[SHK_##T] = shk_dot_rows_##type##_##isa, .axpy_rows[SHK_##T] = shk_axpy_rows_##type##_##isa,          \
    .dequant[SHK_##T] = shk_dequant_##type##_##isa,
#define SLOT(slot, fn, isa) .slot = shk_##slot##_##isa,
#define TIER(isa) { .tier = #isa, SHK_ROW_TYPES(ROW, isa) SHK_SLOTS(SLOT, isa) }

/* Every tier is whole: exactness (kernels.h) ties the functions of one tier together. */
void shk_cpu_kernels(shk_kernels *k, unsigned cpu) {
    static const shk_kernels ref = TIER(ref);
    *k = ref;
#if defined(__x86_64__)
    static const shk_kernels avx2 = TIER(avx2), avx512 = TIER(avx512);
    if (cpu & SHK_CPU_AVX2) *k = avx2;
    if (cpu & SHK_CPU_AVX512) *k = avx512;
#elif defined(__aarch64__)
    static const shk_kernels neon = TIER(neon);
    if (cpu & SHK_CPU_NEON) *k = neon;
#endif
    (void)cpu;
}
