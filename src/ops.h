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
    bool rounded;  /* sparse ops may round what they multiply by integers */
    bool packed;   /* data is in the device's own form: what `prepare` has made; stride is then the bytes of a row on average */
    bool by_rows;  /* before `prepare`: single rows will be read, or blocks of them (block_linear) */
    const struct shk_coarse *coarse; /* the device's: what `coarsen` has made; NULL: linear_best cannot be used */
} shk_mat;

/* Which of a row's values somebody needs: those at least the k-th largest less `drop`. */
typedef struct shk_wanted {
    size_t k; /* 0: all values */
    double drop;
} shk_wanted;

/* What `sample` does to a row of logits: the steps of shk_sampler_sample with its next random number. All 0: the largest is wanted.
 * Host memory. */
typedef struct shk_draw {
    const shk_bias *bias;   /* [n_bias] by id; those of one id are added one after the other */
    const shk_bias *recent; /* [n_recent] each id once: by repeat_penalty it is divided or multiplied, and then this is added */
    size_t n_bias, n_recent;
    float temperature, top_p, min_p, repeat_penalty;
    int top_k;
    double u; /* in [0, 1) */
} shk_draw;

/* What a device has room for: of biases and recent ids in a pass, of top_k in a row where it is below the vocabulary. */
enum { SHK_DRAW_BIASES = 4096, SHK_DRAW_TOP_K = 1024 };

typedef struct shk_choice {
    int32_t id;     /* -1: the host must look at the row: no token may be chosen, or there is no room to sort what must be sorted */
    int32_t finite; /* whether all logits are, before biases */
    int32_t drawn;  /* whether u was used */
} shk_choice;

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
    const uint32_t *outputs; /* [n_outputs] rows whose logits are wanted, host memory */
    size_t n_outputs;
    const shk_draw *draws; /* [n_outputs] what `sample` does; NULL: the largest of each row is wanted */
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
    const char *name;  /* "cpu", "cuda" */
    size_t logit_rows; /* rows of logits that are best computed at once */

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
    /* Before the ops of a pass, whose sequences have states of n_layers layers. `replay`: every pass of this shape that is begun so
     * has the same ops, with the same arguments but for the pass. true: the device runs them again by itself. */
    bool (*begin)(void *dev, const shk_pass *pass, size_t n_layers, bool replay);
    /* After them. `wait`: results are there, and failures known; else an error may show after a later pass, or when this is called
     * again. */
    shk_status (*end)(void *dev, bool wait, shk_error *err);
    void (*close)(void *dev); /* NULL is allowed */

    /* Puts a matrix that linear or embed will read into the form that suits the device, and lets go of the file's pages. Where a
     * quantized one changes, linear rounds activations to 8 bits. The memory is the device's. */
    shk_status (*prepare)(void *dev, shk_mat *W, shk_error *err);
    /* Where the device has memory of its own: makes *v, n values of the host, the address of its copy. NULL elsewhere; where it is
     * not NULL every matrix must be prepared. */
    shk_status (*place)(void *dev, const float **v, size_t n, shk_error *err);
    /* For a matrix whose largest products alone are wanted: sets W->coarse, a smaller copy that tells which rows those can be.
     * coarse_bytes: what that takes, 0 where the device has none for such a matrix. All three NULL: it has none at all. */
    size_t (*coarse_bytes)(void *dev, const shk_mat *W);
    shk_status (*coarsen)(void *dev, shk_mat *W, shk_error *err);
    /* linear, then softcap (cap 0: none), but only where a value is wanted; -inf elsewhere. What is given is finite and has the
     * same bits. false: nothing is known of these rows (a value that is not finite, say) and y is not to be used.
     *   y [T, W.rows]   x [T, W.cols]   wanted [T] host memory, no k of 0 */
    bool (*linear_best)(void *dev, float *y, const float *x, const shk_mat *W, float cap, const shk_wanted *wanted, size_t T);

    /* x[t] = scale * E[tokens[t]], or E[0] where E ends before it   x [T, E.cols] */
    void (*embed)(void *dev, float *x, const shk_mat *E, const shk_pass *pass, float scale);
    /* y = x * rsqrt(mean x^2 + eps) * w                     x, y [rows, n] (y may be x)   w [n] or NULL */
    void (*rmsnorm)(void *dev, float *y, const float *x, const float *w, size_t rows, size_t n, float eps);
    /* y[t] = W x[t] + b                                     y [T, W.rows]   x T rows of W.cols, ldx apart   b [W.rows] or NULL */
    void (*linear)(void *dev, float *y, const float *x, size_t ldx, const shk_mat *W, const float *b, size_t T);
    /* y[t, o] = sum_i x[t, b, i] W[b, i, o] + bias[o]       block-diagonal; W [blocks * in, out]   x [T, blocks * in] */
    void (*block_linear)(void *dev, float *y, const float *x, const shk_mat *W, const float *bias, size_t blocks, size_t T);
    /* y += x                                                [n] */
    void (*add)(void *dev, float *y, const float *x, size_t n);
    /* y = a * w, each row                                   a, y [rows, n] (y may be a)   w [n] */
    void (*mul_rows)(void *dev, float *y, const float *a, const float *w, size_t rows, size_t n);
    /* x *= s                                                [n] */
    void (*scale)(void *dev, float *x, size_t n, float s);
    /* y[i] = x[outputs[from + i]]                           y [n, d] */
    void (*gather)(void *dev, float *y, const float *x, const shk_pass *pass, size_t from, size_t n, size_t d);
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
    /* Chooses from the logits of output rows [from, from + rows), adding the biases of their draws to them. NULL where logits are
     * the host's.                                            choice [rows]   x [rows, n] */
    void (*sample)(void *dev, shk_choice *choice, float *x, const shk_pass *pass, size_t from, size_t rows, size_t n);

    const struct shk_train_ops *train; /* NULL: the device cannot train */
} shk_ops;

