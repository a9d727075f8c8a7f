#include <math.h>

#include "cpu/tiers.h"

void shk_gelu_mul_ref(float *y, const float *g, const float *u, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double v = (double)g[i], inner = 0.79788456080286535588 /* sqrt(2 / pi) */ * (v + 0.044715 * v * v * v);
        y[i] = (float)(0.5 * v * (1 + tanh(inner)) * (u ? (double)u[i] : 1));
    }
}

void shk_softmax_ref(float *x, size_t n) {
    double sum = 0;
    float max = x[0];
    for (size_t i = 1; i < n; i++) max = fmaxf(max, x[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - (double)max);
    for (size_t i = 0; i < n; i++) x[i] = (float)(exp((double)x[i] - (double)max) / sum);
}

void shk_softplus_ref(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (float)(fmax((double)x[i], 0) + log1p(exp(-fabs((double)x[i]))));
}

void shk_softcap_ref(float *x, size_t n, float cap) {
    for (size_t i = 0; i < n; i++) x[i] = (float)((double)cap * tanh((double)x[i] / (double)cap));
}
