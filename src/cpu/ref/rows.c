#include <math.h>

#include "cpu/tiers.h"

/* Values decoded at a time: a multiple of every type's block. */
enum { CHUNK = 256 };

static size_t min(size_t a, size_t b) { return a < b ? a : b; }

static const uint8_t *chunk_at(shk_type type, const void *w, size_t stride, size_t row, size_t j) {
    const shk_type_info *t = shk_type_of(type);
    return (const uint8_t *)w + row * stride + j / t->block * t->bytes;
}

static void dot_rows(shk_type type, float *y, const void *w, size_t stride, const uint32_t *ids, size_t n, const float *x,
                     size_t k) {
    float v[CHUNK];
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t j = 0; j < k; j += CHUNK) {
            size_t count = min(CHUNK, k - j);
            shk_dequant_row(type, v, chunk_at(type, w, stride, ids ? ids[i] : i, j), count);
            for (size_t u = 0; u < count; u++) sum += (double)v[u] * (double)x[j + u];
        }
        y[i] = (float)sum;
    }
}

static void axpy_rows(shk_type type, float *y, const void *w, size_t stride, const uint32_t *ids, const float *c, size_t n,
                      size_t k) {
    float v[CHUNK];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < k; j += CHUNK) {
            size_t count = min(CHUNK, k - j);
            shk_dequant_row(type, v, chunk_at(type, w, stride, ids ? ids[i] : i, j), count);
            for (size_t u = 0; u < count; u++) y[j + u] = fmaf(c[i], v[u], y[j + u]);
        }
}

#define ROWS(T, type, tier)                                                                                        \
    void shk_dot_rows_##type##_##tier(float *y, const void *w, size_t stride, const uint32_t *ids, size_t n,       \
                                      const float *x, size_t k) {                                                  \
        dot_rows(SHK_##T, y, w, stride, ids, n, x, k);                                                             \
    }                                                                                                              \
    void shk_axpy_rows_##type##_##tier(float *y, const void *w, size_t stride, const uint32_t *ids, const float *c, \
                                       size_t n, size_t k) {                                                       \
        axpy_rows(SHK_##T, y, w, stride, ids, c, n, k);                                                            \
    }                                                                                                              \
    void shk_dequant_##type##_##tier(float *y, const void *w, size_t k) { shk_dequant_row(SHK_##T, y, w, k); }
SHK_ROW_TYPES(ROWS, ref)