/* ---- training ---- */

/* Rows for training: B sequences of T tokens, N = B T in all; token t of sequence b is row b T + t. A sequence holds documents, or
 * pieces of them, one after the other: positions count from each one's start, and nothing passes from one to the next. Device
 * memory. */
typedef struct shk_batch {
    size_t B, T;
    const int32_t *tokens;  /* [N] */
    const int32_t *targets; /* [N] the token to predict; -1: none */
    const int32_t *first;   /* [N] the t at which t's document begins */
} shk_batch;

/* A value of an activation or of its gradient; parameters and their gradients are f32 always. A device whose activations are
 * smaller says so (`begin`): only its ops look at values, and the graph steps over them by that many bytes. */
typedef float shk_act;

/* What the forward op of a threshold leaves for its gradient, and what is worth recording: one for each row (and head). */
typedef struct shk_threshold {
    float mean, std, theta; /* theta -inf: all are active */
    float active;           /* how many are */
} shk_threshold;

typedef struct shk_adamw {
    float rate, beta1, beta2, eps, decay;
    float correct1, correct2; /* 1 - beta^step of each */
    float scale;              /* of the gradient */
} shk_adamw;

/* Forward ops over a whole batch, where shk_ops would go through a session's state, and the gradient beside each. d names the
 * gradient of the loss by what follows it. Gradients of activations are written, those of parameters added to. Sums over rows have
 * one order for any number of threads. */
