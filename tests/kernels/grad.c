/* The gradients of activations, norms, softmax and the RG-LRU, and AdamW, against the formulas in double. The bounds come from
 * those of the functions in cpu/vec/math.h: exp 2 u, expm1 3 u, sigmoid 3 u. */
#include "ops.h"
#include "tiers.h"

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* The argument of the sigmoid is off by 3 u of itself, and s changes by s (1-s) of what it is off; where that is not small it is
 * below 0.25. gelu' is made of s and v s (1-s) z' with few roundings of each. */
static void check_gelu(const shk_kernels *k, const float *dy, const float *g, const float *factor, size_t n, int in_place) {
    float *dg = floats(3, n), *du = floats(4, n), *d = memcpy(floats(5, n), dy, n * sizeof *dy);
    float *out = in_place ? memcpy(floats(6, n), g, n * sizeof *g) : dg;
    k->gelu_mul_grad(out, in_place ? d : du, in_place ? d : dy, in_place ? out : g, factor, n);
    size_t far = 0;
    for (size_t i = 0; i < n; i++) {
        const double c = 2 * 0.79788456080286535588;
        double v = (double)g[i], z = c * (v + 0.044715 * v * v * v), slope = c * (1 + 3 * 0.044715 * v * v);
        double s = sigmoid(z), t = sigmoid(-z), y = (double)dy[i], f = factor ? (double)factor[i] : 1;
        double want_g = y * f * (s + v * s * t * slope), want_u = y * v * s;
        double off_s = u * (4 * s + 4 * fabs(z) * s * t); /* relative to v s and its like */
        double bound_g = fabs(y * f) * (off_s * (1 + fabs(v) * slope * (t + s)) + 8 * u * fabs(v) * s * t * slope + 4 * u * s);
        bound_g += fabs(y * f * v * slope) * s * 2 * u; /* 1 - s is rounded at the size of 1 */
        double bound_u = fabs(y * v) * off_s + 4 * u * fabs(want_u);
        const float *have_u = in_place ? d : du;
        double floor_s = fabs(z) > 80 ? exp(-87) : 0; /* no s is below e^-88 */
        bound_g += fabs(y * f * v) * floor_s * 25, bound_u += fabs(y * v) * floor_s;
        far += !(fabs((double)out[i] - want_g) <= bound_g + 4 * least);
        far += !(fabs((double)have_u[i] - want_u) <= bound_u + 4 * least);
    }
    CHECK(!far && marks_intact(), "%s gelu_mul_grad of %zu: %zu beyond the bound", k->tier, n, far);
}

/* exp within 2 u, its argument within u of itself; below e^-87 there is 0 */
static void check_exp(const shk_kernels *k, const float *x, float s, size_t n) {
    float *y = memcpy(floats(3, n), x, n * sizeof *x);
    k->exp(y, y, s, n);
    size_t far = 0;
    for (size_t i = 0; i < n; i++) {
        double z = (double)x[i] - (double)s, want = exp(z);
        far += !(fabs((double)y[i] - want) <= want * u * (3 + 1.01 * fabs(z)) + exp(-87) || (isinf(z) && y[i] == 0));
    }
    CHECK(!far && marks_intact(), "%s exp of %zu: %zu beyond the bound", k->tier, n, far);
}

static void check_softplus(const shk_kernels *k, const float *dy, const float *x, size_t n) {
    float *y = memcpy(floats(3, n), dy, n * sizeof *dy);
    k->softplus_grad(y, y, x, n);
    size_t far = 0;
    for (size_t i = 0; i < n; i++) {
        double want = (double)dy[i] * sigmoid((double)x[i]);
        far += !(fabs((double)y[i] - want) <= 5 * u * fabs(want) + fabs((double)dy[i]) * exp(-87) + least);
    }
    CHECK(!far && marks_intact(), "%s softplus_grad of %zu: %zu beyond the bound", k->tier, n, far);
}

/* i and r within 3 u and a few roundings; log a relatively within 6 u, so a within 6 u |log a|, but it is 1 + expm1(log a), which
 * rounds at the size of 1; 1 - a^2 within 12 u relative to itself, m within 6 u plus 2. Everything is a product of those but the
 * difference in dl, whose terms count by their magnitudes. */
