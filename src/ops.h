/* The op table: everything that model code asks of a device. A device is one filled table and its context.
 *
 * Activations are f32, row-major, one row a token; `T` rows belong to the sequences of a shk_pass. Pointers named x, y, q... are
 * device memory from `alloc`; on the CPU that is ordinary memory. An op's outputs do not overlap its inputs unless it says so. Ops
 * run in the order of the calls and cannot fail; each result depends on its own row and its sequence's state only, so that any
 * division of tokens into passes gives the same bits. One thread issues ops to a device context at a time. */
#ifndef SHK_OPS_H
#define SHK_OPS_H

#include <stdbool.h>

#include "error.h"
#include "file/types.h"

/* A matrix of rows x cols in row-major order; rows are whole blocks of the type. */
typedef struct shk_mat {
    const void *data; /* NULL: the model has none */
    shk_type type;
    size_t rows, cols;
    size_t stride; /* bytes from a row to the next */
    bool packed;   /* data is in the device's own form: what `prepare` has made; stride is then the bytes of a row on average */
} shk_mat;

/* Where one layer keeps its part of a session's state: byte offsets from the session's base. Attention: rings of `ring` slots;
 * position p is at slot p % ring. A row is whole blocks of `type`; rows follow each other without a gap. A query sees itself and
 * others only as they are in the ring, rounded to its type. Spark attention keeps the two parts of a key apart. */
typedef struct shk_state_layer {
    shk_type type; /* of k, k2 and v; h and conv are f32 */
    size_t ring;
    size_t k;    /* [kv_heads, ring, head_dim], or the first `rank` dims of it for spark */
    size_t k2;   /* [kv_heads, ring, head_dim - rank]; spark only */
    size_t v;    /* [kv_heads, ring, head_dim] */
    size_t h;    /* [width]            recurrent */
    size_t conv; /* [taps - 1, width]  recurrent: the inputs before, oldest first */
} shk_state_layer;

/* Rows [row, row + n) of a pass continue one sequence at position pos. */
typedef struct shk_seq {
    size_t row, n;
    uint64_t pos;
    char *state;                   /* device memory */
    const shk_state_layer *layers; /* [model's layers], host memory */
} shk_seq;

/* The most rows of a pass. */
enum { SHK_PASS_ROWS = 128 };

typedef struct shk_pass {
    size_t T;              /* 1 to SHK_PASS_ROWS */
    const int32_t *tokens; /* [T] host memory */
    const shk_seq *seqs;   /* [n_seqs], rows ascending and complete */
    size_t n_seqs;
} shk_pass;

typedef struct shk_attention {
    size_t heads, kv_heads, head_dim;
    size_t window;     /* positions attended to, the current one included; 0: all */
    float softcap;     /* cap * tanh(s / cap) on the scores; 0: none */
    size_t rank;       /* spark: dims of the predictor part */
    double k;          /* spark: the target number of positions */
    unsigned ddof;     /* spark: of the standard deviation */
    size_t layer;      /* whose state to use */
    bool write;        /* k and v are new and go into the state; false: another layer has put them there already */
} shk_attention;

/* A pass is written into a ring whole before its first token attends: a ring that wraps has at least window + SHK_PASS_ROWS - 1
 * slots. They are a multiple of SHK_ATTENTION_CHUNK, so that positions [c, c + 1) * SHK_ATTENTION_CHUNK follow each other. */
enum { SHK_ATTENTION_CHUNK = 128 };

typedef struct shk_sparsity {
    double k;      /* target number of active entries of n */
    unsigned ddof; /* of the standard deviation */
    bool dense;    /* treat every entry as active: same result, no work skipped */
} shk_sparsity;

/* The active entries of T rows: what `sparsify` finds and `sparse_glu` uses. Device memory but for `max`. */
typedef struct shk_active {
    uint32_t *ids; /* [T, max] ascending */
    float *value;  /* [T, max] s - theta > 0 */
    uint32_t *n;   /* [T] how many of a row's max places are used */
    size_t max;
} shk_active;

