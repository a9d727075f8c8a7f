#include "cpu/tiers.h"

void shk_gemm_tile_ref(float *c, size_t ldc, const float *a, const float *b, size_t k, size_t rows, size_t cols, int add) {
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < cols; j++) {
            double sum = add ? (double)c[r * ldc + j] : 0;
            for (size_t i = 0; i < k; i++) sum += (double)a[i * SHK_GEMM_ROWS + r] * (double)b[i * SHK_GEMM_COLS + j];
            c[r * ldc + j] = (float)sum;
        }
}