static void check_rglru(const shk_kernels *k, size_t n, int first) {
    float *dx = floats(0, n), *dia = floats(1, n), *dra = floats(2, n), *carry = fill(floats(3, n), n, -2, 2);
    float *dy = fill(floats(4, n), n, -2, 2), *h = fill(floats(5, n), n, -3, 3), *x = fill(floats(6, n), n, -3, 3);
    float *gates = fill(floats(7, 2 * n), 2 * n, -6, 6), *ia = gates, *ra = gates + n, *sl = fill(floats(8, n), n, 1e-4, 2);
    double *dsl = place(9, n * sizeof *dsl, 0);
    float *old = malloc((n + 1) * sizeof *old);
    memcpy(old, carry, n * sizeof *old);
    for (size_t j = 0; j < n; j++) dsl[j] = 1;
    k->rglru_grad_step(dx, dia, dra, dsl, carry, dy, first ? NULL : h, x, ia, ra, sl, n);
    size_t far = 0;
    for (size_t j = 0; j < n; j++) {
        double i = sigmoid((double)ia[j]), r = sigmoid((double)ra[j]), sp = (double)sl[j], log_a = -8 * r * sp;
        double a = first ? 0 : exp(log_a), m = first ? 1 : sqrt(-expm1(2 * log_a)), dh = (double)dy[j] + (double)old[j];
        double size = fabs((double)dy[j]) + fabs((double)old[j]), xj = (double)x[j];
        double p = first ? 0 : (double)h[j], q = i * xj * a / fmax(m, 1.0 / 2000), dl = first ? 0 : dh * a * (p - q);
        double rel = u * (16 + 8 * fabs(log_a)), off_a = first ? 0 : rel * a + 4 * u, in = i * fabs(xj) / fmax(m, 1.0 / 2000);
        double off_dl = first ? 0 : size * (off_a * (fabs(p) + fabs(q)) + a * (rel * (fabs(p) + fabs(q)) + in * off_a));
        far += !(fabs((double)dx[j] - dh * m * i) <= rel * size * m * i + 4 * least);
        far += !(fabs((double)dia[j] - dh * m * xj * i * (1 - i)) <= rel * size * fabs(xj) * m * i + 4 * least);
        far += !(fabs((double)dra[j] + 8 * sp * dl * r * (1 - r)) <= 8 * sp * r * (off_dl + rel * fabs(dl)) + 4 * least);
        far += !(fabs(dsl[j] - 1 + 8 * r * dl) <= 8 * r * (off_dl + rel * fabs(dl)) + 1e-15 + 4 * least);
        far += !(fabs((double)carry[j] - dh * a) <= size * (off_a + rel * a) + 4 * least);
    }
    free(old);
    CHECK(!far && marks_intact(), "%s rglru_grad_step of %zu, first %d: %zu beyond the bound", k->tier, n, first, far);
}

/* One subtraction, exact choices. */
static void check_subtract(const shk_kernels *k, const float *x, float theta, size_t n) {
    float *y = floats(3, n);
    size_t above = 0, far = 0, have = k->subtract(y, x, theta, n);
    for (size_t i = 0; i < n; i++) {
        above += x[i] > theta;
        far += y[i] != (theta == -INFINITY ? x[i] : x[i] > theta ? x[i] - theta : 0);
    }
    CHECK(!far && have == above && marks_intact(), "%s subtract of %zu: %zu differ, %zu above and not %zu", k->tier, n, far, have,
          above);
}

/* Sums in double of products that were rounded once: relative to the sum of magnitudes. */
static void check_rmsnorm(const shk_kernels *k, const float *dy, const float *x, const float *w, size_t n) {
    float *dx = floats(3, n);
    double squares = 0, dot = 0, magnitude = 0;
    float r = k->rmsnorm_grad(dx, dy, x, w, n, 1e-6f);
    for (size_t i = 0; i < n; i++) {
        double term = (double)w[i] * (double)dy[i] * (double)x[i];
        squares += (double)x[i] * (double)x[i], dot += term, magnitude += fabs(term);
    }
    double want_r = 1 / sqrt(squares / (double)n + (double)1e-6f), mean = dot / (double)n * want_r * want_r;
    double off_mean = u * (2 * magnitude / (double)n * want_r * want_r + 4 * fabs(mean));
    size_t far = !(fabs((double)r - want_r) <= 2 * u * want_r);
    for (size_t i = 0; i < n; i++) {
        double a = (double)w[i] * (double)dy[i], b = (double)x[i] * mean;
        double bound = want_r * (4 * u * (fabs(a) + fabs(b)) + fabs((double)x[i]) * off_mean) + least;
        far += !(fabs((double)dx[i] - want_r * (a - b)) <= bound);
    }
    CHECK(!far && marks_intact(), "%s rmsnorm_grad of %zu: %zu beyond the bound", k->tier, n, far);
}

