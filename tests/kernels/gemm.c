/* gemm_tile against sums in double, at every shape of a tile. The bound is that of a sum of k products in one order, one rounding
 * for each, and of the addition to what was there. */
#include "tiers.h"

enum { ROWS = SHK_GEMM_ROWS, COLS = SHK_GEMM_COLS };

static void check(const shk_kernels *k, size_t depth, size_t rows, size_t cols, int add) {
    size_t ldc = COLS + 3, n = (rows - 1) * ldc + cols;
    float *a = fill(floats(0, depth * ROWS + 16), depth * ROWS, -2, 2);
    float *b = fill(floats(1, depth * COLS + 16), depth * COLS, -2, 2);
    a = memmove((float *)(((uintptr_t)a + 63) & ~(uintptr_t)63), a, depth * ROWS * sizeof *a);
    b = memmove((float *)(((uintptr_t)b + 63) & ~(uintptr_t)63), b, depth * COLS * sizeof *b);
    float *c = fill(floats(2, n), n, -2, 2), *before = memcpy(floats(3, n), c, n * sizeof *c);
    k->gemm_tile(c, ldc, a, b, depth, rows, cols, add);
    size_t far = 0;
    for (size_t i = 0; i < n; i++) {
        size_t r = i / ldc, j = i % ldc;
        if (j >= cols) {
            far += c[i] != before[i];
            continue;
        }
        double sum = 0, magnitude = 0, old = add ? (double)before[i] : 0;
        for (size_t d = 0; d < depth; d++) {
            double term = (double)a[d * ROWS + r] * (double)b[d * COLS + j];
            sum += term, magnitude += fabs(term);
        }
        far += !(fabs((double)c[i] - old - sum) <= u * ((double)depth * magnitude + fabs(old) + magnitude) + least);
    }
    CHECK(!far && marks_intact(), "%s gemm_tile %zu x %zu x %zu, add %d: %zu beyond the bound", k->tier, rows, cols, depth, add,
          far);
}

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t rows = 1; rows <= ROWS; rows++)
        for (size_t cols = 1; cols <= COLS; cols++)
            for (int add = 0; add < 2; add++) check(k, rows == 5 || cols == 7 ? 1 : 17, rows, cols, add);
    for (size_t depth = 0; depth < 300; depth += depth < 20 ? 1 : 59) check(k, depth, ROWS, COLS, 1);
}

int main(void) {
    each_tier(test);
    return test_done();
}
