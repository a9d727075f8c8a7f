#include <math.h>

#include "cpu/tiers.h"

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
