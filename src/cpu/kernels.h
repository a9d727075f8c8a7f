/* Single-threaded CPU kernels. One table; the cascade in kernels.c fills it tier by tier: ref, avx2, avx512; neon apart.
 *
 * Exactness. Within one tier, a dot product of length k has ONE order of summation, whatever kernel computes it: a single
 * vector of L lanes (L: f32 lanes of the tier's register) to which w[j]*x[j] is added (fused multiply-add) for j = 0..k in
 * steps of L, the tail with lanes masked to zero, reduced at the end by one fixed tree (`reduce` of the tier). The weight is
 * first made an f32 exactly as the tier's dequant of that type gives it. So dot_rows[type] equals dequant[type] followed by
 * matmul_f32 to the bit, for any number of rows and tokens, and a batch equals its members. Speed comes from several rows (or
 * tokens) at once, not from several accumulators for one product. ref sums in double, in order.
 *
 * Weights (void pointers) may have any alignment: they lie in a mapped file. Nothing fails, nothing allocates; safe from several
 * threads on disjoint outputs. Sizes may be 0. */
#ifndef SHK_CPU_KERNELS_H
#define SHK_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "cpu/gathered.h"
#include "cpu/packed.h"
#include "file/types.h"

/* y[i] = sum_j w[row(i)][j] * x[j];   row(i) = ids ? ids[i] : i
 *   y [n]   w rows of k values of the type, `stride` bytes apart   ids [n] or NULL   x [k]   k a multiple of the type's block */
typedef void shk_dot_rows_fn(float *y, const void *w, size_t stride, const uint32_t *ids, size_t n, const float *x, size_t k);

/* y[j] += sum_i c[i] * w[row(i)][j], i in order, one fused multiply-add each.   y [k]   c [n] */
typedef void shk_axpy_rows_fn(float *y, const void *w, size_t stride, const uint32_t *ids, const float *c, size_t n, size_t k);

/* The same for several tokens, to the bit, of rows that follow each other; what follows them may be fetched ahead.
 *   y[t*ldy + i] = w_i . x[t*ldx ..]            y[t*ldy + j] += sum_i c[t*ldc + i] * w_i[j] */
typedef void shk_dot_many_fn(float *y, size_t ldy, const void *w, size_t n, const float *x, size_t ldx, size_t tokens, size_t k);
typedef void shk_axpy_many_fn(float *y, size_t ldy, const void *w, size_t n, const float *c, size_t ldc, size_t tokens, size_t k);

/* y[0..k) = the row as f32 */
typedef void shk_dequant_fn(float *y, const void *w, size_t k);

/* y[t*ldy + i] = sum_j w[i*ldw + j] * x[t*ldx + j]   i < n, t < tokens, j < k; leading dimensions in values */
typedef void shk_matmul_f32_fn(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, size_t n,
                               size_t tokens, size_t k);

/* x [k] as the products of a packed type read it: out [k / 32] shk_xblock or [k] bf16 (packed.h).   k a multiple of 32 */
typedef void shk_round_x_fn(void *out, const float *x, size_t k);

/* y[t*ldy + i] = w[i] . x[t] for n rows of a packed matrix.
 *   w ceil(n / 16) groups   x [tokens, k], rounded; bf16: up to the next multiple of 16 tokens may be read   y [tokens, n], rows
 *   ldy apart */
typedef void shk_dot_packed_fn(float *y, size_t ldy, const void *w, size_t n, const void *x, size_t tokens, size_t k);

/* y = x * rsqrt(mean(x^2) + eps) * w;   w [n] or NULL for ones; y may be x. The sum of squares is made in double. */
typedef void shk_rmsnorm_fn(float *y, const float *x, const float *w, size_t n, float eps);

/* y = gelu(g) * u, tanh approximation; u NULL: ones; y may be g or u. To 4 ulp of |g| against the exact tanh form. */
typedef void shk_gelu_mul_fn(float *y, const float *g, const float *u, size_t n);

/* x = exp(x - max x) / sum, in place; -inf entries become 0; at least one entry finite. n > 0. */
typedef void shk_softmax_fn(float *x, size_t n);

/* x = exp(x - max x), in place; returns the sum, which is at least 1, and sets *max = max x. n > 0. */
typedef float shk_exp_sum_fn(float *x, size_t n, float *max);

/* y = a * y + b * x, the second product and the sum fused; x may be y. */
typedef void shk_fold_fn(float *y, float a, const float *x, float b, size_t n);

/* y[t*ldy + j] = sum_i c[t*ldc + i] * w[i*ldw + j]   i < n, t < tokens, j < k: to the bit what axpy_rows of f32 adds to zeros */
typedef void shk_mix_f32_fn(float *y, size_t ldy, const float *w, size_t ldw, const float *c, size_t ldc, size_t n, size_t tokens,
                            size_t k);

