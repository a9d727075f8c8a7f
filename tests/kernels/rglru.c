/* rglru_step against the equations in double, one step and long scans. */
#include "tiers.h"

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* One step in double; *slack gets what the roundings of a step in f32 can amount to, from the bounds of cpu/vec/math.h: the input's
 * gate 3 u and a product, 4 u; log a, a sigmoid and a product (by -8 is exact), 4 u; e = a - 1 from it 3 u more (|e| moves by less
 * than |log a| does), 7 u; m = sqrt(-e (e + 2)): half of 7 u, 8 u and a product's, and its own, 9 u; m in, 14 u. At last the
 * roundings of the two sums. */
static double step(double h, double x, double ia, double ra, double sl, bool first, double *slack) {
    double in = sigmoid(ia) * x, log_a = -8 * sigmoid(ra) * sl, e = expm1(log_a), m = sqrt(-expm1(2 * log_a));
    double y = first ? in : h + e * h + m * in;
    double sums = fabs(h) + 2 * (fabs(e * h) + fabs(m * in));
    *slack = first ? 5 * u * fabs(in) + least : u * (7 * fabs(e * h) + 14 * fabs(m * in) + sums) + 8 * least;
    return y;
}

static void check_step(const shk_kernels *k, size_t w, bool first, double range, int in_place) {
    float *x = fill(floats(0, w), w, -2, 2), *ia = fill(floats(1, w), w, -range, range), *ra = fill(floats(2, w), w, -range, range);
    float *sl = floats(3, w), *h = fill(floats(4, w), w, -3, 3), *y = floats(5, w), *before[4] = { x, ia, ra, h }, *was[4];
    for (size_t i = 0; i < w; i++) sl[i] = (float)exp(uniform(-20, 2));
    for (size_t i = 0; i < 4; i++) was[i] = memcpy(floats(6 + i, w), before[i], w * sizeof *x);
    if (in_place) y = before[in_place - 1];
    k->rglru_step(y, h, x, ia, ra, sl, w, first);
    size_t far = 0;
    for (size_t i = 0; i < w; i++) {
        double in[4], slack, expected;
        for (size_t j = 0; j < 4; j++) in[j] = (double)was[j][i];
        expected = step(in[3], in[0], in[1], in[2], (double)sl[i], first, &slack);
        far += !(fabs((double)y[i] - expected) <= slack) || memcmp(&y[i], &h[i], sizeof *y);
    }
    CHECK(!far && marks_intact(), "%s rglru_step of %zu, first %d: %zu beyond the bound", k->tier, w, first, far);
}

/* Many steps with the decay a = exp(log_a) and one input: h goes to m in / (1 - a). A step's slack is forgotten at the rate 1 - a,
 * so that the error of the limit is at most slack / (1 - a); and what is left of the start is a^steps. */
static void check_scan(const shk_kernels *k, double log_a) {
    enum { W = 19 };
    float *x = fill(floats(0, W), W, 0.5, 2), *ia = fill(floats(1, W), W, -1, 1), *ra = fill(floats(2, W), W, -1, 1);
    float *sl = floats(3, W), *h = floats(4, W), *y = floats(5, W);
    size_t steps = (size_t)(40 / -log_a), far = 0;
    for (size_t i = 0; i < W; i++) sl[i] = (float)(log_a / (-8 * sigmoid((double)ra[i])));
    for (size_t s = 0; s < steps; s++) k->rglru_step(y, h, x, ia, ra, sl, W, s == 0);
    for (size_t i = 0; i < W; i++) {
        double la = -8 * sigmoid((double)ra[i]) * (double)sl[i], decay = -expm1(la), slack;
        double limit = sqrt(-expm1(2 * la)) * sigmoid((double)ia[i]) * (double)x[i] / decay;
        step(limit, (double)x[i], (double)ia[i], (double)ra[i], (double)sl[i], false, &slack);
        far += !(fabs((double)h[i] - limit) <= slack / decay + exp(-39) * fabs(limit));
    }
    CHECK(!far, "%s %zu rglru steps at log a = %g: %zu beyond the bound", k->tier, steps, log_a, far);
}

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t i = 0; i < LENGTHS; i++)
        for (int first = 0; first < 2; first++) {
            check_step(k, length_of(i), first, 4, (int)(i % 4));
            check_step(k, length_of(i), first, 80, 0);
        }
    for (double log_a = -1; log_a < -5e-5; log_a /= 8) check_scan(k, log_a);

    /* a document's first step must not see what the state held */
    float *x = fill(floats(0, 5), 5, -1, 1), *h = fill(floats(1, 5), 5, NAN, NAN), *y = floats(2, 5);
    k->rglru_step(y, h, x, x, x, x, 5, 1);
    for (size_t i = 0; i < 5; i++) CHECK(isfinite(y[i]), "%s: the first step saw the old state", k->tier);
}

int main(void) {
    each_tier(test);
    return test_done();
}
