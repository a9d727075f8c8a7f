#include <math.h>

#include "cpu/tiers.h"

float shk_exp_sum_ref(float *x, size_t n, float *max) {
    double sum = 0;
    *max = x[0];
    for (size_t i = 1; i < n; i++) *max = fmaxf(*max, x[i]);
    for (size_t i = 0; i < n; i++) sum += x[i] = (float)exp((double)x[i] - (double)*max);
    return (float)sum;
}

void shk_fold_ref(float *y, float a, const float *x, float b, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = fmaf(b, x[i], a * y[i]);
}

void shk_mix_f32_ref(float *y, size_t ldy, const float *w, size_t ldw, const float *c, size_t ldc, size_t n, size_t tokens,
                     size_t k) {
    for (size_t t = 0; t < tokens; t++)
        for (size_t j = 0; j < k; j++) {
            float sum = 0;
            for (size_t i = 0; i < n; i++) sum = fmaf(c[t * ldc + i], w[i * ldw + j], sum);
            y[t * ldy + j] = sum;
        }
}

#define MANY(T, type, tier)                                                                                 \
    void shk_dot_many_##type##_##tier(float *y, size_t ldy, const void *w, size_t n, const float *x, size_t ldx, size_t tokens, \
                                      size_t k) {                                                           \
        size_t stride = 0;                                                                                  \
        shk_row_bytes(SHK_##T, k, &stride);                                                                 \
        for (size_t t = 0; t < tokens; t++) shk_dot_rows_##type##_##tier(y + t * ldy, w, stride, NULL, n, x + t * ldx, k); \
    }                                                                                                       \
    void shk_axpy_many_##type##_##tier(float *y, size_t ldy, const void *w, size_t n, const float *c, size_t ldc, size_t tokens, \
                                       size_t k) {                                                          \
        size_t stride = 0;                                                                                  \
        shk_row_bytes(SHK_##T, k, &stride);                                                                 \
        for (size_t t = 0; t < tokens; t++) shk_axpy_rows_##type##_##tier(y + t * ldy, w, stride, NULL, c + t * ldc, n, k); \
    }
SHK_KV_TYPES(MANY, ref)