typedef struct shk_train_ops {
    size_t logits; /* values of logits that are best computed at once */

    /* How products are computed from now on: SHK_F32, or SHK_BF16 (factors rounded to it, sums in f32). Returns the bytes of a
     * shk_act; 0: the device has no such type. */
    size_t (*begin)(void *dev, shk_type compute);
    /* The parameters w [n] have values that adamw has not given them: copies of them that products read are made anew. */
    void (*refresh)(void *dev, const float *w, size_t n);
    void (*zero)(void *dev, void *p, size_t bytes);

    /* x[i] = scale * E[tokens[i]]                               x [N, E.cols] */
    void (*embed)(void *dev, shk_act *x, const shk_mat *E, const int32_t *tokens, size_t N, float scale);
    void (*embed_grad)(void *dev, float *dE, const shk_act *dx, const int32_t *tokens, size_t N, size_t d, float scale);

    /* y = W x + b                                               as shk_ops.linear, y [N, W.rows] */
    void (*linear)(void *dev, shk_act *y, const shk_act *x, size_t ldx, const shk_mat *W, const float *b, size_t N);
    /* dx = W^T dy, or dx += where `add`                         dx N rows of W.cols, ldx apart */
    void (*linear_grad_x)(void *dev, shk_act *dx, size_t ldx, const shk_act *dy, const shk_mat *W, size_t N, bool add);
    /* dW += dy x^T, db += sum of dy                             dW [rows, cols]   db [rows] or NULL */
    void (*linear_grad_w)(void *dev, float *dW, float *db, const shk_act *dy, const shk_act *x, size_t ldx, size_t rows,
                          size_t cols, size_t N);
    /* Block-diagonal, as shk_ops.block_linear: y, x [N, blocks * n], W [blocks * n, n]. The gradient of x may be added to. */
    void (*block_linear)(void *dev, shk_act *y, const shk_act *x, const shk_mat *W, const float *b, size_t blocks, size_t N);
    void (*block_linear_grad)(void *dev, shk_act *dx, float *dW, float *db, const shk_act *dy, const shk_act *x, const shk_mat *W,
                              size_t blocks, size_t N, bool add);

    /* As shk_ops has them; what rmsnorm gives is added to `to` (NULL: zeros). */
    void (*rmsnorm)(void *dev, shk_act *y, const shk_act *x, const float *w, const shk_act *to, size_t rows, size_t n, float eps);
    void (*add)(void *dev, shk_act *y, const shk_act *x, size_t n);
    void (*scale)(void *dev, shk_act *x, size_t n, float s);
    void (*gelu_mul)(void *dev, shk_act *y, const shk_act *g, const shk_act *u, size_t n);
    /* With r = rsqrt(mean x^2 + eps):  dx = r (w dy - x r^2 mean(w dy x)),  dw += sum over rows of dy x r   (dw may be NULL)
     * and dx += where `add` */
    void (*rmsnorm_grad)(void *dev, shk_act *dx, float *dw, const shk_act *dy, const shk_act *x, const float *w, size_t rows,
                         size_t n, float eps, bool add);
    /* dg = dy u gelu'(g),  du = dy gelu(g), and y again         [n]; du may be dy */
    void (*gelu_mul_grad)(void *dev, shk_act *dg, shk_act *du, shk_act *y, const shk_act *dy, const shk_act *g, const shk_act *u,
                          size_t n);

    /* y = gelu(max(s - theta(s), 0)) u                          y, s, u [N, n]   th [N] */
    void (*topk_gelu_mul)(void *dev, shk_act *y, shk_threshold *th, const shk_act *s, const shk_act *u, size_t N, size_t n,
                          const shk_sparsity *how);
    /* theta has a gradient too: d theta / d s_j = 1/n + Q (s_j - mean) / ((n - ddof) std).      du may be dy; y again */
    void (*topk_gelu_mul_grad)(void *dev, shk_act *ds, shk_act *du, shk_act *y, const shk_act *dy, const shk_threshold *th,
                               const shk_act *s, const shk_act *u, size_t N, size_t n, const shk_sparsity *how);

    /* Rotates x [N, heads, head_dim] as shk_ops.rope does; table [T, 2, half] by the position in the document. `back`: by the
     * opposite angles, which is the gradient. */
    void (*rope)(void *dev, shk_act *x, const float *table, const shk_batch *b, size_t half, size_t heads, size_t head_dim,
                 size_t offset, bool back);

    /* Bytes of working memory of the next two. */
    size_t (*attention_work)(void *dev, const shk_batch *b, const shk_attention *a);
    /* Attention within documents: heads, kv_heads, head_dim, window, softcap, rank, k and ddof of `a` count (rank > 0: spark).
     *   o, q [N, heads, head_dim]   k, v [N, kv_heads, head_dim]   lse [N, heads] log-sum-exp of the scores attended to
     *   th [N, heads], spark alone. The choice of positions has no gradient. */
    void (*attention)(void *dev, shk_act *o, float *lse, shk_threshold *th, const shk_act *q, const shk_act *k, const shk_act *v,
                      const shk_batch *b, const shk_attention *a, void *work);
    void (*attention_grad)(void *dev, shk_act *dq, shk_act *dk, shk_act *dv, const shk_act *dy, const shk_act *o, const float *lse,
                           const shk_threshold *th, const shk_act *q, const shk_act *k, const shk_act *v, const shk_batch *b,
                           const shk_attention *a, void *work);

    /* Depthwise causal convolution within documents.            y, x [N, w]   c [taps, w]   bias [w] */
    void (*conv1d)(void *dev, shk_act *y, const shk_act *x, const float *c, const float *bias, const shk_batch *b, size_t w,
                   size_t taps);
    void (*conv1d_grad)(void *dev, shk_act *dx, float *dc, float *dbias, const shk_act *dy, const shk_act *x, const float *c,
                        const shk_batch *b, size_t w, size_t taps);
    /* RG-LRU within documents (kernels.h: rglru_step).          y, x, ia, ra [N, w]   lambda [w], before its softplus */
    void (*rglru)(void *dev, shk_act *y, const shk_act *x, const shk_act *ia, const shk_act *ra, const float *lambda,
                  const shk_batch *b, size_t w);
    /* kernels.h: rglru_grad_step.                               dia may be dy */
    void (*rglru_grad)(void *dev, shk_act *dx, shk_act *dia, shk_act *dra, float *dlambda, const shk_act *dy, const shk_act *y,
                       const shk_act *x, const shk_act *ia, const shk_act *ra, const float *lambda, const shk_batch *b, size_t w);

    /* Cross-entropy of rows of logits z, capped by cap * tanh(z / cap) where cap > 0:
     *   loss[i] = log sum exp(z) - z[target],  plus z_weight (log sum exp(z))^2;  0 without a target.
     * The logits become scale * d loss / d logits.              z [N, V]   loss [N] without the second term */
    void (*cross_entropy)(void *dev, float *loss, shk_act *z, const int32_t *targets, size_t N, size_t V, float cap, float z_weight,
                          float scale);

    /* Sum of squares in f64. */
    double (*sum_squares)(void *dev, const float *x, size_t n);
    /* One step of AdamW (Loshchilov and Hutter), with g = scale * gradient:
     *   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w -= rate (m/c1 / (sqrt(v/c2) + eps) + decay w)         [n] */
    void (*adamw)(void *dev, float *w, float *m, float *v, const float *g, size_t n, const shk_adamw *a);
} shk_train_ops;

/* The CPU's table; *dev is its context, with a pool of `threads` threads (0: one for each CPU that the process may use). */
shk_status shk_cpu_open(const shk_ops **ops, void **dev, int threads, shk_error *err);
/* That of the calling thread's current NVIDIA GPU: the first, if nobody has chosen another. SHK_E_DEVICE: there is none, its driver
 * is too old, or the library was built without CUDA. */
shk_status shk_cuda_open(const shk_ops **ops, void **dev, shk_error *err);
/* shk_probe of each. */
shk_status shk_cpu_probe(shk_ceilings *out, int threads, shk_error *err);
shk_status shk_cuda_probe(shk_ceilings *out, shk_error *err);
/* Q(p), the standard normal quantile: -inf at or below 0, +inf at or above 1. To 1e-13 relative. */
double shk_normal_quantile(double p);

#endif
