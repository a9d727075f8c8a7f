/* conv1d_step against sums in double: taps + 1 terms, a rounding each. The tail moves on by one input, to the bit. */
#include "tiers.h"

static void check(const shk_kernels *k, size_t w, size_t taps, bool in_place) {
    size_t n_tail = (taps - 1) * w, far = 0;
    float *x = fill(floats(0, w), w, -1, 1), *c = fill(floats(1, taps * w), taps * w, -1, 1), *b = fill_wide(floats(2, w), w, 0);
    float *tail = fill(floats(3, n_tail), n_tail, -1, 1), *y = floats(4, w);
    float *all = floats(5, taps * w); /* tail and x, as they were */
    memcpy(all, tail, n_tail * sizeof *x);
    memcpy(all + n_tail, x, w * sizeof *x);
    if (in_place) y = x;
    k->conv1d_step(y, tail, x, c, b, w, taps);
    for (size_t i = 0; i < w; i++) {
        double sum = (double)b[i], size = fabs((double)b[i]);
        for (size_t tap = 0; tap < taps; tap++) {
            double term = (double)all[tap * w + i] * (double)c[tap * w + i];
            sum += term, size += fabs(term);
        }
        far += !(fabs((double)y[i] - sum) <= (double)(taps + 1) * u * size);
    }
    CHECK(!far, "%s conv1d_step of %zu, %zu taps: %zu beyond the bound", k->tier, w, taps, far);
    CHECK(!memcmp(tail, all + w, n_tail * sizeof *x), "%s conv1d_step of %zu, %zu taps: tail", k->tier, w, taps);
    CHECK(marks_intact(), "%s conv1d_step of %zu, %zu taps: wrote outside", k->tier, w, taps);
}

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t i = 0; i < LENGTHS; i++)
        for (size_t taps = 1; taps < 6; taps++) check(k, length_of(i), taps, taps % 2);
}

int main(void) {
    each_tier(test);
    return test_done();
}
