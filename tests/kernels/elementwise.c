/* add and mul: one rounding each, so one answer, to the bit. */
#include "tiers.h"

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t n = length_of(i), add = 0, mul[3] = { 0 };
        float *a = fill_wide(floats(0, n), n, 60), *b = fill_wide(floats(1, n), n, 60), *y = floats(2, n);
        memcpy(y, a, n * sizeof *y);
        k->add(y, b, n);
        for (size_t j = 0; j < n; j++) add += y[j] != a[j] + b[j];
        k->mul(y, a, b, n);
        for (size_t j = 0; j < n; j++) mul[0] += y[j] != a[j] * b[j];
        for (int in = 1; in < 3; in++) {
            memcpy(y, in == 1 ? a : b, n * sizeof *y);
            k->mul(y, in == 1 ? y : a, in == 1 ? b : y, n);
            for (size_t j = 0; j < n; j++) mul[in] += y[j] != a[j] * b[j];
        }
        CHECK(!add, "%s add of %zu: %zu wrong", k->tier, n, add);
        CHECK(!mul[0] && !mul[1] && !mul[2], "%s mul of %zu: %zu %zu %zu wrong", k->tier, n, mul[0], mul[1], mul[2]);
        CHECK(marks_intact(), "%s %zu: wrote outside", k->tier, n);
    }
}

int main(void) {
    each_tier(test);
    return test_done();
}