/* Elementwise, y may be x. */
typedef void shk_map_fn(float *y, const float *x, size_t n);
typedef void shk_softcap_fn(float *x, size_t n, float cap);              /* cap * tanh(x / cap) in place */
typedef void shk_add_fn(float *y, const float *x, size_t n);              /* y += x */
typedef void shk_mul_fn(float *y, const float *a, const float *b, size_t n); /* y = a * b; y may be either */

/* *mean = mean x, *std = sqrt(sum (x - mean)^2 / (n - ddof)), in double or better than f32 in effect; two passes. n > ddof. */
typedef void shk_moments_fn(const float *x, size_t n, unsigned ddof, double *mean, double *std);

/* ids of the x[i] > theta, ascending; returns how many; ids has room for n. NaN is not greater. */
typedef size_t shk_select_fn(uint32_t *ids, const float *x, size_t n, float theta);

/* Rotates pairs (i, i + half): a*cos - b*sin, b*cos + a*sin, in place.   x [2*half]   cos, sin [half] */
typedef void shk_rope_fn(float *x, const float *cos, const float *sin, size_t half);

/* One step of a depthwise causal convolution (Griffin, sec. 2.4).
 *   y [w] = b + sum_{k < taps-1} tail[k] * c[k] + x * c[taps-1];   then tail = tail[1..] with x appended
 *   tail [taps-1, w] the inputs before, oldest first, updated   c [taps, w] tap-major   b [w]   y may be x */
typedef void shk_conv1d_step_fn(float *y, float *tail, const float *x, const float *c, const float *b, size_t w, size_t taps);

/* One RG-LRU step with its gates (Griffin, eq. 1 to 4).
 *   log a = -8 * sigmoid(ra) * softplus_lambda;  a = exp(log a);  m = sqrt(-expm1(2 log a));  h = a*h + m*(sigmoid(ia)*x)
 *   y [w] = h   h [w] f32 state, updated   x [w] input   ia, ra [w] gate pre-activations   sl [w] softplus(lambda), precomputed
 *   first: a = 0 and m = 1 (the start of a document).   y may be x, ia or ra. */
typedef void shk_rglru_step_fn(float *y, float *h, const float *x, const float *ia, const float *ra, const float *sl, size_t w,
                               int first);

/* ---- training ---- */

/* A tile of a product of packed matrices.  c[r*ldc + j] = (add ? c : 0) + sum_i a[i*ROWS + r] * b[i*COLS + j]
 *   a [k, SHK_GEMM_ROWS]   b [k, SHK_GEMM_COLS], 64-byte aligned as a is   r < rows, j < cols: the rest of c is not touched.
 * Each sum is made in the order of i from zero, one fused multiply-add a term, and then added to c. */
enum { SHK_GEMM_ROWS = 12, SHK_GEMM_COLS = 32 };
typedef void shk_gemm_tile_fn(float *c, size_t ldc, const float *a, const float *b, size_t k, size_t rows, size_t cols, int add);

/* Factors in bf16, where a tier has such products; without, these two are NULL. A word is two values that follow each other along
 * k, the first in its low half. Makes a panel of SHK_GEMM_BF16_ROWS lines, [line, word] or, `across`, [word, line].
 *   from   line l's i-th value is from[l*line + i*deep]; it is rounded to nearest even
 * Zeros stand for lines that are missing, and fill k up to a multiple of SHK_GEMM_BF16_DEEP. */
enum { SHK_GEMM_BF16_ROWS = 32, SHK_GEMM_BF16_COLS = 32, SHK_GEMM_BF16_DEEP = 32 };
typedef void shk_gemm_pack_bf16_fn(uint32_t *to, const float *from, size_t lines, size_t k, size_t line, size_t deep, int across);
/* c[r*ldc + j] += sum_i a[r][i] b[i][j]
 *   a  a panel     b  panels packed across, as many as `cols` want     k  filled up     r < rows, at most a panel's; j < cols
 * The rest of c is not touched. One order for each sum, each term and each sum rounded once; denormals may count as zeros. */
typedef void shk_gemm_panel_bf16_fn(float *c, size_t ldc, const uint32_t *a, const uint32_t *b, size_t k, size_t rows, size_t cols);

/* dg = dy * u * gelu'(g);  du = dy * gelu(g)        u NULL: ones; du NULL or dy; dg may be g or dy */
typedef void shk_gelu_mul_grad_fn(float *dg, float *du, const float *dy, const float *g, const float *u, size_t n);

/* y = exp(x - s); y may be x. -inf gives 0. */
typedef void shk_exp_fn(float *y, const float *x, float s, size_t n);

/* y = dy * sigmoid(x), the gradient of softplus; y may be dy or x */
typedef void shk_softplus_grad_fn(float *y, const float *dy, const float *x, size_t n);