typedef struct shk_ops {
    const char *name; /* "cpu" */

    /* What the ops have read and computed since the context was opened. */
    shk_work (*work)(const void *dev);

    /* Zeroed memory; NULL on failure. */
    void *(*alloc)(void *dev, size_t bytes);
    void (*release)(void *dev, void *p, size_t bytes);
    void (*download)(void *dev, void *host, const void *p, size_t bytes);
    void (*upload)(void *dev, void *p, const void *host, size_t bytes);
    /* Makes room for attention of that shape over up to `positions` (address space is reserved, memory used as needed). Call before
     * an attention that reaches further than any before. */
    shk_status (*reserve)(void *dev, uint64_t positions, size_t heads, size_t kv_heads, size_t head_dim, shk_error *err);
    void (*close)(void *dev); /* NULL is allowed */

    /* Puts a matrix that linear or embed will read into the form that suits the device, and lets go of the file's pages. Where a
     * quantized one changes, linear rounds activations to 8 bits. The memory is the device's. */
    shk_status (*prepare)(void *dev, shk_mat *W, shk_error *err);

    /* x[t] = scale * E[tokens[t]]                           x [T, E.cols] */
    void (*embed)(void *dev, float *x, const shk_mat *E, const int32_t *tokens, size_t T, float scale);
    /* y = x * rsqrt(mean x^2 + eps) * w                     x, y [rows, n] (y may be x)   w [n] or NULL */
    void (*rmsnorm)(void *dev, float *y, const float *x, const float *w, size_t rows, size_t n, float eps);
    /* y[t] = W x[t] + b                                     y [T, W.rows]   x T rows of W.cols, ldx apart   b [W.rows] or NULL */
    void (*linear)(void *dev, float *y, const float *x, size_t ldx, const shk_mat *W, const float *b, size_t T);
    /* y[t, o] = sum_i x[t, b, i] W[b, i, o] + bias[o]       block-diagonal; W [blocks * in, out]   x [T, blocks * in] */
    void (*block_linear)(void *dev, float *y, const float *x, const shk_mat *W, const float *bias, size_t blocks, size_t T);
    /* y += x                                                [n] */
    void (*add)(void *dev, float *y, const float *x, size_t n);
    /* y = a * b                                             [n]; y may be either */
    void (*mul)(void *dev, float *y, const float *a, const float *b, size_t n);
    /* y = a * w, each row                                   a, y [rows, n] (y may be a)   w [n] */
    void (*mul_rows)(void *dev, float *y, const float *a, const float *w, size_t rows, size_t n);
    /* x *= s                                                [n] */
    void (*scale)(void *dev, float *x, size_t n, float s);
    /* y[i] = x[rows[i]]                                     y [n, d]   rows [n] host memory */
    void (*gather)(void *dev, float *y, const float *x, const uint32_t *rows, size_t n, size_t d);
    /* y = gelu(g) * u                                       [n]; u NULL: ones; y may be either */
    void (*gelu_mul)(void *dev, float *y, const float *g, const float *u, size_t n);
    /* x = cap * tanh(x / cap)                               [n] */
    void (*softcap)(void *dev, float *x, size_t n, float cap);

    /* y[t] = x[t, at .. at + n]                             y [T, n]   x [T, ldx] */
    void (*slice)(void *dev, float *y, const float *x, size_t T, size_t ldx, size_t at, size_t n);

    /* table[t] = cos, sin of pos(t) * freq[i]               table [T, 2, half]   freq [half] host, f64 */
    void (*rope_table)(void *dev, float *table, const double *freq, size_t half, const shk_pass *pass);
    /* Rotates dims [offset, offset + 2 half) of each head.  x [T, heads, head_dim] */
    void (*rope)(void *dev, float *x, const float *table, size_t half, size_t T, size_t heads, size_t head_dim, size_t offset);

    /* Causal attention; q is scaled already.
     *   o, q [T, heads, head_dim]   k, v [T, kv_heads, head_dim], unused if !write */
    void (*attention)(void *dev, float *o, const float *q, const float *k, const float *v, const shk_pass *pass,
                      const shk_attention *a);
    /* docs/MODEL.md, spark attention. kept [T, heads]: positions attended to. Where none passes the threshold, o is 0. */
    void (*spark_attention)(void *dev, float *o, uint32_t *kept, const float *q, const float *k, const float *v,
                            const shk_pass *pass, const shk_attention *a);

    /* Depthwise causal convolution through the state.       y, x [T, w]   c [taps, w]   b [w] */
    void (*conv1d)(void *dev, float *y, const float *x, const float *c, const float *b, const shk_pass *pass, size_t layer,
                   size_t w, size_t taps);
    /* RG-LRU through the state (kernels.h: rglru_step).      y, x, ia, ra [T, w] (y may be x)   sl [w] */
    void (*rglru)(void *dev, float *y, const float *x, const float *ia, const float *ra, const float *sl, const shk_pass *pass,
                  size_t layer, size_t w);

    /* Statistical top-k: theta = mean + std * Q(1 - k/n); keeps s > theta as (id, s - theta).      s [T, n] */
    void (*sparsify)(void *dev, shk_active *out, const float *s, size_t T, size_t n, const shk_sparsity *how);
    /* y[t] = sum over active j of  gelu(value_j) * (U[j] . x[t]) * Vt[j];  inactive rows are not read.
     *   x T rows of U.cols, ldx apart   U [n, .]   Vt [n, d]   y [T, d].   active->value is overwritten. */
    void (*sparse_glu)(void *dev, float *y, shk_active *active, const float *x, size_t ldx, const shk_mat *U, const shk_mat *Vt,
                       size_t T);
    /* The same up to the last matrix: h[t, j] = gelu(value_j) * (U[j] . x[t]), 0 where inactive.   h [T, n] */
    void (*sparse_up)(void *dev, float *h, shk_active *active, const float *x, size_t ldx, const shk_mat *U, size_t T);

    /* AltUp (Gemma 3n). x [n, T, d]; coefficients [T, n, n] and [T, n] row-major.
     *   predict:  y_j = x_j + sum_i coef[j, i] x_i            correct:  x_j += (1 + coef[j]) * (activated - x_active) */
    void (*altup_predict)(void *dev, float *y, const float *x, const float *coef, size_t n, size_t T, size_t d);
    void (*altup_correct)(void *dev, float *x, const float *activated, const float *coef, size_t active, size_t n, size_t T,
                          size_t d);
    /* y[t] *= rms(x[t]) / rms(y[t])                         x, y [T, d]; the square of the divisor is at least 1e-5 */
    void (*match_rms)(void *dev, float *y, const float *x, size_t T, size_t d);
    /* y = tanh(x)                                           [n]; y may be x */
    void (*tanh)(void *dev, float *y, const float *x, size_t n);
} shk_ops;

/* The CPU's table; *dev is its context, with a pool of `threads` threads (0: one for each CPU that the process may use). */
shk_status shk_cpu_open(const shk_ops **ops, void **dev, int threads, shk_error *err);
/* Q(p), the standard normal quantile: -inf at or below 0, +inf at or above 1. To 1e-13 relative. */
double shk_normal_quantile(double p);

#endif
