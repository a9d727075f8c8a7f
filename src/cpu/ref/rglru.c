#include <math.h>

#include "cpu/tiers.h"

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

void shk_rglru_step_ref(float *y, float *h, const float *x, const float *ia, const float *ra, const float *sl, size_t w,
                        int first) {
    for (size_t i = 0; i < w; i++) {
        double in = sigmoid((double)ia[i]) * (double)x[i], log_a = -8 * sigmoid((double)ra[i]) * (double)sl[i];
        y[i] = h[i] = (float)(first ? in : exp(log_a) * (double)h[i] + sqrt(-expm1(2 * log_a)) * in);
    }
}
