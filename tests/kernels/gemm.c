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

/* Packed factors in bf16 against the same in double: a rounding for each product and each sum. */
static void check_bf16(const shk_kernels *k, size_t depth, size_t rows, size_t cols, int order) {
    enum { LINES = SHK_GEMM_BF16_ROWS, WIDE = SHK_GEMM_BF16_COLS, DEEP = SHK_GEMM_BF16_DEEP };
    size_t ldc = cols + 3, n = (rows - 1) * ldc + cols, filled = (depth + DEEP - 1) / DEEP * DEEP, far = 0;
    size_t panels = (cols + WIDE - 1) / WIDE;
    /* element (line, i) of a factor is at line * along + i * deep: lines behind each other, beside each other, or neither */
    size_t along = order == 1 ? 1 : order == 2 ? 2 * depth : depth;
    size_t deep_a = order == 1 ? rows : order == 2 ? 2 : 1, deep_b = order == 1 ? cols : deep_a;
    size_t n_a = (rows - 1) * along + (depth - 1) * deep_a + 1, n_b = (cols - 1) * along + (depth - 1) * deep_b + 1;
    float *a = fill(floats(0, n_a), n_a, -2, 2), *b = fill(floats(1, n_b), n_b, -2, 2);
    float *c = fill(floats(2, n), n, -2, 2), *before = memcpy(floats(3, n), c, n * sizeof *c);
    uint32_t *pa = (uint32_t *)floats(4, LINES * filled / 2), *pb = (uint32_t *)floats(5, panels * WIDE * filled / 2);
    k->gemm_pack_bf16(pa, a, rows, depth, along, deep_a, 0);
    for (size_t j = 0; j < cols; j += WIDE)
        k->gemm_pack_bf16(pb + j * filled / 2, b + j * along, cols - j < WIDE ? cols - j : WIDE, depth, along, deep_b, 1);
    k->gemm_panel_bf16(c, ldc, pa, pb, filled, rows, cols);
    for (size_t i = 0; i < n; i++) {
        size_t r = i / ldc, j = i % ldc;
        if (j >= cols) {
            far += c[i] != before[i];
            continue;
        }
        double sum = 0, magnitude = 0, old = (double)before[i];
        for (size_t d = 0; d < depth; d++) {
            double x = (double)shk_bf16_to_f32(shk_f32_to_bf16(a[r * along + d * deep_a]));
            double term = x * (double)shk_bf16_to_f32(shk_f32_to_bf16(b[j * along + d * deep_b]));
            sum += term, magnitude += fabs(term);
        }
        far += !(fabs((double)c[i] - old - sum) <= u * (2 * (double)depth + 1) * (magnitude + fabs(old)));
    }
    CHECK(!far && marks_intact(), "%s gemm_panel_bf16 %zu x %zu x %zu, order %d: %zu beyond the bound", k->tier, rows, cols, depth,
          order, far);
}

static void test(const shk_kernels *k, const struct tier *t) {
    (void)t;
    for (size_t rows = 1; rows <= ROWS; rows++)
        for (size_t cols = 1; cols <= COLS; cols++)
            for (int add = 0; add < 2; add++) check(k, rows == 5 || cols == 7 ? 1 : 17, rows, cols, add);
    for (size_t depth = 0; depth < 300; depth += depth < 20 ? 1 : 59) check(k, depth, ROWS, COLS, 1);
    for (int order = 0; k->gemm_panel_bf16 && order < 3; order++) {
        for (size_t rows = 1; rows <= SHK_GEMM_BF16_ROWS; rows++)
            for (size_t cols = 1; cols <= 70; cols += cols < 34 ? 1 : 5)
                check_bf16(k, rows == 5 || cols == 7 ? 1 : 35, rows, cols, order);
        for (size_t depth = 1; depth < 300; depth += depth < 40 ? 1 : 43) check_bf16(k, depth, SHK_GEMM_BF16_ROWS, 64, order);
    }
}

int main(void) {
    each_tier(test);
    return test_done();
}
