/* The probe's kernels: what they count grows as what they do, and reading stays inside what it is given. */
#include "tiers.h"

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    float sink = 0.5f;
    double once = k->probe_fma(&sink, 1), many;
    sink = 0.5f;
    many = k->probe_fma(&sink, 1000);
    CHECK(once > 0 && many == 1000 * once, "%s probe_fma counts %g in a round, %g in 1000", k->tier, once, many);
    CHECK(isfinite((double)sink), "%s probe_fma ends with %g", k->tier, (double)sink);
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t n = length_of(i);
        float *x = floats(0, n);
        for (size_t j = 0; j < n; j++) x[j] = 0;
        k->probe_read(&sink, x, n * sizeof *x);
        CHECK(sink == 0 && marks_intact(), "%s probe_read of %zu zeros gives %g", k->tier, n, (double)sink);
        if (n < 128) continue; /* fewer than a round of streams may be left out */
        for (size_t j = 0; j < n; j++) x[j] = 1;
        k->probe_read(&sink, x, n * sizeof *x);
        CHECK(sink >= 128 && marks_intact(), "%s probe_read of %zu ones gives %g", k->tier, n, (double)sink);
    }
}

int main(void) {
    each_tier(test);
    return test_done();
}
