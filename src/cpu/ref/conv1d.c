#include "cpu/tiers.h"

void shk_conv1d_step_ref(float *y, float *tail, const float *x, const float *c, const float *b, size_t w, size_t taps) {
    for (size_t i = 0; i < w; i++) {
        double sum = (double)b[i];
        for (size_t k = 0; k < taps; k++) {
            float in = k + 1 < taps ? tail[k * w + i] : x[i];
            sum += (double)in * (double)c[k * w + i];
            if (k) tail[(k - 1) * w + i] = in;
        }
        y[i] = (float)sum;
    }
}
