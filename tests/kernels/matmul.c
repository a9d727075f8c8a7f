/* matmul_f32: against sums in double, and each member of a batch against the batch, to the bit. */
#include "tiers.h"

static void check(const shk_kernels *k, const struct tier *t, size_t n, size_t tokens, size_t width) {
    size_t ldw = width + 3, ldx = width + 1, ldy = n + 2;
    float *w = fill(floats(0, n * ldw), n * ldw, -1, 1), *x = fill(floats(1, tokens * ldx), tokens * ldx, -1, 1);
    float *y = fill(floats(2, tokens * ldy), tokens * ldy, 7, 7), *one = floats(3, 1);
    size_t outside = 0, unequal = 0, far = 0;
    k->matmul_f32(y, ldy, w, ldw, x, ldx, n, tokens, width);
    for (size_t token = 0; token < tokens; token++) {
        for (size_t i = 0; i < n; i++) {
            double sum = 0, size = 0;
            for (size_t j = 0; j < width; j++) {
                double term = (double)w[i * ldw + j] * (double)x[token * ldx + j];
                sum += term, size += fabs(term);
            }
            far += !(fabs((double)y[token * ldy + i] - sum) <= sum_roundings(t, width) * u * size);
            k->matmul_f32(one, 1, w + i * ldw, ldw, x + token * ldx, ldx, 1, 1, width);
            unequal += memcmp(one, &y[token * ldy + i], sizeof *one) != 0;
        }
        for (size_t i = n; i < ldy; i++) outside += y[token * ldy + i] != 7;
    }
    CHECK(!far, "%s %zu x %zu x %zu: %zu values are beyond the bound", k->tier, n, tokens, width, far);
    CHECK(!unequal, "%s %zu x %zu x %zu: %zu values differ from the product by itself", k->tier, n, tokens, width, unequal);
    CHECK(!outside && marks_intact(), "%s %zu x %zu x %zu: wrote outside", k->tier, n, tokens, width);
}

static void test(const shk_kernels *k, const struct tier *t) {
    for (size_t width = 0; width < 68; width++) check(k, t, 5, 7, width);
    for (size_t n = 0; n < 10; n++)
        for (size_t tokens = 0; tokens < 14; tokens++) check(k, t, n, tokens, 33);
    for (size_t tokens = 23; tokens < 26; tokens++) check(k, t, 4, tokens, 40);
    for (size_t tokens = 47; tokens < 50; tokens++) check(k, t, 4, tokens, 40);
    for (size_t width = 511; width < 514; width++) check(k, t, 6, 8, width);
    check(k, t, 6, 8, 2304);
    check(k, t, 5, 7, 9216);
}

int main(void) {
    each_tier(test);
    return test_done();
}
