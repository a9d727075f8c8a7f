#define _GNU_SOURCE
#include "cpu/detect.h"

#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__x86_64__)
/* Tiles are a state that a process must ask Linux for before its first use. */
static bool has_amx(void) {
    enum { BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__builtin_cpu_supports("avx512bf16")) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (BF16 | TILE | INT8)) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

static unsigned machine(void) {
    unsigned cpu = 0;
#if defined(__x86_64__)
    /* the builtins also ask the operating system (XGETBV) whether it saves the registers; not every compiler's know F16C */
    unsigned a, b, c = 0, d;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        cpu |= SHK_CPU_AVX2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl"))
            cpu |= SHK_CPU_AVX512;
        if (cpu & SHK_CPU_AVX512 && __builtin_cpu_supports("avx512vnni")) cpu |= SHK_CPU_AVX512VNNI;
        /* AMD's takes half the time of as many f32 products, Intel's twice it */
        if (cpu & SHK_CPU_AVX512VNNI && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd")) cpu |= SHK_CPU_AVX512BF16;
        if (cpu & SHK_CPU_AVX512VNNI && has_amx()) cpu |= SHK_CPU_AMX;
    }
#elif defined(__aarch64__)
    cpu |= SHK_CPU_NEON; /* part of the base architecture */
#endif
    return cpu;
}

shk_status shk_cpu_detect(unsigned *out, shk_error *err) {
    static const struct { const char *name; unsigned cpu; } caps[] = {
        { "ref", 0 }, { "avx2", SHK_CPU_AVX2 }, { "avx512", SHK_CPU_AVX2 | SHK_CPU_AVX512 },
        { "avx512vnni", SHK_CPU_AVX2 | SHK_CPU_AVX512 | SHK_CPU_AVX512VNNI },
        { "avx512bf16", SHK_CPU_AVX2 | SHK_CPU_AVX512 | SHK_CPU_AVX512VNNI | SHK_CPU_AVX512BF16 },
        { "amx", SHK_CPU_AVX2 | SHK_CPU_AVX512 | SHK_CPU_AVX512VNNI | SHK_CPU_AMX }, { "neon", SHK_CPU_NEON }
    };
    const char *cap = getenv("SHK_CPU");
    *out = machine();
    if (!cap) return SHK_OK;
    for (size_t i = 0; i < sizeof caps / sizeof *caps; i++)
        if (!strcmp(cap, caps[i].name)) {
            *out &= caps[i].cpu;
            return SHK_OK;
        }
    return shk_fail(err, SHK_E_ARGUMENT, "SHK_CPU is \"%s\": must be ref, avx2, avx512, avx512vnni, avx512bf16, amx or neon", cap);
}

int shk_cpu_count(void) {
    cpu_set_t set;
    int n = 0;
    if (!sched_getaffinity(0, sizeof set, &set)) n = CPU_COUNT(&set);
    else n = (int)sysconf(_SC_NPROCESSORS_ONLN); /* more CPUs than a cpu_set_t holds */
    return n > 0 ? n : 1;
}
