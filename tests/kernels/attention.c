/* What attention is made of: exp_sum and fold against their formulas; mix_f32, dot_many and axpy_many against dot_rows and
 * axpy_rows, whose bits they promise. */
#include "tiers.h"

/* exp is within 2 u and its argument within u of |x - max|; entries under e^-87 may be 0. The sum is of the entries as they are. */
static void check_exp_sum(const shk_kernels *k, const struct tier *t, const float *x, size_t n) {
    float *y = floats(1, n), max;
    memcpy(y, x, n * sizeof *x);
    float sum = k->exp_sum(y, n, &max);
    double top = -INFINITY, total = 0;
    for (size_t i = 0; i < n; i++) top = fmax(top, (double)x[i]), total += (double)y[i];
    size_t far = 0;
    for (size_t i = 0; i < n; i++) {
        double expected = exp((double)x[i] - top), reach = isinf(x[i]) ? 0 : top - (double)x[i];
        far += !(fabs((double)y[i] - expected) <= expected * u * (reach + 4) + exp(-87));
    }
    CHECK((double)max == top, "%s exp_sum of %zu: maximum %g for %g", k->tier, n, (double)max, top);
    CHECK(!far, "%s exp_sum of %zu: %zu beyond the bound", k->tier, n, far);
    bool near = fabs((double)sum - total) <= sum_roundings(t, n) * u * total;
    CHECK(near, "%s exp_sum of %zu: %g for %g", k->tier, n, (double)sum, total);
    CHECK(marks_intact(), "%s exp_sum of %zu: wrote outside", k->tier, n);
}

static void check_fold(const shk_kernels *k, size_t n) {
    float *x = fill_wide(floats(0, n), n, 60), *before = fill_wide(floats(1, n), n, 60), *y = floats(2, n), *same = floats(3, n);
    float a = (float)uniform(-2, 2), b = (float)uniform(-2, 2);
    size_t wrong = 0;
    memcpy(y, before, n * sizeof *y);
    memcpy(same, x, n * sizeof *same);
    k->fold(y, a, x, b, n);
    k->fold(same, a, same, b, n);
    for (size_t i = 0; i < n; i++) wrong += y[i] != fmaf(b, x[i], a * before[i]) || same[i] != fmaf(b, x[i], a * x[i]);
    CHECK(!wrong && marks_intact(), "%s fold of %zu: %zu wrong", k->tier, n, wrong);
}

static void check_mix(const shk_kernels *k, size_t n, size_t tokens, size_t width) {
    size_t ldw = width + 3, ldc = n + 1, ldy = width + 2;
    float *w = fill(floats(0, n * ldw), n * ldw, -1, 1), *c = fill(floats(1, tokens * ldc), tokens * ldc, -1, 1);
    float *y = fill(floats(2, tokens * ldy), tokens * ldy, 7, 7), *one = floats(3, width);
    size_t unequal = 0, outside = 0;
    k->mix_f32(y, ldy, w, ldw, c, ldc, n, tokens, width);
    for (size_t t = 0; t < tokens; t++) {
        memset(one, 0, width * sizeof *one);
        k->axpy_rows[SHK_F32](one, w, ldw * sizeof *w, NULL, c + t * ldc, n, width);
        unequal += memcmp(one, y + t * ldy, width * sizeof *one) != 0;
        for (size_t j = width; j < ldy; j++) outside += y[t * ldy + j] != 7;
    }
    CHECK(!unequal, "%s mix_f32 %zu x %zu x %zu: %zu rows differ from axpy_rows", k->tier, n, tokens, width, unequal);
    CHECK(!outside && marks_intact(), "%s mix_f32 %zu x %zu x %zu: wrote outside", k->tier, n, tokens, width);
}

