/* Products of f32 matrices of any shape and orientation, blocked and packed. */
#ifndef SHK_CPU_GEMM_H
#define SHK_CPU_GEMM_H

#include "cpu/device.h"

/* A factor: element (i, j) is p[i * row + j * col]. One of the strides is 1, or things are slow. */
typedef struct shk_factor {
    const float *p;
    size_t row, col;
} shk_factor;

/* C (m x n, rows ldc apart) = A (m x k) B (k x n), or += where `add`. */
typedef struct shk_product {
    float *c;
    size_t ldc;
    shk_factor a, b;
    size_t m, n, k;
    bool add;
} shk_product;

/* On one thread, whose scratch is used. Each sum has one order, that of k in blocks of 256. */
void shk_cpu_gemm(const shk_cpu *cpu, int thread, const shk_product *p);
/* `count` products over the threads: the i-th has its pointers moved on by i times the steps. The same sums. */
void shk_cpu_products(const shk_cpu *cpu, const shk_product *p, size_t count, size_t step_c, size_t step_a, size_t step_b);

#endif
