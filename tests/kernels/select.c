/* select against a plain loop. */
#include "tiers.h"

static void check(const shk_kernels *k, const float *x, size_t n, float theta) {
    uint32_t *ids = place(1, n * sizeof *ids, 0);
    size_t count = k->select(ids, x, n, theta), expected = 0, wrong = 0;
    for (size_t i = 0; i < n; i++)
        if (x[i] > theta) {
            wrong += expected >= count || ids[expected] != i;
            expected++;
        }
    CHECK(count == expected && !wrong, "%s: %zu of %zu over %g for %zu", k->tier, count, n, (double)theta, expected);
    CHECK(marks_intact(), "%s: %zu of %zu: wrote outside", k->tier, count, n);
}

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t n = length_of(i);
        float *x = fill(floats(0, n), n, -1, 1);
        static const float thetas[] = { -2, -1, 0, 0.84f, 1, INFINITY, -INFINITY, NAN };
        for (size_t j = 0; j < sizeof thetas / sizeof *thetas; j++) check(k, x, n, thetas[j]);
        for (size_t j = 0; j < n; j += 3) x[j] = j % 2 ? NAN : j % 4 ? INFINITY : 0.5f;
        check(k, x, n, 0.5f);
        check(k, x, n, -INFINITY);
    }
}

int main(void) {
    each_tier(test);
    return test_done();
}
