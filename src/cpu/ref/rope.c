#include "cpu/tiers.h"

void shk_rope_ref(float *x, const float *cos, const float *sin, size_t half) {
    for (size_t i = 0; i < half; i++) {
        double a = (double)x[i], b = (double)x[i + half], c = (double)cos[i], s = (double)sin[i];
        x[i] = (float)(a * c - b * s);
        x[i + half] = (float)(b * c + a * s);
    }
}
