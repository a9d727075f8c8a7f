/* Products with matrices, forward for many rows and backward. Matrices are f32. */
#include <string.h>

#include "cpu/ops_grad.h"

static const float *values(const shk_mat *W) { return W->data; }
static size_t row_of(const shk_mat *W) { return W->stride / sizeof(float); }

typedef struct bias_args {
    const shk_cpu *cpu;
    float *to;
    const float *from;
    size_t n, N;
} bias_args;

static void add_bias_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const bias_args *a = ctx;
    for (size_t i = begin; i < end; i++) a->cpu->k.add(a->to + i * a->n, a->from, a->n);
}

static void sum_rows_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const bias_args *a = ctx;
    for (size_t i = 0; i < a->N; i++) a->cpu->k.add(a->to + begin, a->from + i * a->n + begin, end - begin);
}

/* y += b, each row */
static void add_bias(shk_cpu *cpu, float *y, const float *b, size_t N, size_t n) {
    bias_args args = { cpu, y, b, n, N };
    if (b) shk_pool_run(cpu->pool, add_bias_range, &args, N, 16384 / n + 1);
}

/* db += sum over rows of dy */
static void bias_grad(shk_cpu *cpu, float *db, const float *dy, size_t N, size_t n) {
    bias_args args = { cpu, db, dy, n, N };
    if (db) shk_pool_run(cpu->pool, sum_rows_range, &args, n, SHK_CPU_COLUMNS);
}

void shk_cpu_linear_rows(void *dev, float *y, const float *x, size_t ldx, const shk_mat *W, const float *b, size_t N) {
    shk_cpu *cpu = dev;
    shk_product p = { y, W->rows, { x, ldx, 1 }, { values(W), 1, row_of(W) }, N, W->rows, W->cols, false };
    shk_cpu_products(cpu, &p, 1, 0, 0, 0);
    add_bias(cpu, y, b, N, W->rows);
}

void shk_cpu_linear_grad_x(void *dev, float *dx, size_t ldx, const float *dy, const shk_mat *W, size_t N, bool add) {
    shk_product p = { dx, ldx, { dy, W->rows, 1 }, { values(W), row_of(W), 1 }, N, W->cols, W->rows, add };
    shk_cpu_products(dev, &p, 1, 0, 0, 0);
}

void shk_cpu_linear_grad_w(void *dev, float *dW, float *db, const float *dy, const float *x, size_t ldx, size_t rows, size_t cols,
                           size_t N) {
    shk_product p = { dW, cols, { dy, 1, rows }, { x, ldx, 1 }, rows, cols, N, true };
    shk_cpu_products(dev, &p, 1, 0, 0, 0);
    bias_grad(dev, db, dy, N, rows);
}

void shk_cpu_block_linear_rows(void *dev, float *y, const float *x, const shk_mat *W, const float *b, size_t blocks, size_t N) {
    size_t n = W->cols, all = blocks * n;
    shk_product p = { y, all, { x, all, 1 }, { values(W), row_of(W), 1 }, N, n, n, false };
    shk_cpu_products(dev, &p, blocks, n, n, n * row_of(W));
    add_bias(dev, y, b, N, all);
}

void shk_cpu_block_linear_grad(void *dev, float *dx, float *dW, float *db, const float *dy, const float *x, const shk_mat *W,
                               size_t blocks, size_t N, bool add) {
    size_t n = W->cols, all = blocks * n;
    shk_product px = { dx, all, { dy, all, 1 }, { values(W), 1, row_of(W) }, N, n, n, add };
    shk_product pw = { dW, n, { x, 1, all }, { dy, all, 1 }, n, n, N, true };
    shk_cpu_products(dev, &px, blocks, n, n, n * row_of(W));
    shk_cpu_products(dev, &pw, blocks, n * n, n, n);
    bias_grad(dev, db, dy, N, all);
}
