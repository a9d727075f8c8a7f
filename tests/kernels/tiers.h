/* What the kernel tests share: the tiers of this machine, memory whose ends are watched, random inputs, and u, from which the
 * bounds on errors are derived. */
#ifndef TESTS_KERNELS_TIERS_H
#define TESTS_KERNELS_TIERS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#endif
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#include "../test.h"
#include "cpu/detect.h"
#include "cpu/kernels.h"

static const double u = 0x1p-24;       /* an f32 operation's relative error is at most this */
static const double least = 0x1p-149; /* the least f32: twice the error of an operation whose result is denormal */

/* ---- tiers ---- */

static const struct tier { const char *name; unsigned cpu, lanes; } tiers[] = {
    { "ref", 0, 1 }, { "avx2", SHK_CPU_AVX2, 8 }, { "avx512", SHK_CPU_AVX2 | SHK_CPU_AVX512, 16 },
    { "avx512vnni", SHK_CPU_AVX2 | SHK_CPU_AVX512 | SHK_CPU_AVX512VNNI, 16 },
    { "avx512bf16", SHK_CPU_AVX2 | SHK_CPU_AVX512 | SHK_CPU_AVX512VNNI | SHK_CPU_AVX512BF16, 16 },
    { "amx", SHK_CPU_AVX2 | SHK_CPU_AVX512 | SHK_CPU_AVX512VNNI | SHK_CPU_AMX, 16 }, { "neon", SHK_CPU_NEON, 4 }
};
enum { /* the instruction sets that this program has code for */
#if defined(__x86_64__)
    BUILT = SHK_CPU_AVX2 | SHK_CPU_AVX512 | SHK_CPU_AVX512VNNI | SHK_CPU_AVX512BF16 | SHK_CPU_AMX
#elif defined(__aarch64__)
    BUILT = SHK_CPU_NEON
#else
    BUILT = 0
#endif
};

/* SHK_REQUIRE_ISA names (avx2,avx512) what may not be skipped. */
static inline bool tier_required(const char *name) {
    const char *list = getenv("SHK_REQUIRE_ISA");
    size_t n = strlen(name);
    for (const char *at = list; at && (at = strstr(at, name)); at += n)
        if ((at == list || at[-1] == ',') && (!at[n] || at[n] == ',')) return true;
    return false;
}

static unsigned long long seed;

/* Runs test(kernels, tier) for each tier that the machine has, with the same random numbers. */
static inline void each_tier(void (*test)(const shk_kernels *k, const struct tier *t)) {
    const char *given = getenv("SHK_SEED");
    unsigned long long start = given ? strtoull(given, NULL, 0) : 20240611;
    unsigned machine = 0;
    unsetenv("SHK_CPU");
    NEED(shk_cpu_detect(&machine, NULL) == SHK_OK, "no CPU");
    printf("seed %llu\n", start);
    for (size_t i = 0; i < sizeof tiers / sizeof *tiers; i++) {
        shk_kernels k;
        if (tiers[i].cpu & ~machine) {
            if (tier_required(tiers[i].name)) CHECK(false, "this machine has no %s", tiers[i].name);
            else if (tiers[i].cpu & BUILT) SKIP("%s: this machine has none", tiers[i].name);
            continue;
        }
        shk_cpu_kernels(&k, tiers[i].cpu);
        CHECK(!strcmp(k.tier, tiers[i].name), "asked for %s, got %s", tiers[i].name, k.tier);
        seed = start;
        test(&k, &tiers[i]);
    }
}

/* Roundings on the longest path of a sum of n terms in one vector: a fused multiply-add for each step, then the tree. */
static inline double sum_roundings(const struct tier *t, size_t n) {
    return (double)((n + t->lanes - 1) / t->lanes) + ceil(log2((double)t->lanes)) + 1;
}

/* ---- memory ---- */

/* A place ends at a page that cannot be touched (or up to 3 bytes before it), and has marks before it and up to that page. */
enum { PLACES = 10, PLACE_BYTES = 1 << 20, MARKS = 64, MARK = 0xa5 };
static struct place { uint8_t *page, *data, *end; } places[PLACES];

static inline void *place(size_t i, size_t bytes, size_t gap) {
    struct place *p = &places[i];
    if (!p->page) {
        uint8_t *m = mmap(NULL, PLACE_BYTES + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        NEED(m != MAP_FAILED && !mprotect(m + PLACE_BYTES, 65536, PROT_NONE), "no memory");
        p->page = m + PLACE_BYTES;
    }
    NEED(bytes + MARKS + gap <= PLACE_BYTES, "%zu bytes", bytes);
    p->end = p->page - gap, p->data = p->end - bytes;
    memset(p->data - MARKS, MARK, MARKS);
    memset(p->end, MARK, gap);
    return p->data;
}
static inline float *floats(size_t i, size_t n) { return place(i, n * sizeof(float), 0); }

/* Did nothing write before or behind a place? */
static inline bool marks_intact(void) {
    for (size_t i = 0; i < PLACES; i++) {
        struct place *p = &places[i];
        if (!p->page) continue;
        for (uint8_t *m = p->data - MARKS; m < p->page; m = m + 1 == p->data ? p->end : m + 1)
            if (*m != MARK) return false;
    }
    return true;
}

/* ---- inputs ---- */

static inline double uniform(double low, double high) { return low + (high - low) * test_uniform(&seed); }
static inline float *fill(float *x, size_t n, double low, double high) {
    for (size_t i = 0; i < n; i++) x[i] = (float)uniform(low, high);
    return x;
}
/* Any finite float of magnitude up to 2^high, denormals included. */
static inline float *fill_wide(float *x, size_t n, int high) {
    for (size_t i = 0; i < n; i++) x[i] = (float)ldexp(uniform(-1, 1), (int)uniform(-149, high));
    return x;
}

/* Lengths around every vector width, then the widths of models. */
enum { LENGTHS = 68 + 4 };
static inline size_t length_of(size_t i) {
    static const size_t widths[] = { 640, 2304, 2560, 9216 };
    return i < 68 ? i : widths[i - 68];
}

#endif
