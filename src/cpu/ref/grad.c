#include <math.h>

#include "cpu/tiers.h"
#include "ops.h"

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

void shk_gelu_mul_grad_ref(float *dg, float *du, const float *dy, const float *g, const float *u, size_t n) {
    const double c = 2 * 0.79788456080286535588; /* 2 sqrt(2 / pi): (1 + tanh z) / 2 = sigmoid(2 z) */
    for (size_t i = 0; i < n; i++) {
        double v = (double)g[i], s = sigmoid(c * (v + 0.044715 * v * v * v)), d = (double)dy[i];
        double slope = s + v * s * (1 - s) * c * (1 + 3 * 0.044715 * v * v);
        dg[i] = (float)(d * slope * (u ? (double)u[i] : 1));
        if (du) du[i] = (float)(d * v * s);
    }
}

void shk_exp_ref(float *y, const float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (float)exp((double)x[i] - (double)s);
}

void shk_softplus_grad_ref(float *y, const float *dy, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (float)((double)dy[i] * sigmoid((double)x[i]));
}

void shk_rglru_grad_step_ref(float *dx, float *dia, float *dra, double *dsl, float *carry, const float *dy, const float *h,
                             const float *x, const float *ia, const float *ra, const float *sl, size_t w) {
    for (size_t j = 0; j < w; j++) {
        double i = sigmoid((double)ia[j]), r = sigmoid((double)ra[j]), log_a = -8 * r * (double)sl[j];
        double a = h ? exp(log_a) : 0, m = h ? sqrt(-expm1(2 * log_a)) : 1, dh = (double)dy[j] + (double)carry[j];
        double dl = h ? dh * a * ((double)h[j] - i * (double)x[j] * a / fmax(m, 1.0 / 2000)) : 0;
        double in = dh * m;
        dia[j] = (float)(in * (double)x[j] * i * (1 - i));
        dx[j] = (float)(in * i);
        dra[j] = (float)(-8 * (double)sl[j] * dl * r * (1 - r));
        dsl[j] += -8 * r * dl;
        carry[j] = (float)(dh * a);
    }
}

size_t shk_subtract_ref(float *y, const float *x, float theta, size_t n) {
    size_t above = 0;
    for (size_t i = 0; i < n; i++) {
        above += x[i] > theta;
        y[i] = theta == -INFINITY ? x[i] : x[i] <= theta ? 0 : x[i] - theta;
    }
    return above;
}

float shk_rmsnorm_grad_ref(float *dx, const float *dy, const float *x, const float *w, size_t n, float eps) {
    double squares = 0, dot = 0;
    for (size_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i], dot += (double)w[i] * (double)dy[i] * (double)x[i];
    double r = 1 / sqrt(squares / (double)n + (double)eps), mean = dot / (double)n * r * r;
    for (size_t i = 0; i < n; i++) dx[i] = (float)(r * ((double)w[i] * (double)dy[i] - (double)x[i] * mean));
    return (float)r;
}

void shk_softmax_grad_ref(float *p, const float *dp, float dot, const float *s, float inverse_cap, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double capped = (double)s[i] * (double)inverse_cap;
        p[i] = (float)((double)p[i] * ((double)dp[i] - (double)dot) * (1 - capped * capped));
    }
}

void shk_adamw_ref(float *w, float *m, float *v, const float *g, size_t n, const struct shk_adamw *a) {
    for (size_t i = 0; i < n; i++) {
        double x = (double)a->scale * (double)g[i], b1 = (double)a->beta1, b2 = (double)a->beta2;
        m[i] = (float)(b1 * (double)m[i] + (1 - b1) * x);
        v[i] = (float)(b2 * (double)v[i] + (1 - b2) * x * x);
        double step = (double)m[i] / (double)a->correct1 / (sqrt((double)v[i] / (double)a->correct2) + (double)a->eps);
        w[i] = (float)((double)w[i] - (double)a->rate * (step + (double)a->decay * (double)w[i]));
    }
}
