/* gelu_mul, softmax, softplus, softcap against the formulas in double. The bounds come from those of the functions in
 * cpu/vec/math.h, with a rounding (u) for each operation around them and one for a result that is exact before it (ref). */
#include "tiers.h"

static double gelu(double v) { return 0.5 * v * (1 + tanh(0.79788456080286535588 * (v + 0.044715 * v * v * v))); }
static double softplus(double v) { return fmax(v, 0) + log1p(exp(-fabs(v))); }
static double ulp(float v) { return (double)nextafterf(fabsf(v), INFINITY) - (double)fabsf(v); }

static void check_gelu(const shk_kernels *k, const float *g, const float *factor, size_t n, int in_place) {
    float *y = floats(2, n), *a = floats(3, n), *b = factor ? floats(4, n) : NULL;
    memcpy(a, g, n * sizeof *g);
    if (b) memcpy(b, factor, n * sizeof *b);
    float *out = in_place == 1 ? a : in_place == 2 && b ? b : y;
    k->gelu_mul(out, a, b, n);
    size_t far = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double f = factor ? (double)factor[i] : 1, expected = gelu((double)g[i]) * f;
        double bound = 4 * ulp(g[i]) * fabs(f) + u * fabs(expected) + least;
        if (!(fabs((double)out[i] - expected) <= bound) && !far++) worst = i;
    }
    CHECK(!far, "%s gelu_mul of %zu: %zu beyond the bound, such as %a", k->tier, n, far, (double)g[worst]);
    CHECK(marks_intact(), "%s gelu_mul of %zu: wrote outside", k->tier, n);
}

/* exp is within 2 u and its argument within u of |x - max|, so relative errors of the entries and, weighted by the entries, of
 * their sum; then a rounding of 1 / sum, a product, a result. Entries under e^-87 may be 0. */
static void check_softmax(const shk_kernels *k, const float *x, size_t n) {
    float *y = floats(2, n);
    double max = -INFINITY, sum = 0, slack = 0;
    memcpy(y, x, n * sizeof *x);
    k->softmax(y, n);
    for (size_t i = 0; i < n; i++) max = fmax(max, (double)x[i]);
    for (size_t i = 0; i < n; i++) {
        double e = exp((double)x[i] - max);
        sum += e, slack += e > 0 ? e * (max - (double)x[i]) : 0;
    }
    size_t far = 0;
    for (size_t i = 0; i < n; i++) {
        double expected = exp((double)x[i] - max) / sum, reach = isinf(x[i]) ? 0 : max - (double)x[i];
        far += !(fabs((double)y[i] - expected) <= expected * u * (reach + slack / sum + 8) + exp(-87));
        far += isinf(x[i]) && y[i] != 0;
    }
    CHECK(!far && marks_intact(), "%s softmax of %zu: %zu beyond the bound", k->tier, n, far);
}

/* log1p within 3 u, exp within 2 u (and log1p(e) grows no faster than e), the sum's rounding and a result's */
static void check_softplus(const shk_kernels *k, const float *x, size_t n) {
    float *y = floats(2, n);
    k->softplus(y, x, n);
    size_t far = 0, worst = 0;
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)y[i] - softplus((double)x[i])) <= 7 * u * softplus((double)x[i]) + exp(-87)) && !far++) worst = i;
    CHECK(!far, "%s softplus of %zu: %zu beyond the bound, such as %a", k->tier, n, far, (double)x[worst]);
    CHECK(marks_intact(), "%s softplus of %zu: wrote outside", k->tier, n);
}

/* tanh within 4 u, a quotient before it and a product behind, a result's rounding */
static void check_softcap(const shk_kernels *k, const float *x, size_t n, float cap) {
    float *y = floats(2, n);
    memcpy(y, x, n * sizeof *x);
    k->softcap(y, n, cap);
    size_t far = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double expected = (double)cap * tanh((double)x[i] / (double)cap);
        if (!(fabs((double)y[i] - expected) <= 7 * u * fabs(expected) + (double)cap * 2 * least) && !far++) worst = i;
    }
    CHECK(!far, "%s softcap of %zu: %zu beyond the bound, such as %a", k->tier, n, far, (double)x[worst]);
    CHECK(marks_intact(), "%s softcap of %zu: wrote outside", k->tier, n);
}

/* Floats of every size and sign in [-limit, limit], 2^16 at a time. */
static void sweep(const shk_kernels *k, float limit) {
    enum { BATCH = 1 << 16 };
    uint32_t bits = 0, last;
    memcpy(&last, &limit, sizeof last);
    while (bits <= last) {
        float *x = floats(0, BATCH);
        for (size_t i = 0; i < BATCH; i += 2) {
            uint32_t at = bits < last ? bits : last;
            memcpy(&x[i], &at, sizeof at);
            x[i + 1] = -x[i];
            bits += 4099; /* a prime: the low bits vary */
        }
        check_gelu(k, x, NULL, BATCH, 0);
        check_softplus(k, x, BATCH);
        check_softcap(k, x, BATCH, 30);
    }
}

static void test_nan(const shk_kernels *k) {
    for (size_t n = 1; n < 40; n += 19) {
        float *x = fill(floats(0, n), n, -1, 1), *y = floats(1, n);
        x[n - 1] = NAN;
        k->gelu_mul(y, x, NULL, n);
        CHECK(isnan(y[n - 1]), "%s gelu_mul lost a NaN", k->tier);
        k->softplus(y, x, n);
        CHECK(isnan(y[n - 1]), "%s softplus lost a NaN", k->tier);
        memcpy(y, x, n * sizeof *x);
        k->softcap(y, n, 50);
        CHECK(isnan(y[n - 1]), "%s softcap lost a NaN", k->tier);
        memcpy(y, x, n * sizeof *x);
        k->softmax(y, n);
        CHECK(isnan(y[n - 1]), "%s softmax lost a NaN", k->tier);
    }
}

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t n = length_of(i);
        float *x = fill(floats(0, n), n, -6, 6), *factor = fill(floats(1, n), n, -2, 2);
        check_gelu(k, x, NULL, n, 0);
        for (int in_place = 0; in_place < 3; in_place++) check_gelu(k, x, factor, n, in_place);
        check_softplus(k, x, n);
        check_softcap(k, x, n, 5);
        if (!n) continue;
        check_softmax(k, x, n);
        check_softmax(k, fill(x, n, -200, 200), n);
        check_softmax(k, fill(x, n, -1e30, 1e30), n);
        for (size_t j = 0; j < n; j++) x[j] = j % 3 || j == n - 1 ? -INFINITY : (float)j;
        x[n / 2] = 1;
        check_softmax(k, x, n);
    }
    sweep(k, 1e30f);
    test_nan(k);
}

int main(void) {
    each_tier(test);
    return test_done();
}