static void check_many(const shk_kernels *k, shk_type type, size_t n, size_t tokens, size_t width) {
    size_t stride = 0, ldx = width + 3, ldc = n + 1, ldy = n + 2, lda = width + 2;
    const char *name = shk_type_of(type)->name;
    NEED(shk_row_bytes(type, width, &stride), "%zu values of %s", width, name);
    uint8_t *w = place(0, n * stride, 1);
    float *row = floats(1, width), *x = fill(floats(2, tokens * ldx), tokens * ldx, -1, 1);
    float *c = fill(floats(3, tokens * ldc), tokens * ldc, -1, 1);
    float *dots = fill(floats(4, tokens * ldy), tokens * ldy, 7, 7), *sums = fill(floats(5, tokens * lda), tokens * lda, -1, 1);
    float *dot = floats(6, n), *sum = floats(7, tokens * lda);
    size_t unequal = 0, outside = 0;
    for (size_t i = 0; i < n; i++) shk_quant_row(type, w + i * stride, fill(row, width, -1, 1), width);
    memcpy(sum, sums, tokens * lda * sizeof *sum);
    k->dot_many[type](dots, ldy, w, n, x, ldx, tokens, width);
    k->axpy_many[type](sums, lda, w, n, c, ldc, tokens, width);
    for (size_t t = 0; t < tokens; t++) {
        k->dot_rows[type](dot, w, stride, NULL, n, x + t * ldx, width);
        unequal += memcmp(dot, dots + t * ldy, n * sizeof *dot) != 0;
        for (size_t i = n; i < ldy; i++) outside += dots[t * ldy + i] != 7;
        k->axpy_rows[type](sum + t * lda, w, stride, NULL, c + t * ldc, n, width);
    }
    CHECK(!unequal, "%s dot_many %s %zu x %zu x %zu: %zu differ from dot_rows", k->tier, name, n, tokens, width, unequal);
    bool same = !memcmp(sum, sums, tokens * lda * sizeof *sum);
    CHECK(same, "%s axpy_many %s %zu x %zu x %zu: not axpy_rows", k->tier, name, n, tokens, width);
    CHECK(!outside && marks_intact(), "%s %s %zu x %zu x %zu: wrote outside", k->tier, name, n, tokens, width);
}

static void test(const shk_kernels *k, const struct tier *t) {
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t n = length_of(i);
        float *x = floats(0, n);
        check_fold(k, n);
        if (!n) continue;
        check_exp_sum(k, t, fill(x, n, -6, 6), n);
        check_exp_sum(k, t, fill(x, n, -200, 200), n);
        check_exp_sum(k, t, fill(x, n, -1e30, 1e30), n);
        for (size_t j = 0; j < n; j++) x[j] = j == n / 2 ? 1 : -INFINITY;
        check_exp_sum(k, t, x, n);
        float max, *y = fill(floats(1, n), n, -1, 1);
        y[n - 1] = NAN;
        CHECK(isnan(k->exp_sum(y, n, &max)), "%s exp_sum of %zu lost a NaN", k->tier, n);
    }
    for (size_t width = 0; width < 68; width++) check_mix(k, 5, 7, width);
    for (size_t n = 0; n < 4; n++)
        for (size_t tokens = 0; tokens < 14; tokens++) check_mix(k, n, tokens, 70);
    check_mix(k, 128, 60, 256);
    static const shk_type types[] = { SHK_F32, SHK_BF16, SHK_Q8_0 };
    for (size_t i = 0; i < 3; i++) {
        size_t step = shk_type_of(types[i])->block;
        for (size_t width = 0; width < 68 * step && width <= 256; width += step) check_many(k, types[i], 5, 3, width);
        for (size_t n = 0; n < 18; n++)
            for (size_t tokens = 0; tokens < 10; tokens++) check_many(k, types[i], n, tokens, 64);
        check_many(k, types[i], 128, 10, 256);
    }
    for (int type = 0; type < SHK_TYPE_COUNT; type++) {
        bool kept = type == SHK_F32 || type == SHK_BF16 || type == SHK_Q8_0;
        CHECK(!k->dot_many[type] == !kept && !k->axpy_many[type] == !kept, "%s: type %d", k->tier, type);
    }
}

int main(void) {
    each_tier(test);
    return test_done();
}
