#include "cpu/tiers.h"

void shk_matmul_f32_ref(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, size_t n, size_t tokens,
                        size_t k) {
    for (size_t t = 0; t < tokens; t++)
        for (size_t i = 0; i < n; i++) {
            double sum = 0;
            for (size_t j = 0; j < k; j++) sum += (double)w[i * ldw + j] * (double)x[t * ldx + j];
            y[t * ldy + i] = (float)sum;
        }
}
