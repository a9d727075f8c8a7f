/* The CPU as a device: kernels, threads, and buffers for what does not live between ops. */
#ifndef SHK_CPU_DEVICE_H
#define SHK_CPU_DEVICE_H

#include "cpu/kernels.h"
#include "cpu/pool.h"
#include "mem.h"
#include "ops.h"

/* Values of f32 scratch a thread has: rows of weights made f32 for several tokens, or one row's active neurons. */
enum { SHK_CPU_SCRATCH = 256 * 1024 };

/* The most bytes of a row of rounded activations: a matrix has at most 2^18 columns (model/weights.c). */
enum { SHK_CPU_ROUNDED = (1 << 18) * sizeof(uint16_t) };

/* What attention needs between its loops (ops_attention.c), and for how much it is enough. */
typedef struct shk_attention_room {
    size_t positions, heads, group, head_dim; /* group: query heads that share a key */
    float *scratch; /* [threads, .] */
    float *shares;  /* of chunks, until they are folded */
    float *scores;  /* [., positions] spark attention's */
    float *part;    /* [threads, positions] second scores of the kept */
    uint32_t *ids;  /* [threads, positions] the kept */
    void *memory;
    size_t bytes;
} shk_attention_room;

typedef struct shk_cpu {
    shk_kernels k;
    shk_pool *pool;
    int threads;
    float *scratch;      /* [threads, SHK_CPU_SCRATCH] */
    char *rounded;       /* [SHK_PASS_ROWS, SHK_CPU_ROUNDED] the activations that meet a packed matrix */
    shk_arena *packed;   /* matrices in the form of packed.h */
    shk_attention_room room;
    bool bf16;           /* training: factors of products are rounded to bf16 */
    shk_work work;       /* counted by the ops, on the thread that issues them */
} shk_cpu;

/* Notes that a matrix was read and, for each of T tokens, multiplied by. */
static inline void shk_cpu_note(shk_cpu *cpu, const shk_mat *m, size_t rows, size_t T) {
    cpu->work.weight_bytes += (double)rows * (double)m->stride;
    cpu->work.flops += 2.0 * (double)rows * (double)m->cols * (double)T;
}

/* What ops.c has that other files use too. */
void shk_cpu_rmsnorm(void *dev, float *y, const float *x, const float *w, size_t rows, size_t n, float eps);
void shk_cpu_add(void *dev, float *y, const float *x, size_t n);
void shk_cpu_scale(void *dev, float *x, size_t n, float s);
void shk_cpu_gelu_mul(void *dev, float *y, const float *g, const float *u, size_t n);
void shk_cpu_linear(void *dev, float *y, const float *x, size_t ldx, const shk_mat *W, const float *b, size_t T);

extern const shk_train_ops shk_cpu_train_ops; /* ops_grad.c */

/* The ops that have files of their own: ops_attention.c, ops_best.c, ops_recurrent.c, ops_sparse.c. */
shk_status shk_cpu_reserve(void *dev, uint64_t positions, size_t heads, size_t kv_heads, size_t head_dim, shk_error *err);
size_t shk_cpu_coarse_bytes(void *dev, const shk_mat *W);
shk_status shk_cpu_coarsen(void *dev, shk_mat *W, shk_error *err);
bool shk_cpu_linear_best(void *dev, float *y, const float *x, const shk_mat *W, float cap, const shk_wanted *wanted, size_t T);
void shk_cpu_attention(void *dev, float *o, const float *q, const float *k, const float *v, const shk_pass *pass,
                       const shk_attention *a);
void shk_cpu_spark_attention(void *dev, float *o, uint32_t *kept, const float *q, const float *k, const float *v,
                             const shk_pass *pass, const shk_attention *a);
void shk_cpu_conv1d(void *dev, float *y, const float *x, const float *c, const float *b, const shk_pass *pass, size_t layer,
                    size_t w, size_t taps);
void shk_cpu_rglru(void *dev, float *y, const float *x, const float *ia, const float *ra, const float *sl, const shk_pass *pass,
                   size_t layer, size_t w);
void shk_cpu_block_linear(void *dev, float *y, const float *x, const shk_mat *W, const float *bias, size_t blocks, size_t T);
void shk_cpu_sparsify(void *dev, shk_active *out, const float *s, size_t T, size_t n, const shk_sparsity *how);
void shk_cpu_sparse_glu(void *dev, float *y, shk_active *active, const float *x, size_t ldx, const shk_mat *U, const shk_mat *Vt,
                        size_t T);
void shk_cpu_sparse_up(void *dev, float *h, shk_active *active, const float *x, size_t ldx, const shk_mat *U, size_t T);
void shk_cpu_altup_predict(void *dev, float *y, const float *x, const float *coef, size_t n, size_t T, size_t d);
void shk_cpu_altup_correct(void *dev, float *x, const float *activated, const float *coef, size_t active, size_t n, size_t T,
                           size_t d);
void shk_cpu_match_rms(void *dev, float *y, const float *x, size_t T, size_t d);

/* theta of the entries x [n]; -inf where n <= k or n <= ddof; a NaN where one of them is not finite. */
float shk_cpu_threshold(const shk_cpu *cpu, const float *x, size_t n, double k, unsigned ddof);

#endif
