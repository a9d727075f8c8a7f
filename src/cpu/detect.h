/* What this CPU can do, and what the user allows. */
#ifndef SHK_CPU_DETECT_H
#define SHK_CPU_DETECT_H

#include "error.h"

enum {
    SHK_CPU_AVX2 = 1,   /* with FMA and F16C */
    SHK_CPU_AVX512 = 2, /* F, BW, DQ, VL */
    SHK_CPU_NEON = 4,
    SHK_CPU_AVX512VNNI = 8, /* of 512 bits; with all of AVX512 */
    SHK_CPU_AVX512BF16 = 16, /* with AVX512VNNI; only where its products are faster than those of f32 */
    SHK_CPU_AMX = 32         /* TILE, INT8, BF16; with AVX512VNNI and BF16 instructions */
};

/* Instruction sets to use: those of the machine (and operating system), capped by the environment variable SHK_CPU: "ref",
 * "avx2", "avx512", "avx512vnni", "avx512bf16", "amx", "neon"; any other value is SHK_E_ARGUMENT and names the ones there are. A
 * cap above the machine is no error. */
shk_status shk_cpu_detect(unsigned *out, shk_error *err);

/* How many CPUs the process may run on (affinity, not the machine's count); at least 1. */
int shk_cpu_count(void);

#endif
