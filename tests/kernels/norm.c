/* rmsnorm and moments against sums in double. */
#include "tiers.h"

/* The scale is made in double and rounded (u; where it is denormal, half the least float), then two products. */
static void check_rmsnorm(const shk_kernels *k, size_t n, const float *x, const float *w, bool in_place, float eps) {
    float *y = floats(2, n);
    double squares = 0;
    if (in_place) memcpy(y, x, n * sizeof *x);
    for (size_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
    double scale = 1 / sqrt(squares / (double)n + (double)eps);
    k->rmsnorm(y, in_place ? y : x, w, n, eps);
    size_t far = 0;
    for (size_t i = 0; i < n; i++) {
        double weight = w ? (double)w[i] : 1, expected = (double)x[i] * scale * weight;
        double denormal = least * (fabs((double)x[i] * weight) + fabs(weight) + 1);
        far += !(fabs((double)y[i] - expected) <= 4 * u * fabs(expected) + denormal);
    }
    CHECK(!far && marks_intact(), "%s rmsnorm of %zu: %zu values are beyond the bound", k->tier, n, far);
}

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t n = length_of(i);
        float *x = floats(0, n), *w = fill(floats(1, n), n, -2, 2);
        check_rmsnorm(k, n, fill(x, n, -3, 3), w, false, 1e-6f);
        check_rmsnorm(k, n, x, NULL, true, 1e-6f);
        check_rmsnorm(k, n, fill_wide(x, n, 127), w, false, 1e-6f);
        check_rmsnorm(k, n, fill(x, n, 0, 0), w, true, 1e-6f);
        for (unsigned ddof = 0; ddof < 2; ddof++) {
            if (n <= ddof) continue;
            double sum = 0, size = 0, squares = 0, mean, std;
            fill(x, n, 90, 110);
            for (size_t j = 0; j < n; j++) sum += (double)x[j], size += fabs((double)x[j]);
            double expected = sum / (double)n;
            for (size_t j = 0; j < n; j++) squares += ((double)x[j] - expected) * ((double)x[j] - expected);
            double deviation = sqrt(squares / (double)(n - ddof));
            k->moments(x, n, ddof, &mean, &std);
            /* both sides sum n doubles; an error of the mean moves the deviation by less than itself, sqrt(n / (n - ddof)) <= 2 */
            double bound = 2 * (double)(n + 2) * 0x1p-53;
            CHECK(fabs(mean - expected) <= bound * size / (double)n, "%s mean of %zu: %.17g for %.17g", k->tier, n, mean, expected);
            bound *= deviation + 2 * size / (double)n;
            CHECK(fabs(std - deviation) <= bound, "%s std of %zu: %.17g for %.17g", k->tier, n, std, deviation);
        }
    }
    float *x = fill(floats(0, 65536), 65536, -3, 3);
    check_rmsnorm(k, 65536, x, NULL, false, 1e-6f);
}

int main(void) {
    each_tier(test);
    return test_done();
}
