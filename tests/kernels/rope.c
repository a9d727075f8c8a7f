/* rope against the formula in double: each result is two terms, two roundings, and one of the comparison. */
#include "tiers.h"

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t half = length_of(i), far = 0;
        float *x = floats(0, 2 * half), *c = floats(1, half), *s = floats(2, half), *y = floats(3, 2 * half);
        if (i % 2) fill(x, 2 * half, -10, 10);
        else fill_wide(x, 2 * half, 60);
        for (size_t j = 0; j < half; j++) {
            double angle = uniform(-10, 10);
            c[j] = (float)cos(angle), s[j] = (float)sin(angle);
        }
        memcpy(y, x, 2 * half * sizeof *x);
        k->rope(y, c, s, half);
        for (size_t j = 0; j < half; j++) {
            double a = (double)x[j], b = (double)x[j + half], cosine = (double)c[j], sine = (double)s[j];
            double ac = a * cosine, bs = b * sine, bc = b * cosine, as = a * sine;
            far += !(fabs((double)y[j] - (ac - bs)) <= 3 * u * (fabs(ac) + fabs(bs)) + 2 * least);
            far += !(fabs((double)y[j + half] - (bc + as)) <= 3 * u * (fabs(bc) + fabs(as)) + 2 * least);
        }
        CHECK(!far && marks_intact(), "%s rope of %zu pairs: %zu beyond the bound", k->tier, half, far);
    }
}

int main(void) {
    each_tier(test);
    return test_done();
}
