/* The training ops that have files of their own. */
#ifndef SHK_CPU_OPS_GRAD_H
#define SHK_CPU_OPS_GRAD_H

#include "cpu/gemm.h"

/* Columns that a thread takes at once where it goes down all rows of them: a sum over rows then has one order. */
enum { SHK_CPU_COLUMNS = 64 };

/* ops_attention_grad.c */
size_t shk_cpu_attention_work(void *dev, const shk_batch *b, const shk_attention *a);
void shk_cpu_attention_rows(void *dev, float *o, float *lse, shk_threshold *th, const float *q, const float *k, const float *v,
                            const shk_batch *b, const shk_attention *a, void *work);
void shk_cpu_attention_grad(void *dev, float *dq, float *dk, float *dv, const float *dy, const float *o, const float *lse,
                            const shk_threshold *th, const float *q, const float *k, const float *v, const shk_batch *b,
                            const shk_attention *a, void *work);

/* ops_recurrent_grad.c */
void shk_cpu_conv1d_rows(void *dev, float *y, const float *x, const float *c, const float *bias, const shk_batch *b, size_t w,
                         size_t taps);
void shk_cpu_conv1d_grad(void *dev, float *dx, float *dc, float *dbias, const float *dy, const float *x, const float *c,
                         const shk_batch *b, size_t w, size_t taps);
void shk_cpu_rglru_rows(void *dev, float *y, const float *x, const float *ia, const float *ra, const float *lambda,
                        const shk_batch *b, size_t w);
void shk_cpu_rglru_grad(void *dev, float *dx, float *dia, float *dra, float *dlambda, const float *dy, const float *y,
                        const float *x, const float *ia, const float *ra, const float *lambda, const shk_batch *b, size_t w);

/* ops_matrix_grad.c */
void shk_cpu_linear_rows(void *dev, float *y, const float *x, size_t ldx, const shk_mat *W, const float *b, size_t N);
void shk_cpu_linear_grad_x(void *dev, float *dx, size_t ldx, const float *dy, const shk_mat *W, size_t N, bool add);
void shk_cpu_linear_grad_w(void *dev, float *dW, float *db, const float *dy, const float *x, size_t ldx, size_t rows, size_t cols,
                           size_t N);
void shk_cpu_block_linear_rows(void *dev, float *y, const float *x, const shk_mat *W, const float *b, size_t blocks, size_t N);
void shk_cpu_block_linear_grad(void *dev, float *dx, float *dW, float *db, const float *dy, const float *x, const shk_mat *W,
                               size_t blocks, size_t N, bool add);

#endif