/* Two differences and a few products of what they give. */
static void check_softmax(const shk_kernels *k, const float *dp, const float *s, size_t n, float inverse_cap) {
    float *p = fill(floats(3, n), n, 0, 1), *before = memcpy(floats(4, n), p, n * sizeof *p);
    k->softmax_grad(p, dp, 0.3f, s, inverse_cap, n);
    size_t far = 0;
    for (size_t i = 0; i < n; i++) {
        double c = (double)s[i] * (double)inverse_cap, d = (double)dp[i] - (double)0.3f, old = (double)before[i];
        double bound = u * old * fabs(d) * (4 * fabs(1 - c * c) + 4 * (1 + c * c));
        far += !(fabs((double)p[i] - old * d * (1 - c * c)) <= bound + least);
    }
    CHECK(!far && marks_intact(), "%s softmax_grad of %zu: %zu beyond the bound", k->tier, n, far);
}

/* A step is a quotient of what m and v have become: a few roundings of each, of which those of v count half. */
static void check_adamw(const shk_kernels *k, size_t n) {
    const struct shk_adamw a = { 0.01f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.19f, 0.0975f, 0.5f };
    float *w = fill(floats(3, n), n, -1, 1), *m = fill(floats(4, n), n, -1, 1), *v = fill(floats(5, n), n, 0, 1);
    float *g = fill(floats(6, n), n, -2, 2), *old = malloc((3 * n + 1) * sizeof *old);
    memcpy(old, w, n * sizeof *w), memcpy(old + n, m, n * sizeof *m), memcpy(old + 2 * n, v, n * sizeof *v);
    k->adamw(w, m, v, g, n, &a);
    size_t far = 0;
    for (size_t i = 0; i < n; i++) {
        double x = (double)a.scale * (double)g[i], b1 = (double)a.beta1, b2 = (double)a.beta2;
        double m1 = b1 * (double)old[n + i], m2 = (1 - b1) * x, v1 = b2 * (double)old[2 * n + i] + (1 - b2) * x * x;
        double scale = (double)a.correct1 * (sqrt(v1 / (double)a.correct2) + (double)a.eps), step = (m1 + m2) / scale;
        double off_m = 4 * u * (fabs(m1) + fabs(m2)), old_w = (double)old[i], rate = (double)a.rate;
        far += !(fabs((double)m[i] - m1 - m2) <= off_m) || !(fabs((double)v[i] - v1) <= 6 * u * v1);
        double off_step = off_m / scale + 10 * u * fabs(step) + 4 * u * fabs((double)a.decay * old_w);
        double want = old_w - rate * (step + (double)a.decay * old_w);
        far += !(fabs((double)w[i] - want) <= 2 * u * fabs(old_w) + 2 * rate * off_step);
    }
    free(old);
    CHECK(!far && marks_intact(), "%s adamw of %zu: %zu beyond the bound", k->tier, n, far);
}

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t i = 0; i < LENGTHS; i++) {
        size_t n = length_of(i);
        float *dy = fill(floats(0, n), n, -2, 2), *x = fill(floats(1, n), n, -8, 8), *factor = fill(floats(2, n), n, -2, 2);
        check_gelu(k, dy, x, factor, n, 0);
        check_gelu(k, dy, x, NULL, n, 0);
        check_gelu(k, dy, x, factor, n, 1);
        check_softplus(k, dy, x, n);
        check_exp(k, x, 8, n);
        check_exp(k, x, INFINITY, n);
        check_subtract(k, x, 1.5f, n);
        check_subtract(k, x, -INFINITY, n);
        check_softmax(k, dy, x, n, 0);
        check_softmax(k, dy, x, n, 0.1f);
        if (n) check_rmsnorm(k, dy, x, factor, n);
        check_rglru(k, n, 0);
        check_rglru(k, n, 1);
        check_adamw(k, n);
    }
    float lost[5] = { 1, 2, NAN, 0, 3 }, kept[5];
    CHECK(k->subtract(kept, lost, 1, 5) == 2 && isnan(kept[2]), "%s subtract lost a NaN", k->tier);
    for (float scale = 1; scale < 1e12f; scale *= 8) {
        float *dy = fill(floats(0, 100), 100, -2, 2), *x = fill(floats(1, 100), 100, -scale, scale);
        check_gelu(k, dy, x, NULL, 100, 0);
        check_softplus(k, dy, x, 100);
    }
}

int main(void) {
    each_tier(test);
    return test_done();
}
