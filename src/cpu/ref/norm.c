#include <math.h>

#include "cpu/tiers.h"

void shk_rmsnorm_ref(float *y, const float *x, const float *w, size_t n, float eps) {
    double squares = 0;
    for (size_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
    double scale = 1 / sqrt(squares / (double)n + (double)eps);
    for (size_t i = 0; i < n; i++) y[i] = (float)((double)x[i] * scale * (w ? (double)w[i] : 1));
}

void shk_moments_ref(const float *x, size_t n, unsigned ddof, double *mean, double *std) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    *mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) squares += ((double)x[i] - *mean) * ((double)x[i] - *mean);
    *std = sqrt(squares / (double)(n - ddof));
}