/* One step back through shk_rglru_step. On entry carry [w] is the part of d h_t that comes from the step after; on return the part
 * of d h_(t-1) that goes to the one before. With dh = dy + carry, i = sigmoid(ia), r = sigmoid(ra), h the state before the step:
 *   dx = dh m i;  dia = dh m x i (1-i);  dl = dh h a - dh i x a^2 / max(m, 1/2000)        (the derivative of sqrt is at most 1000)
 *   dra = -8 sl dl r (1-r);  dsl += -8 r dl;  carry = dh a
 *   h NULL: the start of a document: a = 0, m = 1, dra = 0.   dsl [w] f64   dia may be dy */
typedef void shk_rglru_grad_step_fn(float *dx, float *dia, float *dra, double *dsl, float *carry, const float *dy, const float *h,
                                    const float *x, const float *ia, const float *ra, const float *sl, size_t w);

/* y = max(x - theta, 0), or x where theta is -inf; returns how many x are above theta. A NaN stays one and does not count. */
typedef size_t shk_subtract_fn(float *y, const float *x, float theta, size_t n);

/* dx = r (w dy - x r^2 mean(w dy x)) with r = rsqrt(mean(x^2) + eps), which is returned. Sums are made in double. */
typedef float shk_rmsnorm_grad_fn(float *dx, const float *dy, const float *x, const float *w, size_t n, float eps);

/* p = p (dp - dot) (1 - (s / cap)^2): from weights to the gradient of scores s; inverse_cap 0: no cap */
typedef void shk_softmax_grad_fn(float *p, const float *dp, float dot, const float *s, float inverse_cap, size_t n);

/* One step of AdamW (ops.h). */
struct shk_adamw;
typedef void shk_adamw_fn(float *w, float *m, float *v, const float *g, size_t n, const struct shk_adamw *a);

/* For measuring the machine, not a model. probe_fma: `rounds` of independent fused multiply-adds in registers, returns how many
 * floating-point operations that was. probe_read: reads n bytes once, in order. *sink keeps a compiler from leaving it out;
 * below 1 on entry it keeps probe_fma's numbers finite. */
typedef double shk_probe_fma_fn(float *sink, size_t rounds);
typedef void shk_probe_read_fn(float *sink, const void *data, size_t n);

typedef struct shk_kernels {
    const char *tier; /* "ref", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx", "neon" */
    shk_dot_rows_fn *dot_rows[SHK_TYPE_COUNT];   /* every type that shk_dequant_row knows; NULL otherwise */
    shk_axpy_rows_fn *axpy_rows[SHK_TYPE_COUNT];
    shk_dequant_fn *dequant[SHK_TYPE_COUNT];
    shk_dot_packed_fn *dot_packed[SHK_TYPE_COUNT]; /* NULL: no packed form, or none that is faster here */
    shk_round_x_fn *round_x[SHK_TYPE_COUNT];
    shk_dot_many_fn *dot_many[SHK_TYPE_COUNT];   /* f32, bf16, q8_0: what sessions keep keys and values in */
    shk_axpy_many_fn *axpy_many[SHK_TYPE_COUNT];
    shk_row_scales_fn *row_scales[SHK_TYPE_COUNT]; /* NULL: not of integers; these three go together */
    shk_dot_gathered_fn *dot_gathered[SHK_TYPE_COUNT];
    shk_axpy_gathered_fn *axpy_gathered[SHK_TYPE_COUNT];
    shk_gemm_pack_bf16_fn *gemm_pack_bf16;
    shk_gemm_panel_bf16_fn *gemm_panel_bf16;
    shk_matmul_f32_fn *matmul_f32;
    shk_rmsnorm_fn *rmsnorm;
    shk_gelu_mul_fn *gelu_mul;
    shk_softmax_fn *softmax;
    shk_exp_sum_fn *exp_sum;
    shk_fold_fn *fold;
    shk_mix_f32_fn *mix_f32;
    shk_map_fn *softplus; /* log(1 + e^x), without overflow */
    shk_softcap_fn *softcap;
    shk_add_fn *add;
    shk_mul_fn *mul;
    shk_moments_fn *moments;
    shk_select_fn *select;
    shk_rope_fn *rope;
    shk_conv1d_step_fn *conv1d_step;
    shk_rglru_step_fn *rglru_step;
    shk_gemm_tile_fn *gemm_tile;
    shk_gelu_mul_grad_fn *gelu_mul_grad;
    shk_exp_fn *exp;
    shk_softplus_grad_fn *softplus_grad;
    shk_rglru_grad_step_fn *rglru_grad_step;
    shk_subtract_fn *subtract;
    shk_rmsnorm_grad_fn *rmsnorm_grad;
    shk_softmax_grad_fn *softmax_grad;
    shk_adamw_fn *adamw;
    shk_probe_fma_fn *probe_fma;
    shk_probe_read_fn *probe_read;
} shk_kernels;

/* Fills the table for the instruction sets in `cpu` (file cpu/detect.h). */
void shk_cpu_kernels(shk_kernels *k, unsigned cpu);

#endif
