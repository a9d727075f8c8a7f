/* SHK_CPU caps what the machine has, and nothing else is taken for a cap. */
#include "tiers.h"

int main(void) {
    static const struct { const char *cap; unsigned cpu; } caps[] = {
        { "ref", 0 }, { "avx2", SHK_CPU_AVX2 }, { "avx512", SHK_CPU_AVX2 | SHK_CPU_AVX512 }, { "neon", SHK_CPU_NEON }
    };
    static const char *const wrong[] = { "", "AVX2", "avx", "avx2 ", "avx2,avx512", "native" };
    unsigned machine, cpu;
    shk_error err;
    unsetenv("SHK_CPU");
    NEED(shk_cpu_detect(&machine, &err) == SHK_OK, "no CPU");
    CHECK(!(machine & SHK_CPU_AVX512) || (machine & SHK_CPU_AVX2), "AVX-512 without AVX2: %u", machine);
    for (size_t i = 0; i < sizeof caps / sizeof *caps; i++) {
        setenv("SHK_CPU", caps[i].cap, 1);
        CHECK(shk_cpu_detect(&cpu, &err) == SHK_OK && cpu == (machine & caps[i].cpu), "%s: %u of %u", caps[i].cap, cpu, machine);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("SHK_CPU", wrong[i], 1);
        CHECK(shk_cpu_detect(&cpu, &err) == SHK_E_ARGUMENT, "\"%s\" was taken", wrong[i]);
        for (size_t j = 0; j < sizeof caps / sizeof *caps; j++)
            CHECK(strstr(err.message, caps[j].cap), "the message does not name %s: %s", caps[j].cap, err.message);
    }
    unsetenv("SHK_CPU");
    CHECK(shk_cpu_count() >= 1, "%d CPUs", shk_cpu_count());

    /* each set of instructions gives the best tier that is in it, and a tier is whole */
    for (size_t i = 0; i < sizeof tiers / sizeof *tiers; i++) {
        static const void *none;
        shk_kernels k;
        if (tiers[i].cpu & ~(unsigned)BUILT) continue;
        shk_cpu_kernels(&k, tiers[i].cpu);
        CHECK(!strcmp(k.tier, tiers[i].name), "%s for %s", k.tier, tiers[i].name);
        for (const char *slot = (const char *)&k.matmul_f32; slot < (const char *)(&k + 1); slot += sizeof none)
            CHECK(memcmp(slot, &none, sizeof none), "%s lacks the slot at %zu", k.tier, (size_t)(slot - (const char *)&k));
    }
    return test_done();
}
